"""How far an answer is still the answer: metrics between two sets of a model's outputs, each from 0 to 1.

===============  ===============================================================================================
``argmax``       the share of the vectors along the last axis whose largest value is in the same place
``text``         1 where the text is the same: the places of the largest values, repeats and blanks left out
``mask``         F1 of the elements above ``score`` (0.5)
``regions``      F1 of the boxes around connected elements above ``score`` (0.3) and at least ``side`` (3) elements
                 high and wide, those matching that overlap with an intersection over union of ``iou`` (0.5)
``boxes``        the same for an output of boxes (…, N, 4); ``scores`` names the output of their scores, of which
                 those above ``score`` (0.5) count; ``format`` is xyxy, yxyx, xywh or cxcywh
``max_error``    1 where no value moves by more than ``limit`` (0.05) of the range of this output over all inputs
``cosine``       cosine similarity, 0 where it is negative
``exact``        1 where all values are the same
``auto``         for each output what fits it; the smallest of them
===============  ===============================================================================================

A metric is written ``KIND``, ``KIND@OUTPUT`` or ``KIND@OUTPUT:KEY=VALUE,…``; without an output it holds for all of
them, and the smallest counts. An output's name may have colons of its own. ``MODULE:FUNCTION`` is a metric of the
user's own; a module named like one of the kinds has to be called by a longer path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError
from midstream.tensors import Tensor, Tensors

Metric = Callable[[Tensors, Tensors], float]
"""Wanted and found outputs by name, to an agreement of 0 to 1."""

NEAR = 0.05
_SUM_TOLERANCE = 1e-3
# What options may be; those that are not here, any number.
_BOUNDS = {"blank": (0.0, float(1 << 31)), "iou": (0.0, 1.0), "limit": (0.0, math.inf)}
_FORMATS = ("xyxy", "yxyx", "xywh", "cxcywh")
_MAX_MATCHED = 1000
_MIN_MAP_SIDE = 8

Of = Callable[[Tensor, Tensor], float]
"""The same for one output."""


def find_metric(text: str, references: Sequence[Tensors]) -> Metric:
    """The metric of this name, or ``MODULE:FUNCTION`` for one's own; ``references`` are the whole model's answers.

    Raises InputError on an unknown kind, output or option, or a function that cannot be imported.
    """
    if not references:
        raise InputError(f"metric {text!r} needs at least one answer of the whole model to judge by; there is none")
    outputs = {name: [answer[name] for answer in references] for name in references[0]}
    kind, written = _split(text)
    if kind is None:
        if own := _imported(text):
            return own
        kinds = ", ".join(_NAMES)
        raise InputError(f"metric {text!r} is unknown; there are {kinds}, and MODULE:FUNCTION for one of your own")
    output, options = _output_and_options(written, tuple(outputs), text)
    if kind == "boxes":
        return _boxes_metric(text, output, options, outputs)
    names = list(outputs) if output is None else [output]
    chosen = {name: fitting(outputs[name]) if kind == "auto" else kind for name in names}
    parts = {name: _of(chosen[name], outputs[name], options, text) for name in names}
    return lambda want, got: min(_one(of, want[name], got[name]) for name, of in parts.items())


def checked(function: Callable[[Tensors, Tensors], Any], name: str) -> Metric:
    """A metric of the user's own, which raises InputError where it fails or gives no number from 0 to 1."""
    return partial(_own, function=function, text=name)


def fitting(answers: Sequence[Tensor]) -> str:
    """The kind of metric that fits an output, by what it holds for all inputs; empty answers say nothing of it."""
    filled = [answer for answer in answers if answer.size]
    if not filled or any(answer.dtype.kind != "f" for answer in filled):
        return "exact"
    if all(map(is_scores, filled)):
        single = all(math.prod(answer.shape[:-1]) == 1 for answer in filled)
        return "argmax" if single or any(answer.ndim != 3 for answer in filled) else "text"
    return "mask" if all(map(_is_map, filled)) else "max_error"


def is_scores(value: Tensor) -> bool:
    """Whether an output is one vector, or vectors of shares, along its last axis."""
    if value.dtype.kind != "f" or value.ndim < 2 or value.shape[-1] < 2:
        return False
    if math.prod(value.shape[:-1]) == 1:
        return True
    shares = value.astype(np.float64)
    return bool(np.all(shares >= 0) and np.all(np.abs(shares.sum(-1) - 1) <= _SUM_TOLERANCE))


