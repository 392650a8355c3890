"""How much a changed model still answers what the model before the change does.

An output is one of three kinds, by what the model before gives on all inputs:

- ``scores``: it has two axes or more, the last of two values or more, and either there is one such vector an input, or
  each vector is 0 or more and sums to 1. The answer is the place of the largest value in each vector.
- ``values``: any other floating-point output. The answer stays while no value moves by more than ``NEAR`` of the range
  of this output over all inputs.
- ``exact``: integers and truth values. The answer is all of them.

An input keeps its answer where every output does; the agreement is the share of inputs that do. Differences are in
shares of the output's range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from midstream.agreement import NEAR, ValueRange, is_scores
from midstream.manifest import OutputChange
from midstream.tensors import Tensor


@dataclass
class _Output:
    """What was seen of one output; ``tops`` and ``largest`` by input, infinite where there is no difference to take."""

    floating: bool = True
    scores: bool = True
    values: ValueRange = field(default_factory=ValueRange)
    total: float = 0.0
    count: int = 0
    tops: list[bool] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)

    def add(self, want: Tensor, got: Tensor) -> None:
        self.floating = self.floating and want.dtype.kind == "f"
        self.scores = self.scores and is_scores(want)
        self.values.add(want)
        if want.shape != got.shape or want.dtype != got.dtype:
            self.tops.append(False)
            self.largest.append(math.inf)
            return
        with np.errstate(invalid="ignore", over="ignore"):
            left, right = want.astype(np.float64), got.astype(np.float64)
            same = (left == right) | (np.isnan(left) & np.isnan(right))
            difference = np.where(same, 0.0, np.abs(left - right))
        difference[np.isnan(difference)] = math.inf
        self.tops.append(self.scores and bool(np.array_equal(want.argmax(-1), got.argmax(-1))))
        self.largest.append(float(difference.max(initial=0.0)))
        if math.isfinite(self.largest[-1]):
            self.total += float(difference.sum())
            self.count += difference.size

    @property
    def kind(self) -> str:
        return "exact" if not self.floating else "scores" if self.scores else "values"

    def kept(self) -> list[bool]:
        if self.kind == "scores":
            return self.tops
        near = 0.0 if self.kind == "exact" else NEAR * self.values.size
        return [largest <= near for largest in self.largest]

    def change(self, name: str) -> OutputChange:
        kept = self.kept()
        finite = [largest for largest in self.largest if math.isfinite(largest)]
        scale = self.values.size
        return OutputChange(
            name,
            self.kind,
            sum(kept) / len(kept),
            max(finite) / scale if finite else None,
            self.total / max(1, self.count) / scale if finite else None,
        )


class Comparison:
    """Answers of two models to the same inputs, taken one input after the other; no answer is kept."""

    def __init__(self) -> None:
        self._outputs: dict[str, _Output] = {}
        self.samples = 0

    def add(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """The answers to one input, of the same names."""
        self.samples += 1
        for name, want in before.items():
            self._outputs.setdefault(name, _Output()).add(want, after[name])

    def agreement(self) -> float:
        """The share of inputs that keep their answer; there was at least one."""
        kept = zip(*(output.kept() for output in self._outputs.values()), strict=True)
        return sum(map(all, kept)) / self.samples

    def changes(self) -> tuple[OutputChange, ...]:
        """Each output by itself."""
        return tuple(output.change(name) for name, output in self._outputs.items())
