"""From a model file to a bundle: read, enumerate cuts, slice, prove, measure, write."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from midstream.engines import Engine, Program, Session, engine_for
from midstream.errors import BundleError, InputError, ModelError, VerificationError
from midstream.manifest import (
    WEIGHTS_FILE,
    WHOLE,
    Costs,
    Cut,
    Edge,
    Graph,
    Layer,
    Manifest,
    RejectedCut,
    SliceCost,
    SliceRecord,
    head_name,
    tail_name,
)
from midstream.tensors import Tensors, check_tensors
from midstream_converters.cuts import Candidate, enumerate_cuts, rank_cuts
from midstream_converters.emit import check_target, staging, write_bundle
from midstream_converters.graph import Source
from midstream_converters.opening import Opened, Options, open_model
from midstream_converters.samples import GENERATED_SAMPLES, other_shapes, read_calibration
from midstream_converters.verify import max_abs_error, median_ms, prove
from midstream_converters.weights import WeightStore

Progress = Callable[[str, int, int], None]


def convert(
    path: Path, target: Path, options: Options, progress: Progress = lambda _what, _done, _all: None
) -> Manifest:
    """Convert a TFLite or ONNX model and write the bundle.

    Raises ModelError where the model cannot be sliced, InputError on wrong options, VerificationError where the rebuilt
    whole model does not give what the file gives, BundleError where the bundle cannot be written.
    """
    check_target(target)
    progress("reading", 0, 1)
    opened = open_model(path, options)
    try:
        with staging(target) as folder:
            work = _Work(folder, opened, options, progress)
            manifest, graph, costs = work.run(path)
            return write_bundle(folder, manifest, graph, work.programs, costs)
    finally:
        opened.original.close()


class _Work:
    """One conversion: the programs made so far, and what was learned of each."""

    def __init__(self, folder: Path, opened: Opened, options: Options, progress: Progress) -> None:
        self._opened = opened
        self._options = options
        self._progress = progress
        self._engine: Engine = engine_for(opened.source.engine)
        self._weights = WeightStore()
        self._weights_path = folder / WEIGHTS_FILE
        self.programs: dict[str, bytes] = {}
        self._records: dict[str, SliceRecord] = {}
        self._costs: dict[str, SliceCost] = {}

    def run(self, path: Path) -> tuple[Manifest, Graph, Costs]:
        """Slice, prove and measure."""
        opened, source = self._opened, self._opened.source
        samples = self._samples(path)
        whole = self._whole()
        expected = [self._original(path, sample) for sample in samples]
        rebuilt = [_answer(whole, sample) for sample in samples]
        error = max(max_abs_error(want, got) for want, got in zip(expected, rebuilt, strict=True))
        if error > self._options.tolerance:
            raise VerificationError(
                f"{path}: the rebuilt model differs from the file by {error:.3g} on {self._engine.version()}; "
                f"allow it with --tolerance {2 * error:.1g} or report the model"
            )
        whole_ms = median_ms(lambda: whole.run(samples[0]))
        whole.close()
        kept, rejected = self._cuts(samples, rebuilt)
        manifest = Manifest(
            name=path.stem,
            model_format=opened.model_format,
            model_bytes=opened.model_bytes,
            model_sha256=opened.model_sha256,
            engine=source.engine,
            inputs=opened.inputs,
            outputs=source.outputs,
            sample_shapes=opened.shapes,
            cuts=tuple(kept),
            slices=self._records,
            files={},
            semantics=dict(self._options.semantics),
            fixed={name: value.tolist() for name, value in opened.fixed.items()},
            stateful=any(node.stateful for node in source.graph.nodes),
            rejected=tuple(rejected),
            tolerance=self._options.tolerance,
            created_by=f"midstream {metadata.version('midstream')}",
        )
        machine = f"{platform.machine()} {self._engine.version()}"
        return manifest, _neutral_graph(source), Costs(machine, whole_ms, self._costs)

    def _samples(self, path: Path) -> list[Tensors]:
        opened = self._opened
        if self._options.calibration is not None:
            samples = read_calibration(self._options.calibration, opened.types, opened.shapes)
        else:
            samples = [opened.types.generate(opened.shapes, seed) for seed in range(GENERATED_SAMPLES)]
        for seed, shapes in enumerate(other_shapes(opened.types, opened.shapes), start=GENERATED_SAMPLES):
            varied = opened.types.generate(shapes, seed)
            if opened.refusal(varied) is None:
                samples.append(varied)
        return samples

    def _original(self, path: Path, sample: Tensors) -> Tensors:
        """The file's own answer, given twice."""
        answers = [_answer(self._opened.original, sample | self._opened.fixed) for _ in range(2)]
        if max_abs_error(*answers) > self._options.tolerance:
            raise ModelError(
                f"{path} answers the same input differently each time, so no cut of it can be proven; "
                "export it without random layers"
            )
        return answers[0]

    def _whole(self) -> Session:
        source = self._opened.source
        everything = range(len(source.graph.nodes))
        self._add(WHOLE, everything, source.graph.inputs, source.graph.outputs)
        self._weights_path.write_bytes(self._weights.content())
        return self._load(WHOLE)

    def _cuts(self, samples: Sequence[Tensors], expected: Sequence[Tensors]) -> tuple[list[Cut], list[RejectedCut]]:
        candidates = enumerate_cuts(self._opened.source.graph)
        wanted = len(candidates) if self._options.max_cuts is None else self._options.max_cuts
        kept: list[Cut] = []
        rejected: list[RejectedCut] = []
        for candidate in rank_cuts(candidates):
            if len(kept) >= wanted:
                break
            self._progress("cutting", len(kept) + len(rejected), min(wanted + len(rejected), len(candidates)))
            cut = self._cut(candidate)
            proven = self._prove(cut, samples, expected)
            if isinstance(proven, Cut):
                kept.append(proven)
            else:
                rejected.append(proven)
                for name in (head_name(cut.id), tail_name(cut.id)):
                    del self.programs[self._records.pop(name).member]
        kept.sort(key=lambda cut: (len(cut.nodes), cut.id))
        rejected.sort(key=lambda cut: (len(cut.id), cut.id))
        order = [WHOLE, *(name(cut.id) for name in (head_name, tail_name) for cut in kept)]
        self._records = {name: self._records[name] for name in order}
        self.programs = {record.member: self.programs[record.member] for record in self._records.values()}
        return kept, rejected

    def _cut(self, candidate: Candidate) -> Cut:
        graph = self._opened.source.graph
        in_head, in_tail = set(candidate.head), set(candidate.tail)
        made = [value for value in candidate.crossing if value in graph.producer]
        # An output that no layer makes is an input handed through, which the head has, or a constant, which is known.
        outputs_here = tuple(
            v for v in graph.outputs if graph.producer.get(v) in in_head - in_tail or v in graph.inputs
        )
        outputs_there = tuple(v for v in graph.outputs if v not in outputs_here)
        head_outputs = dict.fromkeys([*made, *(v for v in outputs_here if v in graph.producer)])
        read_by_head = {value for index in candidate.head for value in graph.nodes[index].inputs}
        head_inputs = [value for value in graph.inputs if value in read_by_head]
        self._add(head_name(candidate.id), candidate.head, head_inputs, tuple(head_outputs))
        self._add(tail_name(candidate.id), candidate.tail, candidate.crossing, outputs_there)
        specs = tuple(spec for value in candidate.crossing if (spec := graph.values[value].spec) is not None)
        return Cut(candidate.id, specs, candidate.payload_bytes, candidate.head, outputs_here)

    def _prove(self, cut: Cut, samples: Sequence[Tensors], expected: Sequence[Tensors]) -> Cut | RejectedCut:
        """The cut with the payload that was seen, where it is good: then its times are noted too."""
        sessions: list[Session] = []
        try:
            head, tail = (self._load(name(cut.id)) for name in (head_name, tail_name))
            sessions += [head, tail]
            head_takes = self._records[head_name(cut.id)].inputs

            def crossing_of(first: Tensors) -> Tensors:
                return check_tensors(
                    cut.tensors, {spec.name: first[spec.name] for spec in cut.tensors}, f"the tail at {cut.id}"
                )

            def split(sample: Tensors) -> Tensors:
                for session in sessions:
                    session.reset()
                first = sample | head.run({name: sample[name] for name in head_takes})
                second = tail.run(crossing_of(first))
                return {name: first[name] for name in cut.head_outputs} | second

            proof = prove(cut.id, split, samples, expected)
            if not proof.passes(self._options.tolerance):
                cause = f"differs on {self._engine.version()}: layers on both sides of it are computed as one"
                return RejectedCut(cut.id, cause, proof.max_abs_error)
            inputs = {name: samples[0][name] for name in head_takes}
            crossing = _copy(crossing_of(samples[0] | head.run(inputs)))
            self._costs[cut.id] = SliceCost(median_ms(lambda: head.run(inputs)), median_ms(lambda: tail.run(crossing)))
            return replace(cut, payload_bytes=sum(tensor.nbytes for tensor in crossing.values()))
        except (BundleError, InputError) as error:
            return RejectedCut(cut.id, str(error))
        finally:
            for session in sessions:
                session.close()

    def _add(self, name: str, nodes: Iterable[int], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        member = f"{name}.{self._opened.model_format}"
        record, program = self._opened.source.slice(member, tuple(nodes), inputs, outputs, self._weights)
        self._records[name] = record
        self.programs[member] = program

    def _load(self, name: str) -> Session:
        record = self._records[name]
        return self._engine.load(Program(record, self.programs[record.member], self._weights_path))


def _answer(session: Session, sample: Tensors) -> Tensors:
    """One run from reset state."""
    session.reset()
    return _copy(session.run(sample))


def _copy(tensors: Tensors) -> Tensors:
    return {name: value.copy() for name, value in tensors.items()}


def _neutral_graph(source: Source) -> Graph:
    graph = source.graph
    layers = tuple(
        Layer(
            node.index,
            node.name,
            node.op,
            node.macs,
            node.weight_bytes,
            sum(graph.values[value].bytes for value in node.outputs if value in graph.values),
            node.static,
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
