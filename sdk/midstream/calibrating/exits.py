"""Learning an early exit: the model's own answers, taught to a matrix over what crosses a cut.

For every cut with a cheap enough head, what crosses is pooled and a ridge regression learns the model's scores before
the softmax (matching logits: Ba and Caruana, "Do Deep Nets Really Need to be Deep?", 2014). Its answers to inputs that
it was not fitted to, a part left out at a time, choose grid, penalty and threshold; inputs that were held out from all
of this then say how good the exit is. Parts are runs of neighbours: in a folder these are often of one speaker, writer
or place, and an exit meets others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from midstream.analysis import analyze_inputs
from midstream.bundle import Bundle
from midstream.calibrating.chances import fit_chance
from midstream.errors import InputError
from midstream.exits import Exit, Pooling, Scores, choices, confidence, logits, pooled, told
from midstream.tensors import Tensor, Tensors, TensorSpec

DEFAULT_TARGET = 0.99
MAX_EXIT_INPUTS = 2000
DEAREST = 0.5
"""Head and exit may take this share of the whole model's time."""

_GRIDS = (1, 2, 4)
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)
_MAX_NUMBERS = 4096
_MAX_SCORES = 4096
_RUNS = 20
_PARTS = 5
# Two for each run.
_FEWEST_INPUTS = 2 * _RUNS
_HELD_EVERY = 4
_SUM_TOLERANCE = 1e-2
_TIMED = 20
_DOUBT = 0.05
_FEWEST_CLASSES = 2
# Numbers that vary by less than this share of themselves are constant but for their rounding.
_CONSTANT = 1e-6


@dataclass(frozen=True, slots=True)
class TriedExit:
    """What came of a cut: a reason why there is no exit, or its shares on the held-out inputs.

    ``cost_share`` is that of head and exit of the whole model's time; ``gain`` the part of the whole model's time that
    the device saves on average where it answers all inputs by itself, negative where it loses.
    """

    cut: str
    reason: str | None
    cost_share: float = math.nan
    answered_share: float = 0.0
    agreement: float = math.nan
    gain: float = math.nan


@dataclass(frozen=True, slots=True)
class LearnedExit:
    """The best exit, or why there is none, and all cuts that were looked at."""

    exit: Exit | None
    reason: str | None
    tried: tuple[TriedExit, ...]


@dataclass
class _Answers:
    """The whole model's answers to all inputs, which of them are learned from, in parts, and which held out."""

    output: TensorSpec
    scores: Scores
    targets: NDArray[np.float64]
    parts: Sequence[NDArray[np.int64]]
    held: NDArray[np.int64]
    features: Sequence[Mapping[str, float]] = field(default_factory=list)

    @property
    def learned(self) -> NDArray[np.int64]:
        """All that are learned from, part by part."""
        return np.concatenate(self.parts)


