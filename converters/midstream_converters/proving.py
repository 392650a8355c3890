"""The proof of each cut: head and tail against the whole model, and what keeps them exact."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

from midstream.communication.codecs.steps import dequantise
from midstream.engines import Engine, Program
from midstream.errors import BundleError, InputError
from midstream.manifest import RejectedCut, SliceCost, head_name, tail_name
from midstream.tensors import Tensors, TensorSpec
from midstream_converters import coding, exact, slicing
from midstream_converters.batching import proven_sizes
from midstream_converters.coding import Coded
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.difference import max_abs_error
from midstream_converters.graph import Slice, Source, Variant
from midstream_converters.loaded import Loaded
from midstream_converters.samples import shapes_of
from midstream_converters.slicing import Halves

# So many layers read what crosses: enough to be like the tail, and few enough for their coding to be seen.
_FIRST_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Proven:
    """A cut that gives the whole model's bits, or is within the tolerance, and what its slices took.

    ``crossed`` is the digest of what crosses it on the first sample.
    """

    candidate: Candidate
    halves: Halves
    cost: SliceCost
    crossed: bytes


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What running head and tail on all samples has shown."""

    max_abs_error: float
    specs: tuple[TensorSpec, ...]
    payload_bytes: int
    cost: SliceCost
    crossed: bytes


