"""From a model file to a bundle: read, enumerate cuts, slice, prove, write."""

from __future__ import annotations

import logging
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import combinations
from pathlib import Path
from statistics import median

from midstream.engines import Engine, Program, engine_for
from midstream.errors import ModelError, VerificationError
from midstream.manifest import (
    CARRIERS,
    WEIGHTS_FILE,
    WHOLE,
    CodingCost,
    Costs,
    Edge,
    Graph,
    Layer,
    Manifest,
    RejectedCut,
    SliceRecord,
    edgetpu_name,
    head_name,
    middle_name,
    tail_name,
)
from midstream.tensors import Tensors
from midstream_converters import slicing
from midstream_converters.batching import proven_sizes
from midstream_converters.coding import Coded, may_code
from midstream_converters.difference import max_abs_error
from midstream_converters.edgetpu import find_compiler, maps_whole
from midstream_converters.emit import check_target, staging, write_bundle
from midstream_converters.graph import ModelGraph, Node, Slice, Source
from midstream_converters.loaded import Loaded
from midstream_converters.opening import Opened, Options, open_model
from midstream_converters.pool import Pool, proving
from midstream_converters.preparing import Prepared, prepare, read_given
from midstream_converters.proving import Proven, Prover
from midstream_converters.recipe import BundleCache, made_by, recipe_of
from midstream_converters.samples import GENERATED_SAMPLES, read_calibration
from midstream_converters.selection import Selection, select
from midstream_converters.timing import time_layers
from midstream_converters.weights import WeightStore

_log = logging.getLogger("midstream.converters")

Progress = Callable[[str, int, int], None]

# Between this many of the most useful cuts there are slices for plans of three and more stages.
MIDDLE_CUTS = 6
# For so many that can be coded there are slices that do it: each takes as long as loading the model twice.
CODED_CUTS = 2
_TIMED_RUNS = 5
# Runs of the whole model that the proof of a cut takes, alternatives included.
_RUNS_A_PROOF = 4


def convert(
    path: Path,
    target: Path,
    options: Options,
    progress: Progress = lambda _what, _done, _all: None,
    cache: BundleCache | None = None,
) -> Manifest:
    """Convert a TFLite, ONNX or Keras model and write the bundle.

    Nothing is done where the bundle of this model and these options is there already; one that ``cache`` holds is
    copied. Raises ModelError where the model cannot be sliced, InputError on wrong options, VerificationError where the
    rebuilt whole model does not give what the file gives, BundleError where the bundle cannot be written,
    MissingExtraError where a package is not installed.
    """
    check_target(target)
    progress("reading", 0, 1)
    given = read_given(path, options)
    recipe = recipe_of(given, options)
    if there := made_by(target, recipe):
        return there
    with staging(target) as folder:
        if cache is not None and (kept := cache.fetch(recipe, folder)):
            return kept
        manifest = _convert(prepare(given, options, progress), folder, options, recipe, progress)
        if cache is not None and manifest.recipe:
            cache.keep(recipe, folder)
        return manifest


def _convert(prepared: Prepared, folder: Path, options: Options, recipe: str, progress: Progress) -> Manifest:
    with WeightStore(folder / WEIGHTS_FILE) as weights:
        opened = open_model(prepared.model, options, weights)
        try:
            work = _Work(opened, options, weights, progress)
            manifest, costs = work.run(recipe)
            if prepared.quantised is not None:
                manifest = replace(manifest, quantisation=prepared.quantised.change)
                costs = replace(costs, float_ms=prepared.quantised.float_ms)
        finally:
            opened.original.close()
    return write_bundle(folder, manifest, _neutral_graph(opened.source), work.programs, costs)


@dataclass(frozen=True)
class _Reference:
    """Inputs, what the whole model answers to them, and the times of its run and of loading it."""

    samples: list[Tensors]
    expected: list[Tensors]
    whole_ms: float
    load_ms: float