@dataclass
class _Fit:
    """A regression: its weights, its answers to what it learned from, each part left out once, and their error."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    left_out: NDArray[np.float64]
    error: float


def learn_exit(
    bundle: Bundle,
    samples: Sequence[Tensors],
    *,
    target: float = DEFAULT_TARGET,
    cuts: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> LearnedExit:
    """The exit that saves most, from inputs that `Bundle.run` takes.

    ``target`` is the agreement with the whole model that answered inputs shall have; ``cuts`` the ones to try
    (default: all). Raises InputError where the inputs are too few to tell this agreement, or do not fit; BundleError on
    an unknown cut.
    """
    if not 0 < 1.0 - target < 1:
        raise InputError(f"an agreement of {target!r} cannot be shown of an exit; take one above 0 and below 1")
    fewest = max(fewest_inputs(target), _FEWEST_INPUTS)
    if len(samples) < fewest:
        raise InputError(
            f"{len(samples)} inputs cannot show an agreement of {target:g}: even without a mistake it takes {fewest}; "
            "give more, or ask for less with --agreement"
        )
    chosen = [bundle.manifest.cut(cut) for cut in (cuts if cuts is not None else [cut.id for cut in bundle.cuts])]
    inputs = [bundle.check_inputs(sample) for sample in samples]
    progress(f"the whole model on {len(inputs)} inputs")
    answers, problem = _answers(bundle, inputs)
    if answers is None:
        return LearnedExit(None, problem, ())
    best, most = None, 0.0
    tried: list[TriedExit] = []
    for cut in chosen:
        progress(f"cut {cut.id}")
        found, told = _at_cut(bundle, cut.id, inputs, answers, target)
        bundle.unload(cut.id)
        tried.append(told)
        if found is not None and told.gain > most:
            best, most = found, told.gain
    if best is None:
        return LearnedExit(None, "no cut has an exit that saves the device time; " + _nearest(tried), tuple(tried))
    return LearnedExit(best, None, tuple(tried))


def fewest_inputs(target: float) -> int:
    """How many inputs it takes to show this agreement, if all of them are answered and none wrongly."""
    return math.ceil(math.log(_DOUBT) / math.log(target) * _HELD_EVERY / (_HELD_EVERY - 1))


def _answers(bundle: Bundle, inputs: Sequence[Tensors]) -> tuple[_Answers | None, str]:
    if len(bundle.outputs) != 1:
        names = ", ".join(spec.name for spec in bundle.outputs)
        return None, f"the model has {len(bundle.outputs)} outputs ({names}); an exit answers one, of scores"
    output = bundle.outputs[0]
    if (
        any(None in spec.shape for spec in bundle.manifest.free_inputs())
        and None in output.shape[-1:] + output.shape[1:]
    ):
        return None, f"output {output} has sizes that change with the input's, and an exit's answer has one size"
    found = [bundle.run_tail(None, sample)[output.name] for sample in inputs]
    scores = kind_of_scores(output, found)
    if scores is None:
        return None, f"output {output} is not one vector of scores, which is what an exit answers"
    targets = np.array([logits(answer, output, scores) for answer in found])
    for at in np.flatnonzero(~np.isfinite(targets).all(1)).tolist():
        if not all(np.isfinite(tensor).all() for tensor in inputs[at].values()):
            raise InputError(f"input {at + 1} of {len(inputs)} has NaN or infinite elements; leave it out")
        return None, f"output {output.name!r} is not finite for input {at + 1} of {len(inputs)}"
    if len(np.unique(choices(targets))) < _FEWEST_CLASSES:
        return None, "the model gives all inputs the same answer; give inputs of all kinds"
    parts, held = parted(choices(targets))
    analyses = [analyze_inputs(sample, bundle.manifest.semantics) for sample in inputs]
    known = [analysis.features for analysis in analyses if analysis is not None]
    features = known if len(known) == len(inputs) else []
    return _Answers(output, scores, targets, parts, held, features), ""


def kind_of_scores(output: TensorSpec, answers: Sequence[Tensor]) -> Scores | None:
    """What the scores are; None where they are none, or not of one vector."""
    shapes = {answer.shape for answer in answers}
    if len(shapes) != 1 or not 0 < max((*answers[0].shape, 0)) == answers[0].size <= _MAX_SCORES:
        return None
    if output.dtype.kind != "f" and (output.scale is None or output.dtype.kind not in "iu"):
        return None
    values = np.array(
        [(answer.astype(np.float64) - (output.zero_point or 0)) * (output.scale or 1.0) for answer in answers]
    )
    values = values.reshape(len(answers), -1)
    shares = bool(np.all(values >= 0) and np.all(values <= 1 + _SUM_TOLERANCE))
    if values.shape[1] == 1:
        return "share" if shares else None
    rounding = 0.5 * (output.scale or 0.0) * values.shape[1]
    return "shares" if shares and np.all(np.abs(values.sum(1) - 1) <= _SUM_TOLERANCE + rounding) else "logits"


def _at_cut(
    bundle: Bundle, cut: str, inputs: Sequence[Tensors], answers: _Answers, target: float
) -> tuple[Exit | None, TriedExit]:
    specs = bundle.crossing_specs(cut)
    whole_ms, head_ms = _times_ms(bundle, cut, inputs)

    def none(reason: str) -> tuple[None, TriedExit]:
        return None, TriedExit(cut, reason, head_ms / whole_ms)

    if head_ms > DEAREST * whole_ms:
        return none("its head alone takes too long")
    if bundle.manifest.cut(cut).head_outputs:
        return none("its head has the answer already")
    ways = ways_to_pool(specs, bundle.manifest.engine)
    if not ways:
        return none("what crosses is too large, or of no fixed number of channels")
    tables = _pooled(bundle, cut, inputs, ways)
    fits = [
        (_fitted(table.astype(np.float64), answers), poolings, table)
        for poolings, table in zip(ways, tables, strict=True)
        if np.isfinite(table).all()
    ]
    if not fits:
        return none("what crosses is not finite for all inputs")
    fit, chosen, table = min(fits, key=lambda each: each[0].error)
    taught = choices(answers.targets)
    sure = confidence(fit.left_out)
    least = threshold(sure, told(fit.left_out, answers.scores, answers.output) == taught[answers.learned], target)
    if least is None:
        return none(f"no threshold reaches {target:g}")
    found = Exit(
        bundle=bundle.digest.hex(),
        cut=cut,
        output=answers.output.name,
        scores=answers.scores,
        poolings=chosen,
        weights=fit.weights.astype(np.float32),
        bias=fit.bias.astype(np.float32),
        threshold=least,
        target=target,
        answered_share=0.0,
        agreement=0.0,
        samples=len(answers.learned),
        held_out=len(answers.held),
        head_ms=head_ms,
        exit_ms=0.0,
        whole_ms=whole_ms,
        chance=fit_chance([answers.features[at] for at in answers.learned] if answers.features else [], sure >= least),
    )
    # As at run time, in single precision.
    held = found.scores_of(table[answers.held])
    answered = np.isfinite(held).all(1) & (confidence(held) >= least)
    if not answered.any():
        return none("it answers no input that was held out")
    agreed = (told(held, answers.scores, answers.output) == taught[answers.held])[answered]
    whole_ms, begun_ms = _times_ms(bundle, cut, inputs, found)
    head_ms = min(begun_ms, head_ms * whole_ms / found.whole_ms)
    found = replace(
        found,
        answered_share=float(answered.mean()),
        agreement=float(agreed.mean()),
        whole_ms=whole_ms,
        head_ms=head_ms,
        exit_ms=begun_ms - head_ms,
    )
    return _worth(found, begun_ms / whole_ms, bundle.costs.cuts[cut].tail_ms / bundle.costs.whole_ms)


def _pooled(
    bundle: Bundle, cut: str, inputs: Sequence[Tensors], ways: Sequence[Mapping[str, Pooling]]
) -> list[NDArray[np.float32]]:
    """What crosses for each input, as numbers, in each of these ways."""
    specs = bundle.crossing_specs(cut)
    rows: list[list[NDArray[np.float32]]] = [[] for _ in ways]
    for sample in inputs:
        crossing, _ = bundle.run_head(cut, sample)
        for kept, poolings in zip(rows, ways, strict=True):
            kept.append(pooled(poolings, crossing, specs))
    return [np.array(kept) for kept in rows]


def _worth(found: Exit, cost: float, tail_share: float) -> tuple[Exit | None, TriedExit]:
    """The exit where it is cheap and saves time where the device answers all by itself, and what is told of it.

    ``cost`` and ``tail_share`` are the times of head and exit, and of the tail, in shares of the whole model's.
    """
    gain = 1.0 - cost - (1.0 - found.answered_share) * min(1.0, tail_share)
    reason = None
    if cost > DEAREST:
        reason = "head and exit take too long"
    elif gain <= 0:
        reason = "it answers too few inputs"
    told = TriedExit(found.cut, reason, cost, found.answered_share, found.agreement, gain)
    return (found if reason is None else None), told


def ways_to_pool(specs: Sequence[TensorSpec], engine: str) -> list[dict[str, Pooling]]:
    """The ways to pool these tensors that are tried: in each grid, and sequences in ONNX with their channels either
    last or before the steps, as nothing says which.
    """
    both = engine == "onnx" and any(len(spec.shape) == 3 for spec in specs)
    tried = [_poolings(specs, engine, grid, axis) for axis in ((-1, 1) if both else (-1,)) for grid in _GRIDS]
    return [poolings for poolings in tried if poolings is not None]


def _poolings(specs: Sequence[TensorSpec], engine: str, grid: int, sequences: int) -> dict[str, Pooling] | None:
    """How to pool these tensors; None where that gives too many numbers, or an unknown number of them.

    ``sequences`` is the axis of the channels in those of three axes.
    """
    found: dict[str, Pooling] = {}
    total = 0
    for spec in specs:
        axis = sequences if len(spec.shape) == 3 else 1 if engine == "onnx" else -1
        images = len(spec.shape) in (3, 4) and spec.shape[0] in (1, None)
        pooling = Pooling(axis if images else None, grid)
        numbers = pooling.count(spec.shape)
        if numbers is None or spec.may_be_empty:
            return None
        found[spec.name] = pooling
        total += numbers
    return found if 0 < total <= _MAX_NUMBERS else None


def parted(answered: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Inputs to learn from, in parts, and inputs to hold out: runs of neighbours, of which every fourth is held out.

    ``answered`` are the classes that the model gave them. Where neighbours are of one class, runs would be classes, and
    the parts are taken at random.
    """
    count = len(answered)
    order = np.arange(count)
    shares = np.bincount(answered) / count
    alike = float(np.mean(answered[1:] == answered[:-1]))
    if alike > 0.5 * (1.0 + float(shares @ shares)):
        order = np.random.default_rng(0).permutation(count)
    runs = np.array_split(order, _RUNS)
    held = np.concatenate(runs[_HELD_EVERY - 1 :: _HELD_EVERY])
    others = [run for at, run in enumerate(runs) if at % _HELD_EVERY != _HELD_EVERY - 1]
    return [np.concatenate(others[part::_PARTS]) for part in range(_PARTS)], held