def box_f1(want: NDArray[np.floating], got: NDArray[np.floating], iou: float = 0.5) -> float:
    """F1 of boxes (N × 4, x and y of two corners): matched greedily, the best overlap first; 1 where there are none.

    Only the first thousand of each count. Two boxes overlap fully where they are alike, without any area too.
    """
    wanted, found = (boxes[:_MAX_MATCHED].astype(np.float64) for boxes in (want, got))
    if not len(wanted) and not len(found):
        return 1.0
    overlap = _overlaps(wanted, found)
    rows, columns = np.nonzero(overlap >= iou)
    best_first = np.argsort(-overlap[rows, columns], kind="stable")
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    matched = 0
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            matched += 1
    return 2 * matched / (len(wanted) + len(found))


def _is_map(value: NDArray[Any]) -> bool:
    sides = [size for size in value.shape if size >= _MIN_MAP_SIDE]
    return len(sides) >= 2 and bool(np.min(value) >= 0 and np.max(value) <= 1)


def _one(of: Of, want: Tensor, got: Tensor) -> float:
    if want.shape != got.shape or want.dtype != got.dtype:
        return 0.0
    return of(want, got) if want.size else 1.0


def _of(kind: str, answers: Sequence[Tensor], options: Mapping[str, str], text: str) -> Of:
    allowed, axes = _KINDS[kind], _FEWEST_AXES.get(kind, 0)
    shapes = {answer.shape for answer in answers if answer.ndim < axes}
    if shapes:
        raise InputError(f"metric {text!r}: {kind} needs an output of {axes} axes or more, not of shape {min(shapes)}")
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        known = ", ".join(allowed) or "none"
        raise InputError(f"metric {text!r}: {kind} has no option {unknown[0]!r}; it has {known}")
    numbers = {key: _number(options.get(key), default, key, text) for key, default in allowed.items()}
    match kind:
        case "argmax":
            return _argmax
        case "text":
            return partial(_text, blank=int(numbers["blank"]) if "blank" in options else _likely_blank(answers))
        case "mask":
            return partial(_mask, score=numbers["score"])
        case "regions":
            return partial(_regions, score=numbers["score"], iou=numbers["iou"], side=numbers["side"])
        case "max_error":
            return partial(_near, limit=numbers["limit"] * value_range(answers))
        case "cosine":
            return _cosine
    return _exact


@dataclass(slots=True)
class ValueRange:
    """The finite values of an output, taken one answer after the other."""

    low: float = math.inf
    high: float = -math.inf

    def add(self, answer: Tensor) -> None:
        """One more answer."""
        finite = answer[np.isfinite(answer)] if answer.dtype.kind == "f" else answer
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    @property
    def size(self) -> float:
        """How far they reach; where all are one, that value's size, and 1 where that is 0 or there are none."""
        if self.high > self.low:
            return self.high - self.low
        return (abs(self.high) if math.isfinite(self.high) else 0.0) or 1.0


def value_range(answers: Iterable[Tensor]) -> float:
    """`ValueRange.size` of all of them."""
    found = ValueRange()
    for answer in answers:
        found.add(answer)
    return found.size


def _argmax(want: Tensor, got: Tensor) -> float:
    return float(np.mean(want.argmax(-1) == got.argmax(-1)))


def _text(want: Tensor, got: Tensor, blank: int) -> float:
    return float(_collapsed(want, blank) == _collapsed(got, blank))


def _collapsed(scores: Tensor, blank: int) -> list[list[int]]:
    """What a connectionist temporal classification reads: no repeats, no blanks."""
    lines = scores.argmax(-1).reshape(-1, scores.shape[-2])
    return [
        [int(place) for at, place in enumerate(line) if place != blank and (at == 0 or place != line[at - 1])]
        for line in lines
    ]


def _likely_blank(answers: Sequence[Tensor]) -> int:
    """The first or the last place, whichever is the largest more often."""
    filled = [answer for answer in answers if answer.size]
    if not filled:
        return 0
    last = filled[0].shape[-1] - 1
    places = np.concatenate([answer.argmax(-1).reshape(-1) for answer in filled])
    return 0 if np.count_nonzero(places == 0) >= np.count_nonzero(places == last) else last