class _Work:
    """One conversion: the programs made so far, and what was learned of each."""

    def __init__(self, opened: Opened, options: Options, weights: WeightStore, progress: Progress) -> None:
        self._opened = opened
        self._options = options
        self._progress = progress
        self._engine: Engine = engine_for(opened.source.engine)
        self._weights_path = weights.path
        self.programs: dict[str, bytes] = {}
        self._records: dict[str, SliceRecord] = {}
        self._coding: dict[str, CodingCost] = {}

    def run(self, recipe: str) -> tuple[Manifest, Costs]:
        """Slice and prove."""
        opened, source = self._opened, self._opened.source
        reference = self._reference()
        selection = select(source.graph, every=self._options.max_cuts is None)
        prover = Prover(
            source,
            self._engine,
            self._weights_path,
            reference.samples,
            reference.expected,
            self._options.tolerance,
            selection.all(),
        )
        self._progress("timing layers", 0, 1)
        layers_ms = time_layers(source, self._engine, self._weights_path, reference.samples[0], reference.whole_ms)
        wanted = len(selection.all()) if self._options.max_cuts is None else self._options.max_cuts
        expected_s = min(wanted, len(selection.chosen)) * (reference.load_ms + _RUNS_A_PROOF * reference.whole_ms) / 1e3
        with proving(prover, self._weights_path.stat().st_size, expected_s) as pool:
            try:
                kept, rejected = self._cuts(selection, wanted, pool)
                coding = list(self._coding_of(kept, pool))
                kept = self._batches(kept, pool)
                self._middles(kept[:MIDDLE_CUTS], pool)
                self._code(coding)
            except BrokenProcessPool:
                raise ModelError(
                    f"{opened.file.path}: {self._engine.version()} breaks down on a slice of it, or lacks memory; "
                    "keep fewer cuts with --max-cuts, or report the model"
                ) from None
        kept.sort(key=lambda proven: (len(proven.candidate.head), proven.candidate.id))
        rejected.sort(key=lambda cut: (len(cut.id), cut.id))
        for proven in kept:
            self._add(head_name(proven.candidate.id), proven.halves.head)
            self._add(tail_name(proven.candidate.id), proven.halves.tail)
        whole = [cut for cut in kept if source.engine == "litert" and maps_whole(source.graph, cut.candidate.head)]
        # What lacks a head is no finished work: the next conversion tries again.
        recipe = recipe if self._compile([proven.halves.head for proven in whole]) else ""
        manifest = Manifest(
            name=opened.file.path.stem,
            model_format=opened.model_format,
            model_bytes=opened.file.bytes,
            model_sha256=opened.file.sha256,
            engine=source.engine,
            inputs=opened.inputs,
            outputs=tuple(
                replace(spec.loosened(*(answer[spec.name].shape for answer in reference.expected)), may_be_empty=True)
                for spec in source.outputs
            ),
            sample_shapes=opened.shapes,
            cuts=tuple(
                replace(proven.halves.cut, accelerators=("edgetpu",)) if proven in whole else proven.halves.cut
                for proven in kept
            ),
            slices=self._records,
            files={},
            semantics=dict(self._options.semantics),
            fixed={name: value.tolist() for name, value in opened.fixed.items()},
            stateful=self._stateful,
            rejected=tuple(rejected),
            tolerance=self._options.tolerance,
            created_by=f"midstream {metadata.version('midstream')}",
            recipe=recipe,
            found=selection.counts,
        )
        machine = f"{platform.machine()} {self._engine.version()}"
        costs = {proven.candidate.id: proven.cost for proven in kept}
        return manifest, Costs(machine, reference.whole_ms, costs, layers_ms, recipe, coding=self._coding)

    def _reference(self) -> _Reference:
        """The file's own answers, and the proof that the rebuilt whole model gives them too."""
        opened, tolerance = self._opened, self._options.tolerance
        samples = self._samples()
        expected = [self._original(sample) for sample in samples]
        part = slicing.whole(opened.source)
        self._add(WHOLE, part)
        program = Program(part.record, part.content, self._weights_path)
        start = time.perf_counter()
        with Loaded(self._engine.load(program), part.record.inputs) as whole:
            load_ms = (time.perf_counter() - start) * 1e3
            rebuilt = [whole.run(sample) for sample in samples]
            error = max(max_abs_error(want, got) for want, got in zip(expected, rebuilt, strict=True))
            if error > tolerance:
                raise VerificationError(
                    f"{opened.file.path}: the rebuilt model differs from the file by {error:.3g} on "
                    f"{self._engine.version()}; allow it with --tolerance {2 * error:.1g} or report the model"
                )
            whole_ms = median(whole.time_ms(samples[0]) for _ in range(_TIMED_RUNS))
            free = [spec for spec in opened.inputs if spec.name not in opened.fixed]
            sizes = [] if self._stateful else proven_sizes(whole.run, free, samples, tolerance)
            self._add(WHOLE, replace(part, record=replace(part.record, batch_sizes=tuple(sizes))))
            return _Reference(samples, rebuilt, whole_ms, load_ms)

    @property
    def _stateful(self) -> bool:
        return any(node.stateful for node in self._opened.source.graph.nodes)

    def _samples(self) -> list[Tensors]:
        opened = self._opened
        if self._options.calibration is not None:
            samples = read_calibration(self._options.calibration, opened.types, opened.shapes)
        else:
            samples = [opened.types.generate(opened.shapes, seed) for seed in range(GENERATED_SAMPLES)]
        return samples + opened.varied

    def _original(self, sample: Tensors) -> Tensors:
        """The file's own answer, given twice."""
        opened = self._opened
        answers = []
        for _ in range(2):
            opened.original.reset()
            given = opened.original.run(sample | opened.fixed)
            answers.append({name: value.copy() for name, value in given.items()})
        if max_abs_error(*answers) > self._options.tolerance:
            raise ModelError(
                f"{opened.file.path} answers the same input differently each time, so no cut of it can be proven; "
                "export it without random layers"
            )
        return answers[0]

    def _cuts(self, selection: Selection, wanted: int, pool: Pool) -> tuple[list[Proven], list[RejectedCut]]:
        """The most useful cuts that are exact, best first, and those that are not."""
        ranked = deque(selection.chosen)
        kept: list[Proven] = []
        rejected: dict[str, RejectedCut] = {}
        running: deque[Future[Proven | RejectedCut]] = deque()
        resort = selection.others
        while True:
            if not (ranked or running or kept):
                ranked, resort = deque(resort), ()
            while ranked and len(running) < 2 * pool.workers and len(kept) + len(running) < wanted:
                running.append(pool.submit(Prover.prove, ranked.popleft()))
            if not running:
                break
            outcome = running.popleft().result()
            heads = {proven.halves.cut.nodes for proven in kept}
            if isinstance(outcome, RejectedCut):
                rejected[outcome.id] = outcome
                ranked.extend(selection.freed(outcome.id, set(rejected)))
            elif outcome.halves.cut.nodes not in heads:
                kept.append(outcome)
            done = len(kept) + len(rejected)
            self._progress("cutting", done, min(wanted + len(rejected), done + len(ranked) + len(running)))
        return kept, list(rejected.values())

    def _middles(self, kept: Sequence[Proven], pool: Pool) -> None:
        """Slices between two of these cuts, where the first's head is a part of the second's."""
        pairs = list(combinations(sorted(kept, key=lambda proven: len(proven.candidate.head)), 2))
        made = [pool.submit(Prover.prove_middle, first, second) for first, second in pairs]
        for done, ((first, second), part) in enumerate(zip(pairs, made, strict=True)):
            self._progress("joining cuts", done, len(pairs))
            if (middle := part.result()) is not None:
                self._add(middle_name(first.candidate.id, second.candidate.id), middle)

    def _batches(self, kept: Sequence[Proven], pool: Pool) -> list[Proven]:
        """The cuts, with how many inputs each tail answers at once; nothing is tried where the whole model cannot."""
        if not self._records[WHOLE].batch_sizes:
            return list(kept)
        made = [pool.submit(Prover.prove_batches, proven) for proven in kept]
        batched = []
        for done, (proven, sizes) in enumerate(zip(kept, made, strict=True)):
            self._progress("batching", done, len(kept))
            record = replace(proven.halves.tail.record, batch_sizes=tuple(sizes.result()))
            tail = replace(proven.halves.tail, record=record)
            batched.append(replace(proven, halves=replace(proven.halves, tail=tail)))
        return batched

    def _coding_of(self, kept: Sequence[Proven], pool: Pool) -> Iterator[Future[Coded | None]]:
        """The work on heads and tails that code what crosses themselves."""
        source = self._opened.source
        for codec in CARRIERS:
            fit = [proven for proven in kept if may_code(source, codec, proven.halves)]
            for proven in fit[:CODED_CUTS]:
                yield pool.submit(Prover.prove_coding, proven, codec)

    def _code(self, made: Sequence[Future[Coded | None]]) -> None:
        """Heads and tails that code what crosses themselves; which ones pay is for the times to say."""
        for done, work in enumerate(made):
            self._progress("coding", done, len(made))
            if (coded := work.result()) is not None:
                for name, part in coded.slices.items():
                    self._add(name, part)
                self._coding |= coded.costs

    def _compile(self, heads: Sequence[Slice]) -> bool:
        """Heads as the Edge TPU runs them, beside the plain ones; a warning names one on which the compiler fails.

        False where it did.
        """
        compiler = find_compiler() if self._options.edgetpu and heads else None
        if compiler is None:
            return True
        failed = False
        for done, head in enumerate(heads):
            self._progress("compiling", done, len(heads))
            try:
                compiled = compiler.compile(Program(head.record, head.content, self._weights_path))
            except ModelError as error:
                _log.warning(
                    "%s is not compiled for the Edge TPU and stays on the processor: %s", head.record.member, error
                )
                failed = True
                continue
            if compiled is not None:
                name = edgetpu_name(head.record.member.removesuffix(".tflite"))
                record = SliceRecord(f"{name}.tflite", len(compiled), head.record.inputs, head.record.outputs)
                self._add(name, Slice(record, compiled))
        return not failed

    def _add(self, name: str, part: Slice) -> None:
        self._records[name] = part.record
        self.programs[part.record.member] = part.content


def _neutral_graph(source: Source) -> Graph:
    graph = source.graph
    layers = tuple(
        Layer(
            node.index,
            node.name,
            node.op,
            node.macs,
            node.weight_bytes,
            graph.written_bytes(node),
            node.static,
            _flops(graph, node),
        )
        for node in graph.nodes
    )
    edges: dict[tuple[int, int], int] = {}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            origin = graph.producer.get(value)
            if origin is not None:
                key = (origin, node.index)
                edges[key] = edges.get(key, 0) + graph.values[value].bytes
    return Graph(layers, tuple(Edge(a, b, size) for (a, b), size in sorted(edges.items())))


def _flops(graph: ModelGraph, node: Node) -> int:
    """Two for each multiply-accumulate; of layers that have none, one for each number they write."""
    specs = [graph.values[value] for value in node.outputs if value in graph.values]
    return 2 * node.macs or sum(value.bytes // value.spec.dtype.itemsize for value in specs if value.spec is not None)