class Prover:
    """Proves cuts; it can be sent to another process, and belongs to one caller at a time.

    ``expected`` are the whole model's answers to ``samples``; those of the first sample's shapes are also what times
    and sizes are taken from. A boundary is never moved to where one of the ``candidates`` lies.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        weights_path: Path,
        samples: Sequence[Tensors],
        expected: Sequence[Tensors],
        tolerance: float,
        candidates: Iterable[Candidate],
    ) -> None:
        self._source = source
        self._engine = engine
        self._weights_path = weights_path
        self._samples = samples
        self._expected = expected
        self._tolerance = tolerance
        self._cutter = Cutter(source.graph)
        self._heads = {candidate.head for candidate in candidates}
        self._crossed: dict[str, list[Tensors]] = {}

    @cached_property
    def _is_timed(self) -> bool:
        """Whether a sample of the first one's sizes follows it: a runtime's first run is no measure."""
        return any(shapes_of(sample) == shapes_of(self._samples[0]) for sample in self._samples[1:])

    @cached_property
    def _whole_operators(self) -> Counter[str]:
        return self._source.operators(slicing.whole(self._source))

    def prove(self, candidate: Candidate) -> Proven | RejectedCut:
        """The cut as it is exact, or why it is not."""
        with _Sides(self._load, self._samples) as sides:
            try:
                plain = slicing.halves(self._source, candidate)
                outcome = self._run(plain, sides)
                if outcome.max_abs_error <= self._tolerance:
                    return self._proven(candidate, plain, outcome)
                trace = cache(partial(self._trace, plain))
                for other, halves in self._alternatives(candidate, trace):
                    tried = self._run(halves, sides)
                    if tried.max_abs_error <= self._tolerance:
                        return self._proven(other, halves, tried)
                if math.isinf(outcome.max_abs_error):
                    return RejectedCut(candidate.id, "its two sides give another shape, or infinite differences")
                return RejectedCut(candidate.id, exact.cause(trace(), self._engine.version()), outcome.max_abs_error)
            except (BundleError, InputError) as error:
                return RejectedCut(candidate.id, str(error))

    def prove_middle(self, first: Proven, second: Proven) -> Slice | None:
        """What runs between two proven cuts, where it hands on the bits that the second cut's own head does."""
        plain = Variant(first.halves.wide, second.halves.wide)
        off = tuple(dict.fromkeys(first.halves.tail.record.without + second.halves.head.record.without))
        for variant in dict.fromkeys((plain, replace(plain, without=off))):
            made = slicing.middle(self._source, first.candidate, second.candidate, variant)
            if made is None:
                return None
            try:
                if self._hands_on(made, self._crossing(first), self._crossing(second)):
                    return made
            except (BundleError, InputError):
                continue
        return None

    def prove_batches(self, proven: Proven) -> list[int]:
        """How many inputs the cut's tail answers at once (`batching.proven_sizes`)."""
        try:
            with self._load(proven.halves.tail) as tail:
                return proven_sizes(tail.run, proven.halves.cut.tensors, self._crossing(proven), self._tolerance)
        except (BundleError, InputError):
            return []

    def prove_coding(self, proven: Proven, codec: str) -> Coded | None:
        """Head and tail that code what crosses themselves, where `may_code`; None where they do it wrongly."""
        plain, sample = proven.halves, self._samples[0]
        names = tuple(spec.name for spec in plain.cut.tensors)
        if not self._source.decodes(codec):
            return None
        encoders = self._source.encoders(codec, names)
        coded = slicing.halves(
            self._source,
            proven.candidate,
            head_without=plain.head.record.without,
            tail_without=plain.tail.record.without,
            codec=codec,
        )
        slices, costs = {}, {}
        try:
            with self._load(plain.head if encoders is None else coded.head) as head:
                made = head.run(sample)
            crossing = {name: made[name] for name in names}
            if encoders is not None:
                codes = {name: coding.carried(made, codec, name) for name in crossing}
                if coding.digest(crossing) != proven.crossed or not all(
                    coding.right(codes[name], crossing[name]) for name in crossing
                ):
                    return None
                with self._load(encoders.plain) as alone, self._load(encoders.coding) as encoder:
                    costs[head_name(plain.cut.id, codec)] = coding.encoding_cost(alone, encoder, codec, crossing)
                slices[head_name(plain.cut.id, codec)] = coded.head
            elif (found := coding.codes_of(crossing)) is not None:
                codes = found
            else:
                return None
            carried = crossing | coding.carriers(codec, codes, crossing)
            decoded: Tensors = {name: dequantise(codes[name]).reshape(crossing[name].shape) for name in crossing}
            with self._load(plain.tail) as tail:
                want = tail.run(decoded)
            with self._load(coded.tail) as tail:
                if max_abs_error(want, tail.run(carried)) > 0:
                    return None
            first, decoding_first = self._first_layers(proven.candidate, plain.tail, coded.tail, codec)
            with self._load(first) as alone, self._load(decoding_first) as decoder:
                read = {name: each for name, each in codes.items() if name in first.record.inputs}
                costs[tail_name(plain.cut.id, codec)] = coding.decoding_cost(alone, decoder, carried, read)
            slices[tail_name(plain.cut.id, codec)] = coded.tail
            return Coded(slices, costs)
        except (BundleError, InputError):
            return None

    def _first_layers(self, candidate: Candidate, tail: Slice, coded: Slice, codec: str) -> tuple[Slice, Slice]:
        """The first layers of a tail, and of the one that decodes; all of them where these are few."""
        after = self._cutter.moved_after(candidate, _FIRST_LAYERS)
        if after is None:
            return tail, coded
        plain = Variant(without=tail.record.without)
        decoding = replace(plain, codec=codec, takes_coded=candidate.crossing)
        first, second = (slicing.middle(self._source, candidate, after, variant) for variant in (plain, decoding))
        return (tail, coded) if first is None or second is None else (first, second)

    def _alternatives(
        self, candidate: Candidate, trace: Callable[[], exact.Trace]
    ) -> Iterator[tuple[Candidate, Halves]]:
        wide = slicing.has_half(self._source, candidate)
        if wide:
            yield candidate, slicing.halves(self._source, candidate, wide=True)
        for head, tail in exact.switched_off(trace()):
            yield candidate, slicing.halves(self._source, candidate, wide=wide, head_without=head, tail_without=tail)
        moved = next(self._cutter.moved_before(candidate), None)
        if trace().parted and moved is not None and moved.head not in self._heads:
            yield moved, slicing.halves(self._source, moved)

    def _trace(self, plain: Halves) -> exact.Trace:
        operators = self._source.operators
        return exact.Trace(self._whole_operators, operators(plain.head), operators(plain.tail))

    def _proven(self, candidate: Candidate, halves: Halves, outcome: _Outcome) -> Proven:
        cut = replace(halves.cut, tensors=outcome.specs, payload_bytes=outcome.payload_bytes)
        return Proven(candidate, replace(halves, cut=cut), outcome.cost, outcome.crossed)

    def _run(self, halves: Halves, sides: _Sides) -> _Outcome:
        """Head, then tail, on every sample from reset state, until one differs; a lone one runs twice, to be timed."""
        cut, specs, worst, payload, crossed = halves.cut, halves.cut.tensors, 0.0, 0, b""
        head_ms, tail_ms = [], []
        rounds = range(len(self._samples) if self._is_timed else len(self._samples) + 1)
        for index in rounds:
            sample, want = (given[index % len(self._samples)] for given in (self._samples, self._expected))
            made, took = sides.head(halves.head, index)
            first = sample | made
            crossing = {spec.name: first[spec.name] for spec in specs}
            if index == 0:
                crossed = coding.digest(crossing)
            specs = tuple(spec.loosened(first[spec.name].shape) for spec in specs)
            start = time.perf_counter()
            second = sides.load(halves.tail).run(crossing)
            end = time.perf_counter()
            got = {name: first[name] for name in cut.head_outputs} | second
            worst = max(worst, max_abs_error(want, got))
            if worst > self._tolerance:
                break
            if shapes_of(sample) == shapes_of(self._samples[0]):
                payload = sum(tensor.nbytes for tensor in crossing.values())
                head_ms.append(took)
                tail_ms.append((end - start) * 1e3)
        cost = SliceCost(min(head_ms, default=0.0), min(tail_ms, default=0.0))
        return _Outcome(worst, specs, payload, cost, crossed)

    def _crossing(self, proven: Proven) -> list[Tensors]:
        """What crosses a proven cut, for each sample."""
        known = self._crossed.get(proven.candidate.id)
        if known is None:
            names = [spec.name for spec in proven.halves.cut.tensors]
            with self._load(proven.halves.head) as head:
                made = [sample | head.run(sample) for sample in self._samples]
            known = [{name: tensors[name] for name in names} for tensors in made]
            self._crossed[proven.candidate.id] = known
        return known

    def _hands_on(self, made: Slice, before: Sequence[Tensors], after: Sequence[Tensors]) -> bool:
        with self._load(made) as middle:
            for carried, crossing, want in zip(before, after, self._expected, strict=True):
                given = carried | middle.run(carried)
                wanted = crossing | {name: want[name] for name in made.record.outputs if name not in crossing}
                if max_abs_error(wanted, given) > 0:
                    return False
        return True

    def _load(self, part: Slice) -> Loaded:
        return Loaded(self._engine.load(Program(part.record, part.content, self._weights_path)), part.record.inputs)


class _Sides:
    """The slices of one cut and its alternatives: each is loaded once, each head runs once on a sample."""

    def __init__(self, load: Callable[[Slice], Loaded], samples: Sequence[Tensors]) -> None:
        self._load = load
        self._samples = samples
        self._loaded: dict[Slice, Loaded] = {}
        self._made: dict[tuple[Slice, int], tuple[Tensors, float]] = {}

    def __enter__(self) -> _Sides:
        return self

    def __exit__(self, *_: object) -> None:
        for loaded in self._loaded.values():
            loaded.close()

    def load(self, part: Slice) -> Loaded:
        """The slice, loaded."""
        if part not in self._loaded:
            self._loaded[part] = self._load(part)
        return self._loaded[part]

    def head(self, part: Slice, index: int) -> tuple[Tensors, float]:
        """What a head makes of a sample, and in how many milliseconds; the first sample comes after the last again."""
        known = self._made.get((part, index))
        if known is None:
            loaded = self.load(part)
            start = time.perf_counter()
            made = loaded.run(self._samples[index % len(self._samples)])
            known = self._made[part, index] = made, (time.perf_counter() - start) * 1e3
        return known
