"""Measuring the codec ladder: every codec at every place, judged by the model's finished answer."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from midstream.agreement import Metric, find_metric
from midstream.analysis import analyze_inputs
from midstream.bundle import Bundle
from midstream.calibrating.bases import Covariance, channel_axis
from midstream.calibrating.trial import Trial, applies, choose_entropy
from midstream.communication.codecs import ALL_RUNGS, encode, find_codec
from midstream.errors import InputError, MissingExtraError
from midstream.ladder import Ladder, MeasuredRung, Place, Settings
from midstream.tensors import Tensors

# With fewer inputs than this none can be held out.
FEWEST_TO_HOLD_OUT = 8
_TRIED_FOR_ENTROPY = 2
_ALWAYS = ("raw", "lossless")
_STEPPED = ("step", "klt")
_REFINEMENTS = 2
_TRIED_SLOWLY = 8
_LAYOUT_CODEC = "int8"


@dataclass(frozen=True, slots=True)
class Calibration:
    """The ladder, and every rung that was tried to the end, kept or not, by place."""

    ladder: Ladder
    tried: Mapping[str | None, tuple[MeasuredRung, ...]]


def calibrate(
    bundle: Bundle,
    samples: Sequence[Tensors],
    *,
    metric: str | Metric = "auto",
    min_agreement: float = 0.9,
    codecs: Sequence[str] = ALL_RUNGS,
    cuts: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure these codecs at the whole input and at these cuts (default: all), on inputs that `Bundle.run` takes.

    Of eight inputs or more, the first half sets the rungs up and the second half judges them. Rungs that fall below
    ``min_agreement`` are given up at once; of the others those stay that no other beats in size, agreement and time
    alike, and ``raw`` and ``lossless``. Raises InputError where there are no inputs, they do not fit, or the metric
    is unknown; BundleError on an unknown cut.
    """
    if not samples:
        raise InputError(f"no inputs were given to calibrate bundle {bundle.name!r} with")
    inputs = [bundle.check_inputs(sample) for sample in samples]
    progress(f"the whole model on {len(inputs)} inputs")
    references, times = [], []
    for sample in inputs:
        started = time.perf_counter()
        references.append(bundle.run_tail(None, sample))
        times.append((time.perf_counter() - started) * 1e3)
    judge = find_metric(metric, references) if isinstance(metric, str) else metric
    held_out = len(inputs) >= FEWEST_TO_HOLD_OUT
    half = len(inputs) // 2 if held_out else 0
    tried_codecs = tuple(dict.fromkeys((*_ALWAYS, *codecs)))
    fitting = inputs[:half] or inputs
    session = _Session(bundle, judge, min_agreement, fitting, inputs[half:], references[half:], tried_codecs)
    chosen = [bundle.manifest.cut(cut).id for cut in cuts] if cuts is not None else [cut.id for cut in bundle.cuts]
    tried: dict[str | None, tuple[MeasuredRung, ...]] = {}
    places = []
    for cut in [*([] if bundle.manifest.stateful else [None]), *chosen]:
        progress("the whole input" if cut is None else f"cut {cut}")
        place = session.measure(cut)
        tried[cut] = place.rungs
        places.append(replace(place, rungs=pareto(place.rungs)))
    ladder = Ladder(
        bundle.digest.hex(),
        f"{platform.machine()} {bundle.costs.machine.partition(' ')[2]}",
        median(times),
        metric if isinstance(metric, str) else getattr(metric, "__qualname__", type(metric).__name__),
        len(session.inputs),
        held_out,
        min_agreement,
        tuple(places),
    )
    return Calibration(ladder, tried)


def pareto(rungs: Iterable[MeasuredRung]) -> tuple[MeasuredRung, ...]:
    """Those that no other beats in size, agreement and time together, and those that are always there; by size."""
    found = sorted(rungs, key=lambda rung: (-rung.payload_bytes, rung.agreement))
    return tuple(rung for rung in found if rung.codec in _ALWAYS or not any(_beats(other, rung) for other in found))


def between(tried: Sequence[str], kept: Collection[str]) -> Iterator[str]:
    """For each kind of step, one halfway (in the logarithm) between the boldest that was kept and the next tried."""
    for family in _STEPPED:
        steps = sorted((codec.setting, codec.name) for codec in map(find_codec, tried) if codec.family == family)
        good = [setting for setting, name in steps if name in kept]
        bolder = [setting for setting, _ in steps if good and setting > good[-1]]
        if bolder:
            name = f"{family}{float(f'{math.sqrt(good[-1] * bolder[0]):.2g}'):g}"
            if name not in tried:
                yield name


def _beats(one: MeasuredRung, other: MeasuredRung) -> bool:
    gains = (
        other.payload_bytes - one.payload_bytes,
        one.agreement - other.agreement,
        other.encode_ms + other.decode_ms - one.encode_ms - one.decode_ms,
    )
    return min(gains) >= 0 and max(gains) > 0


