"""How well scores do: against the target, against the bytes at the cuts, and on pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from midstream_training.examples import Examples, Ordered
from midstream_training.views import Seen

Scorer = Callable[[Seen], NDArray[np.floating]]


@dataclass(frozen=True)
class Scores:
    """What a way of scoring gives: of examples, and of both sides of pairs."""

    examples: NDArray[np.floating]
    less: NDArray[np.floating]
    more: NDArray[np.floating]

    @staticmethod
    def of(scorer: Scorer, tried: Examples, pairs: Ordered) -> Scores:
        """Clipped to 0–1, as the SDK does."""
        return Scores(*(np.clip(scorer(each), 0.0, 1.0) for each in (tried.seen, pairs.less, pairs.more)))


@dataclass(frozen=True)
class Figures:
    """Mean absolute error in points, Spearman's ranks, and the share of pairs in their order, by change."""

    error: float
    rank: float
    rank_with_bytes: float
    pairs: float
    by_change: dict[str, float]

    @staticmethod
    def of(scores: Scores, tried: Examples, pairs: Ordered) -> Figures:
        """Of scores of 0–1."""
        right = scores.more > scores.less
        return Figures(
            100 * float(np.abs(scores.examples - tried.targets).mean()),
            float(spearmanr(scores.examples, tried.targets)[0]),
            float(spearmanr(scores.examples, tried.costs)[0]),
            float(right.mean()),
            {str(change): float(right[pairs.changes == change].mean()) for change in np.unique(pairs.changes)},
        )

    def __str__(self) -> str:
        changes = ", ".join(f"{change} {share:.0%}" for change, share in self.by_change.items())
        return (
            f"error {self.error:.2f} points, rank {self.rank:.3f}, with bytes {self.rank_with_bytes:.3f}, "
            f"pairs {self.pairs:.1%} ({changes})"
        )
