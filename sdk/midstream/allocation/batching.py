"""How many requests for the same tail run at once: what a run of several takes, and when that pays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

_SMOOTHING = 0.2
# One run that took far longer than expected counts as so many times as long.
_MOST = 4.0
# With every run, what is believed of the other sizes goes by this share towards a little less than was measured first,
# so that each is tried now and then: the whole model was measured, and a moment may have been a bad one. Where it was
# tried in vain so many times, it goes so many times more slowly.
_FORGETTING = 1 / 256
_HOPE = 0.9
# What is not known to differ by more counts as equal: the larger batch then leaves more time beside its run.
_ALIKE = 1.03


class BatchTimes:
    """What running so many at once is expected to take: learned from what it took, in proportion until it was tried."""

    def __init__(self, sizes: Iterable[int] = (), ratios: Mapping[int, float] | None = None) -> None:
        known = {} if ratios is None else ratios
        self._ratios = {size: known.get(size, float(size)) for size in sizes}
        self._hoped = {size: _HOPE * min(ratio, float(size)) for size, ratio in self._ratios.items()}
        self._in_vain = dict.fromkeys(self._ratios, 0)
        self._each = 1.0

    def ratio(self, size: int) -> float:
        """How many times as long as one alone; one that may not run at once never ends."""
        return 1.0 if size == 1 else self._ratios.get(size, math.inf)

    @property
    def each(self) -> float:
        """What each of the last ones took, in runs of one alone."""
        return self._each

    def ran(self, size: int, times: float) -> None:
        """So many at once took this many times as long as one alone is expected to."""
        if size in self._ratios:
            known = self._ratios[size]
            pays = times <= size * self._enough((1, *self._ratios))
            self._in_vain[size] = 0 if pays else self._in_vain[size] + 1
            self._ratios[size] = known + _SMOOTHING * (min(times, _MOST * known) - known)
        for other in self._ratios.keys() - {size}:
            share = _FORGETTING / (1 + self._in_vain[other])
            self._ratios[other] += share * (self._hoped[other] - self._ratios[other])
        self._each += _SMOOTHING * (self.ratio(size) / size - self._each)

    def size(self, waiting: int, *, behind: bool) -> int:
        """How many of those that wait for a worker to run now; the one that runs anyway is among them.

        Where more come than can be run alone (``behind``), as many as make each cheapest, the most of what is about as
        cheap; else so many that they end soonest on average: n at once of N, one batch after another, end after
        t(n)·(⌈N/n⌉ + 1)/2.
        """
        sizes = [1, *(size for size in self._ratios if size <= waiting)]
        if behind:
            enough = self._enough(sizes)
            return max(size for size in sizes if self.ratio(size) / size <= enough)
        return min(sizes, key=lambda size: (self.ratio(size) * (math.ceil(waiting / size) + 1) / 2, size))

    def _enough(self, sizes: Iterable[int]) -> float:
        """What each may take where it is to count as one of the cheapest of these sizes."""
        return _ALIKE * min(self.ratio(size) / size for size in sizes)

    def smaller(self, size: int) -> int:
        """The next size below."""
        return max((each for each in self._ratios if each < size), default=1)
