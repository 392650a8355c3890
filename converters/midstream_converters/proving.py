"""The proof of each cut: head and tail against the whole model, and what keeps them exact."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

from midstream.engines import Engine, Program, Session
from midstream.errors import BundleError, InputError
from midstream.manifest import RejectedCut, SliceCost
from midstream.tensors import Tensors, TensorSpec
from midstream_converters import exact, slicing
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import Slice, Source, Variant
from midstream_converters.slicing import Halves
from midstream_converters.verify import max_abs_error

# A boundary is moved before this many of the crossing values, one at a time.
_MOVES = 4


@dataclass(frozen=True, slots=True)
class Proven:
    """A cut that gives the whole model's bits, or is within the tolerance, and what its slices took."""

    candidate: Candidate
    halves: Halves
    cost: SliceCost


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What running head and tail on all samples has shown."""

    max_abs_error: float
    specs: tuple[TensorSpec, ...]
    payload_bytes: int
    cost: SliceCost


class Prover:
    """Proves cuts, several threads at once.

    ``expected`` are the whole model's answers to ``samples``; those of the first sample's shapes are also what times
    and sizes are taken from.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        weights_path: Path,
        samples: Sequence[Tensors],
        expected: Sequence[Tensors],
        tolerance: float,
    ) -> None:
        self._source = source
        self._engine = engine
        self._weights_path = weights_path
        self._samples = samples
        self._expected = expected
        self._tolerance = tolerance
        self._cutter = Cutter(source.graph)
        self._heads = {candidate.head for candidate in self.candidates}

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Every cut there is."""
        return self._cutter.candidates()

    @cached_property
    def _is_timed(self) -> bool:
        """Whether a sample of the first one's sizes follows it: a runtime's first run is no measure."""
        return any(_shapes(sample) == _shapes(self._samples[0]) for sample in self._samples[1:])

    @cached_property
    def _whole_operators(self) -> Counter[str]:
        return self._source.operators(slicing.whole(self._source))

    def prove(self, candidate: Candidate) -> Proven | RejectedCut:
        """The cut as it is exact, or why it is not."""
        try:
            plain = slicing.halves(self._source, candidate)
            outcome = self._run(plain)
            if outcome.max_abs_error <= self._tolerance:
                return self._proven(candidate, plain, outcome)
            trace = cache(partial(self._trace, plain))
            for other, halves in self._alternatives(candidate, trace):
                tried = self._run(halves)
                if tried.max_abs_error <= self._tolerance:
                    return self._proven(other, halves, tried)
            if math.isinf(outcome.max_abs_error):
                return RejectedCut(candidate.id, "its two sides give another shape, or infinite differences")
            return RejectedCut(candidate.id, exact.cause(trace(), self._engine.version()), outcome.max_abs_error)
        except (BundleError, InputError) as error:
            return RejectedCut(candidate.id, str(error))

    def prove_middle(
        self, first: Proven, before: Sequence[Tensors], second: Proven, after: Sequence[Tensors]
    ) -> Slice | None:
        """What runs between two proven cuts, where it hands on the bits that the second cut's own head does.

        ``before`` and ``after`` are what crosses the two.
        """
        plain = Variant(first.halves.wide, second.halves.wide)
        off = tuple(dict.fromkeys(first.halves.tail.record.without + second.halves.head.record.without))
        for variant in dict.fromkeys((plain, replace(plain, without=off))):
            made = slicing.middle(self._source, first.candidate, second.candidate, variant)
            if made is None:
                return None
            try:
                if self._hands_on(made, before, after):
                    return made
            except (BundleError, InputError):
                continue
        return None

    def _alternatives(
        self, candidate: Candidate, trace: Callable[[], exact.Trace]
    ) -> Iterator[tuple[Candidate, Halves]]:
        wide = slicing.has_half(self._source, candidate)
        if wide:
            yield candidate, slicing.halves(self._source, candidate, wide=True)
        for head, tail in exact.switched_off(trace()):
            yield candidate, slicing.halves(self._source, candidate, wide=wide, head_without=head, tail_without=tail)
        for moved, _ in zip(self._cutter.moved_before(candidate), range(_MOVES), strict=False):
            if moved.head not in self._heads:
                yield moved, slicing.halves(self._source, moved)

    def _trace(self, plain: Halves) -> exact.Trace:
        operators = self._source.operators
        return exact.Trace(self._whole_operators, operators(plain.head), operators(plain.tail))

    def _proven(self, candidate: Candidate, halves: Halves, outcome: _Outcome) -> Proven:
        cut = replace(halves.cut, tensors=outcome.specs, payload_bytes=outcome.payload_bytes)
        return Proven(candidate, replace(halves, cut=cut), outcome.cost)

    def _run(self, halves: Halves) -> _Outcome:
        """Head, then tail, on every sample from reset state, until one differs; a lone one runs twice, to be timed."""
        cut, specs, worst, payload = halves.cut, halves.cut.tensors, 0.0, 0
        head_ms, tail_ms = [], []
        with self._load(halves.head) as head, self._load(halves.tail) as tail:
            for index in range(len(self._samples)) if self._is_timed else (*range(len(self._samples)), 0):
                sample, want = self._samples[index], self._expected[index]
                start = time.perf_counter()
                first = sample | head.run(sample)
                middle = time.perf_counter()
                crossing = {spec.name: first[spec.name] for spec in specs}
                specs = tuple(spec.loosened(first[spec.name].shape) for spec in specs)
                second = tail.run(crossing)
                end = time.perf_counter()
                got = {name: first[name] for name in cut.head_outputs} | second
                worst = max(worst, max_abs_error(want, got))
                if worst > self._tolerance:
                    break
                if _shapes(sample) == _shapes(self._samples[0]):
                    payload = sum(tensor.nbytes for tensor in crossing.values())
                    head_ms.append((middle - start) * 1e3)
                    tail_ms.append((end - middle) * 1e3)
        return _Outcome(worst, specs, payload, SliceCost(min(head_ms, default=0.0), min(tail_ms, default=0.0)))

    def crossing(self, proven: Proven) -> list[Tensors]:
        """What crosses a proven cut, for each sample."""
        names = [spec.name for spec in proven.halves.cut.tensors]
        with self._load(proven.halves.head) as head:
            made = [sample | head.run(sample) for sample in self._samples]
        return [{name: tensors[name] for name in names} for tensors in made]

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


class Loaded:
    """A loaded slice that starts every run from reset state."""

    def __init__(self, session: Session, inputs: tuple[str, ...]) -> None:
        self._session = session
        self._inputs = inputs

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def run(self, tensors: Tensors) -> Tensors:
        """One run on those of the tensors that the slice takes."""
        self._session.reset()
        return self._session.run({name: tensors[name] for name in self._inputs})

    def time_ms(self, tensors: Tensors) -> float:
        """How long a run takes."""
        start = time.perf_counter()
        self.run(tensors)
        return (time.perf_counter() - start) * 1e3


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tensors.items()}