def _mask(want: NDArray[Any], got: NDArray[Any], score: float) -> float:
    above, found = want > score, got > score
    both = np.count_nonzero(above) + np.count_nonzero(found)
    return 2 * np.count_nonzero(above & found) / both if both else 1.0


def _regions(want: Tensor, got: Tensor, score: float, iou: float, side: float) -> float:
    pairs = _planes(want, got)
    return float(np.mean([box_f1(_around(a, score, side), _around(b, score, side), iou) for a, b in pairs]))


def _planes(want: Tensor, got: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The pictures in a map: its two largest axes, in their order."""
    axes = sorted(np.argsort(want.shape, kind="stable")[-2:])
    moved = [np.moveaxis(value, axes, (-2, -1)) for value in (want, got)]
    flat = [value.reshape(-1, *value.shape[-2:]) for value in moved]
    return zip(*flat, strict=True)


def _around(plane: NDArray[Any], score: float, side: float) -> NDArray[np.float64]:
    _, _, stats, _ = cv2.connectedComponentsWithStats((plane > score).astype(np.uint8))
    boxes = np.asarray(stats, np.float64)[1:, :4]
    boxes = boxes[boxes[:, 2:].min(axis=1) >= side]
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _near(want: Tensor, got: Tensor, limit: float) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = want.astype(np.float64), got.astype(np.float64)
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        return float(np.all(same | (np.abs(left - right) <= limit)))


def _cosine(want: Tensor, got: Tensor) -> float:
    left, right = want.astype(np.float64).reshape(-1), got.astype(np.float64).reshape(-1)
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    if not math.isfinite(lengths):
        return 0.0
    return max(0.0, min(1.0, float(left @ right) / lengths)) if lengths else float(np.array_equal(left, right))


def _exact(want: Tensor, got: Tensor) -> float:
    return float(np.array_equal(want, got, equal_nan=want.dtype.kind == "f"))


_FEWEST_AXES = {"argmax": 1, "text": 2, "regions": 2}
_KINDS: dict[str, dict[str, float]] = {
    "argmax": {},
    "text": {"blank": 0.0},
    "mask": {"score": 0.5},
    "regions": {"score": 0.3, "iou": 0.5, "side": 3.0},
    "max_error": {"limit": NEAR},
    "cosine": {},
    "exact": {},
}
_NAMES = (*_KINDS, "boxes", "auto")


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes of one output and their scores of another."""

    boxes: str
    scores: str | None
    corners: str
    score: float
    iou: float

    def __call__(self, want: Tensors, got: Tensors) -> float:
        return box_f1(self._found(want), self._found(got), self.iou)

    def _found(self, outputs: Tensors) -> NDArray[np.float64]:
        boxes = outputs[self.boxes].astype(np.float64).reshape(-1, 4)
        if self.scores is not None and len(boxes):
            scores = outputs[self.scores].astype(np.float64).reshape(len(boxes), -1).max(1)
            order = np.argsort(-scores, kind="stable")
            boxes = boxes[order[scores[order] > self.score]]
        first, second = boxes[:, :2], boxes[:, 2:]
        if self.corners == "yxyx":
            first, second = first[:, ::-1], second[:, ::-1]
        elif self.corners == "xywh":
            second = first + second
        elif self.corners == "cxcywh":
            first, second = first - second / 2, first + second / 2
        return np.concatenate([first, second], axis=1)


def _boxes_metric(
    text: str, output: str | None, options: Mapping[str, str], outputs: Mapping[str, Sequence[Tensor]]
) -> Metric:
    fours = [
        name for name, answers in outputs.items() if all(each.ndim >= 2 and each.shape[-1] == 4 for each in answers)
    ]
    name = output or (fours[0] if len(fours) == 1 else None)
    if name is None or name not in fours:
        raise InputError(
            f"metric {text!r} needs an output of boxes, four numbers each, boxes@OUTPUT: there "
            f"{'are ' + ', '.join(fours) if fours else 'is none'}"
        )
    unknown = sorted(set(options) - {"scores", "format", "score", "iou"})
    if unknown:
        raise InputError(f"metric {text!r}: boxes has no option {unknown[0]!r}; it has scores, format, score and iou")
    corners, scores = options.get("format", "xyxy"), options.get("scores")
    if corners not in _FORMATS:
        raise InputError(f"metric {text!r}: format {corners!r} is not one of {', '.join(_FORMATS)}")
    if scores is not None:
        if scores not in outputs:
            raise InputError(f"metric {text!r}: the model has no output {scores!r}; it has {', '.join(outputs)}")
        for boxes, found in zip(outputs[name], outputs[scores], strict=True):
            count = boxes.size // 4
            if found.size % count if count else found.size:
                raise InputError(f"metric {text!r}: output {scores!r} has no scores for the {count} boxes of {name!r}")
    score, iou = _number(options.get("score"), 0.5, "score", text), _number(options.get("iou"), 0.5, "iou", text)
    return _Boxes(name, scores, corners, score, iou)


def _overlaps(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every box with every other."""
    low = np.maximum(left[:, np.newaxis, :2], right[np.newaxis, :, :2])
    high = np.minimum(left[:, np.newaxis, 2:], right[np.newaxis, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (left, right)]
    union = areas[0][:, np.newaxis] + areas[1][np.newaxis, :] - shared
    shares = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    alike = (left[:, np.newaxis] == right[np.newaxis, :]) | (np.isnan(left[:, np.newaxis]) & np.isnan(right))
    return np.where(alike.all(-1), 1.0, np.nan_to_num(shares))


def _split(text: str) -> tuple[str | None, str]:
    """A metric's kind, None where it has none of those here, and what is written behind it."""
    kind = re.match("[a-z_]*", text)
    name = "" if kind is None else kind[0]
    rest = text[len(name) :]
    known = name in _NAMES and (not rest or rest[0] in "@:")
    return (name, rest) if known else (None, text)


def _output_and_options(text: str, outputs: Sequence[str], whole: str) -> tuple[str | None, dict[str, str]]:
    """What ``@OUTPUT:KEY=VALUE,…`` says; the longest output's name that fits is meant."""
    if not text.startswith("@"):
        return None, _options(text.removeprefix(":"), whole)
    named = text[1:]
    fitting_names = [name for name in outputs if named == name or named.startswith(f"{name}:")]
    if not fitting_names:
        known = ", ".join(outputs)
        raise InputError(f"metric {whole!r}: the model has no output {named.partition(':')[0]!r}; it has {known}")
    output = max(fitting_names, key=len)
    return output, _options(named[len(output) + 1 :], whole)


def _options(text: str, whole: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if any(not equals or not value for _, equals, value in pairs):
        raise InputError(f"metric {whole!r}: options are KEY=VALUE, separated by commas")
    return {key: value for key, _, value in pairs}


def _number(text: str | None, default: float, key: str, whole: str) -> float:
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = math.nan
    low, high = _BOUNDS.get(key, (-math.inf, math.inf))
    if not math.isfinite(number) or not low <= number <= high or (key == "blank" and not number.is_integer()):
        needed = {"blank": "a place, counted from 0", "iou": "a share of 0 to 1", "limit": "0 or more"}
        raise InputError(f"metric {whole!r}: {key} is {text!r}, needed {needed.get(key, 'a number')}")
    return number


def _imported(text: str) -> Metric | None:
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        return None
    try:
        function = getattr(import_module(module), name, None)
    except Exception as error:  # noqa: BLE001  whatever the user's module does while it is loaded
        raise InputError(
            f"metric {text!r}: cannot import {module!r}: {error!r}; its folder has to be on PYTHONPATH"
        ) from None
    if not callable(function):
        raise InputError(f"metric {text!r}: {module!r} has no function {name!r}")
    return checked(function, text)


def _own(want: Tensors, got: Tensors, function: Callable[[Tensors, Tensors], Any], text: str) -> float:
    """What a function of the user's says; raises InputError where that is no agreement."""
    try:
        found = function(want, got)
    except Exception as error:  # noqa: BLE001  whatever the user's function raises
        raise InputError(f"metric {text!r} failed: {error!r}; it takes two dicts of arrays, wanted and found") from None
    try:
        agreement = float(found)
    except (TypeError, ValueError):
        agreement = math.nan
    if not 0 <= agreement <= 1:
        raise InputError(f"metric {text!r} gave {found!r}, needed a number from 0 to 1")
    return agreement