def _fitted(table: NDArray[np.float64], answers: _Answers) -> _Fit:
    """The ridge regression with the penalty that errs least on parts that are left out."""
    learned = answers.learned
    taught = answers.targets[learned]
    left_out = {penalty: np.zeros_like(taught) for penalty in _PENALTIES}
    for part in answers.parts:
        tried = np.isin(learned, part)
        for penalty, (weights, bias) in ridges(table[learned[~tried]], taught[~tried]).items():
            left_out[penalty][tried] = table[part] @ weights + bias
    errors = {penalty: float(np.mean((found - taught) ** 2)) for penalty, found in left_out.items()}
    best = min(errors, key=errors.__getitem__)
    weights, bias = ridges(table[learned], taught)[best]
    return _Fit(weights, bias, left_out[best], errors[best])


def ridges(
    table: NDArray[np.float64], targets: NDArray[np.float64]
) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Weights and bias for each penalty, of numbers scaled to one deviation while they are fitted."""
    mean, deviation = table.mean(0), table.std(0)
    deviation[deviation <= _CONSTANT * np.abs(mean)] = math.inf
    middle = targets.mean(0)
    left, singular, right = np.linalg.svd((table - mean) / deviation, full_matrices=False)
    turned = left.T @ (targets - middle)
    found = {}
    for penalty in _PENALTIES:
        shrunk = (singular / (singular**2 + penalty))[:, np.newaxis] * turned
        weights = (right.T @ shrunk) / deviation[:, np.newaxis]
        found[penalty] = (weights, middle - mean @ weights)
    return found


def threshold(sure: NDArray[np.float64], right: NDArray[np.bool_], target: float) -> float | None:
    """The least confidence above which the answers are shown to agree by ``target``, or None.

    Shown is what so few mistakes among so many answers would in one of twenty cases at most be seen of if they agreed
    by less (the bound of Clopper and Pearson 1934, as in Geifman and El-Yaniv, "Selective Classification", 2017).
    """
    order = np.argsort(-sure, kind="stable")
    mistakes = np.cumsum(~right[order])
    # Answers of one confidence are given or not given together.
    last_of_its_kind = np.append(sure[order][1:] < sure[order][:-1], True)
    for at in np.flatnonzero(last_of_its_kind)[::-1]:
        if _as_few(int(mistakes[at]), int(at) + 1, 1.0 - target) <= _DOUBT:
            return float(sure[order][at])
    return None


def _as_few(mistakes: int, answers: int, rate: float) -> float:
    """The probability of at most so many mistakes among so many answers, each being one at this rate."""
    return sum(
        math.exp(
            math.lgamma(answers + 1)
            - math.lgamma(count + 1)
            - math.lgamma(answers - count + 1)
            + count * math.log(rate)
            + (answers - count) * math.log1p(-rate)
        )
        for count in range(mistakes + 1)
    )


def _times_ms(bundle: Bundle, cut: str, inputs: Sequence[Tensors], early: Exit | None = None) -> tuple[float, float]:
    """Medians of the whole model, and of the head with the exit where there is one.

    They take turns, so that whatever else the machine does meets both alike, and each finds the other's caches.
    """
    specs, output = bundle.crossing_specs(cut), bundle.outputs[0]
    whole, begun = [], []
    for sample in inputs[: _TIMED + 1]:
        started = time.perf_counter()
        bundle.run_tail(None, sample)
        between = time.perf_counter()
        crossing, _ = bundle.run_head(cut, sample)
        if early is not None:
            early.answer(crossing, specs, output)
        whole.append((between - started) * 1e3)
        begun.append((time.perf_counter() - between) * 1e3)
    # The first run loads.
    return median(whole[1:]), median(begun[1:])


def _nearest(tried: Sequence[TriedExit]) -> str:
    """The cut that came nearest, in words."""
    measured = [each for each in tried if each.gain == each.gain]
    if not measured:
        reasons = sorted({each.reason for each in tried if each.reason})
        return "; ".join(reasons) or "the bundle has no cuts"
    best = max(measured, key=lambda each: each.gain)
    share, cost = f"{best.answered_share:.0%}", f"{best.cost_share:.0%}"
    return f"the nearest is {best.cut}: {share} answered, at {cost} of the whole model's time"
