"""Measuring the codec ladder: every codec at every place, judged by the model's finished answer."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np

from midstream.agreement import Metric, checked, find_metric
from midstream.analysis import analyze_inputs
from midstream.bundle import Bundle
from midstream.calibrating.bases import Covariance, channel_axis
from midstream.calibrating.sizes import fit_size, spread
from midstream.calibrating.trial import Trial, applies, choose_entropy
from midstream.communication.codecs import ALL_RUNGS, encode, find_codec
from midstream.errors import InputError, MissingExtraError
from midstream.ladder import UNCALIBRATED, Ladder, MeasuredRung, Place, ReplySize, Settings
from midstream.partitioning.sizes import size_features
from midstream.tensors import Tensors

# With fewer inputs than this none can be held out.
FEWEST_TO_HOLD_OUT = 8
_TRIED_FOR_ENTROPY = 2
_ALWAYS = ("raw", "lossless")
_ROUNDING = 1e-6
_STEPPED = ("step", "klt")
_REFINEMENTS = 2
_TRIED_SLOWLY = 8
_LAYOUT_CODEC = "int8"
MAX_ANSWER_BYTES = 1 << 30


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

    ``raw`` and ``lossless`` are always measured.

    Of eight inputs or more, the first half sets the rungs up and the second half judges them. Rungs that fall below
    ``min_agreement`` are given up at once; of the others those stay that no other beats in size, agreement and time
    alike, and ``raw`` and ``lossless``. Raises InputError where there are no inputs, they do not fit, or the metric
    is unknown, or finds that an answer does not agree with itself; BundleError on an unknown cut, CodecError on an
    unknown codec.
    """
    if not samples:
        raise InputError(f"no inputs were given to calibrate bundle {bundle.name!r} with")
    if not 0 <= min_agreement <= 1:
        raise InputError(f"min_agreement is {min_agreement!r}, needed a share of 0 to 1")
    chosen = (
        [cut.id for cut in bundle.cuts]
        if cuts is None
        else [bundle.manifest.cut(cut).id for cut in dict.fromkeys(cuts)]
    )
    tried_codecs = tuple(dict.fromkeys((*_ALWAYS, *(find_codec(name).name for name in codecs))))
    inputs = [bundle.check_inputs(sample) for sample in samples]
    # A metric that cannot be is told at once; and what is loaded for the first run is not the time of any.
    _judge(metric, [bundle.run_tail(None, inputs[0])])
    progress(f"the whole model on {len(inputs)} inputs")
    references, times = _answers(bundle, inputs)
    judge = _judge(metric, references)
    held_out = len(inputs) >= FEWEST_TO_HOLD_OUT
    half = len(inputs) // 2 if held_out else 0
    fitting = inputs[:half] or inputs
    session = _Session(bundle, judge, min_agreement, fitting, inputs[half:], references[half:], tried_codecs)
    tried: dict[str | None, tuple[MeasuredRung, ...]] = {}
    places = []
    for cut in [*([] if bundle.manifest.stateful else [None]), *chosen]:
        progress("the whole input" if cut is None else f"cut {cut}")
        place = session.measure(cut)
        tried[cut] = place.rungs
        places.append(_kept(place))
    ladder = Ladder(
        bundle.digest.hex(),
        f"{platform.machine()} {bundle.costs.machine.partition(' ')[2]}",
        median(times),
        _name_of(metric),
        len(session.inputs),
        held_out,
        min_agreement,
        tuple(places),
        session.reply(),
    )
    return Calibration(ladder, tried)


def packed_bytes(outputs: Tensors) -> int:
    """What a reply with these outputs brings, lossless."""
    return sum(len(tensor.data) for tensor in encode("lossless", outputs, {}))


def _answers(bundle: Bundle, inputs: Sequence[Tensors]) -> tuple[list[Tensors], list[float]]:
    """The whole model's answers, all of which are kept to judge by, and the milliseconds that each took."""
    references: list[Tensors] = []
    times, held = [], 0
    for sample in inputs:
        started = time.perf_counter()
        references.append(bundle.run_tail(None, sample))
        times.append((time.perf_counter() - started) * 1e3)
        held += sum(tensor.nbytes for tensor in references[-1].values())
        if held > MAX_ANSWER_BYTES:
            raise InputError(
                f"the answers of bundle {bundle.name!r} to {len(references)} inputs take {held} bytes, and "
                f"{MAX_ANSWER_BYTES} are kept; calibrate with fewer inputs, --samples {max(1, len(references) - 1)}"
            )
    return references, times