class _Session:
    """One bundle, the inputs that set rungs up, and those that judge them."""

    def __init__(
        self,
        bundle: Bundle,
        judge: Metric,
        min_agreement: float,
        fitting: Sequence[Tensors],
        inputs: Sequence[Tensors],
        references: Sequence[Tensors],
        codecs: tuple[str, ...],
    ) -> None:
        self.inputs = inputs
        self._bundle = bundle
        self._judge = judge
        self._allowed = (1.0 - min_agreement) * len(inputs) + 1e-9
        self._fitting = fitting
        self._references = references
        self._codecs = codecs
        self._semantics = bundle.manifest.semantics
        self._features = self._analysed()

    def measure(self, cut: str | None) -> Place:
        """All rungs of a place that were not given up.

        Of steps there are a few at first; then, twice, one more between the boldest that was kept and the next. What
        is best of them is tried with the slow entropy stage too, which changes sizes and times alone.
        """
        settings = self._settings(cut)
        samples = [self._head(cut, sample)[0] for sample in self._fitting[:_TRIED_FOR_ENTROPY]]
        tried = list(self._codecs)
        trials = self._judged(cut, self._trials(cut, tried, settings, samples))
        for _ in range(_REFINEMENTS):
            finer = list(between(tried, {trial.codec for trial in trials}))
            trials += self._judged(cut, self._trials(cut, finer, settings, samples))
            tried += finer
        raw_bytes = next(trial for trial in trials if trial.codec == "raw").sizes
        rungs = [trial.rung(self._features) for trial in trials]
        rungs += self._packed_slowly(cut, trials, pareto(rungs))
        if cut is not None:
            self._bundle.unload(cut)
        return Place(cut, float(np.mean(raw_bytes)), tuple(rungs), settings.bases, settings.last_first)

    def _judged(self, cut: str | None, trials: list[Trial]) -> list[Trial]:
        """Those that were not given up, after all inputs."""
        for sample, reference in zip(self.inputs, self._references, strict=True):
            if not trials:
                break
            crossing, made = self._head(cut, sample)
            for trial in trials:
                found = trial.carry(crossing)
                if not trial.lossless and not _same(found, crossing):
                    outputs = self._bundle.run_tail(cut, found)
                    trial.lost += 1.0 - min(1.0, max(0.0, self._judge(reference, made | outputs)))
            trials = [trial for trial in trials if trial.lost <= self._allowed]
        return trials

    def _packed_slowly(
        self, cut: str | None, trials: Sequence[Trial], best: Sequence[MeasuredRung]
    ) -> list[MeasuredRung]:
        """The best rungs with the slow entropy stage: how much smaller some inputs get by it holds for all of them."""
        pairs = [
            (rung, trial, trial.packed_slowly())
            for rung in best
            for trial in trials
            if trial.codec == rung.codec and find_codec(rung.codec).packs
        ]
        for sample in self.inputs[:_TRIED_SLOWLY] if pairs else ():
            crossing, _ = self._head(cut, sample)
            for _, _, slow in pairs:
                slow.carry(crossing)
        return [slow.rung_like(rung, trial.sizes) for rung, trial, slow in pairs]

    def _head(self, cut: str | None, sample: Tensors) -> tuple[Tensors, Tensors]:
        return (sample, {}) if cut is None else self._bundle.run_head(cut, sample)

    def _settings(self, cut: str | None) -> Settings:
        """Bases and layouts, from the inputs that set rungs up."""
        sums: dict[str, Covariance] = {}
        smaller: dict[str, int] = {}
        for index, sample in enumerate(self._fitting):
            crossing, _ = self._head(cut, sample)
            for name, tensor in crossing.items():
                axis = channel_axis(tensor.shape, self._bundle.manifest.engine)
                if tensor.dtype.kind != "f" or axis is None or not tensor.size or cut is None:
                    continue
                known = sums.setdefault(name, Covariance(axis, tensor.shape[axis]))
                if known.axis == axis and known.channels == tensor.shape[axis]:
                    known.add(np.asarray(tensor, np.float32))
                if axis == -1 and index < _TRIED_FOR_ENTROPY:
                    smaller[name] = smaller.get(name, 0) + _gain_of_last_first(name, tensor)
        bases = {name: basis for name, found in sums.items() if (basis := found.basis()) is not None}
        return Settings(bases=bases, last_first=frozenset(name for name, gain in smaller.items() if gain > 0))

    def _trials(
        self, cut: str | None, codecs: Sequence[str], settings: Settings, samples: Sequence[Tensors]
    ) -> list[Trial]:
        """Of these codecs, those that do anything to what crosses and whose libraries are here."""
        specs = self._bundle.crossing_specs(cut)
        trials = []
        for codec in codecs:
            try:
                if applies(codec, samples[0], self._semantics, settings):
                    chosen = choose_entropy(codec, samples, self._semantics, settings)
                    trials.append(Trial(codec, chosen, specs, self._semantics))
            except MissingExtraError:
                continue
        return trials

    def _analysed(self) -> list[Mapping[str, float]]:
        found: list[Mapping[str, float]] = []
        for sample in self.inputs:
            analysis = analyze_inputs(sample, self._semantics)
            if analysis is None:
                return []
            found.append(analysis.features)
        return found


def _gain_of_last_first(name: str, tensor: np.ndarray) -> int:
    """Bytes that codes lose by lying with the last axis first."""
    sizes = [
        len(encode(_LAYOUT_CODEC, {name: tensor}, {}, Settings(last_first=frozenset(turned)))[0].data)
        for turned in ((), (name,))
    ]
    return sizes[0] - sizes[1]


def _same(found: Tensors, wanted: Tensors) -> bool:
    return all(np.array_equal(found[name], wanted[name], equal_nan=wanted[name].dtype.kind == "f") for name in wanted)