def _judge(metric: str | Metric, references: Sequence[Tensors]) -> Metric:
    """The metric, once it has found that each of these answers agrees with itself. Raises InputError."""
    judge = find_metric(metric, references) if isinstance(metric, str) else checked(metric, _name_of(metric))
    for reference in references:
        itself = judge(reference, reference)
        if itself < 1.0 - _ROUNDING:
            raise InputError(
                f"metric {_name_of(metric)!r} gives {itself} for an answer and itself, needed 1; choose another metric"
            )
    return judge


def _name_of(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__qualname__", type(metric).__name__)


def _kept(place: Place) -> Place:
    """The best rungs of a place; its bases only where one of them needs any."""
    rungs = pareto(place.rungs)
    needed = any(find_codec(rung.codec).family == "klt" for rung in rungs)
    return replace(place, rungs=rungs, bases=place.bases if needed else {})


def pareto(rungs: Iterable[MeasuredRung]) -> tuple[MeasuredRung, ...]:
    """Those that no other beats in size, agreement and time together, and those that are always there; by size.

    What loses nothing is beaten only by its like: where nothing may be lost, a lossy rung is none to choose.
    """
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
    return min(gains) >= 0 and max(gains) > 0 and (one.lossless or not other.lossless)


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
        settings, samples = self._settings(cut)
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

    def reply(self) -> ReplySize:
        """What comes back of the whole model."""
        sizes = [sum(tensor.nbytes for tensor in reference.values()) for reference in self._references]
        packed = [packed_bytes(reference) for reference in self._references]
        model = fit_size(self._features, sizes) if len(set(sizes)) > 1 else None
        return ReplySize(fmean(sizes), spread(sizes), model, fmean(packed))

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

    def _settings(self, cut: str | None) -> tuple[Settings, list[Tensors]]:
        """Bases and layouts, from the inputs that set rungs up, and what crosses for the first of these that tell.

        Those are the ones in which there is something to code: a black picture or silence would rule out all codecs.
        """
        sums: dict[str, Covariance] = {}
        smaller: dict[str, int] = {}
        first: list[Tensors] = []
        telling: list[Tensors] = []
        for sample in self._fitting:
            crossing, _ = self._head(cut, sample)
            if len(first) < _TRIED_FOR_ENTROPY:
                first.append(crossing)
            tells = len(telling) < _TRIED_FOR_ENTROPY and applies(_LAYOUT_CODEC, crossing, {}, UNCALIBRATED)
            if tells:
                telling.append(crossing)
            for name, tensor in crossing.items():
                axis = channel_axis(tensor.shape, self._bundle.manifest.engine)
                if tensor.dtype.kind != "f" or axis is None or not tensor.size or cut is None:
                    continue
                known = sums.setdefault(name, Covariance(axis, tensor.shape[axis]))
                if known.axis == axis and known.channels == tensor.shape[axis]:
                    known.add(np.asarray(tensor, np.float32))
                if axis == -1 and tells:
                    smaller[name] = smaller.get(name, 0) + _gain_of_last_first(name, tensor)
        bases = {name: basis for name, found in sums.items() if (basis := found.basis()) is not None}
        last_first = frozenset(name for name, gain in smaller.items() if gain > 0)
        return Settings(bases=bases, last_first=last_first), telling or first

    def _trials(
        self, cut: str | None, codecs: Sequence[str], settings: Settings, samples: Sequence[Tensors]
    ) -> list[Trial]:
        """Of these codecs, those that do anything to what crosses and whose libraries are here."""
        specs = self._bundle.crossing_specs(cut)
        trials = []
        for codec in codecs:
            try:
                if any(applies(codec, sample, self._semantics, settings) for sample in samples):
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
            found.append(size_features(analysis.features, sample))
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
