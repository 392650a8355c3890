"""What a gateway makes ready for the next interval: how many workers, which slices they keep loaded, how it batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from midstream.allocation.usage import Partition

# Workers are to be busy for at most this share of their time, by the high forecast: beyond, waits grow steeply.
_BUSY = 0.7
# Where they would be busier than this one request at a time, batches are as large as makes each request cheapest.
_BEHIND = 0.8
# What is loaded already is given up only for what is worth so much more.
_KEEP = 1.25


@dataclass(frozen=True, slots=True)
class Need:
    """What a partition is forecast to need in the next second.

    ``work_s`` is a worker's time and ``arrivals`` are requests, both by the high forecast; ``middle_work_s`` is by the
    middle one. Its slice takes ``memory_bytes`` in each worker and ``load_s`` to load; ``loaded`` says that it is.
    """

    partition: Partition
    work_s: float
    middle_work_s: float
    arrivals: float
    memory_bytes: float
    load_s: float
    loaded: bool = False

    @property
    def worth(self) -> float:
        """Seconds of waiting that a loaded slice is expected to save for each byte that it holds.

        Of who comes first, and of all who come while it is loaded.
        """
        arrivals = max(0.0, self.arrivals)
        saved_s = self.load_s * (-math.expm1(-arrivals) + arrivals * min(self.load_s, 1.0) / 2)
        return saved_s * (_KEEP if self.loaded else 1.0) / max(1.0, self.memory_bytes)


@dataclass(frozen=True, slots=True)
class Allocation:
    """So many ``workers`` take requests, each with the ``warm`` slices loaded, the most useful first.

    ``behind`` says that more is forecast to come than they can run one at a time.
    """

    workers: int
    warm: tuple[Partition, ...]
    behind: bool


def allocate(needs: Iterable[Need], workers: int, budget_bytes: float = math.inf, waiting_s: float = 0.0) -> Allocation:
    """What to make ready with at most so many workers, and so much memory for slices.

    ``waiting_s`` is the work of a worker that waits already.

    As many workers as memory has room for, each with all slices that may be asked for; where it has not for that many,
    no fewer than the forecast work keeps busy, and of the slices those that save most for what they take.
    """
    ranked = sorted((need for need in needs if need.worth > 0), key=lambda need: (-need.worth, need.partition))
    work_s, middle_s = (sum(getattr(need, name) for need in ranked) for name in ("work_s", "middle_work_s"))
    needed = min(workers, max(1, math.ceil(work_s / _BUSY)))
    wanted_bytes = sum(need.memory_bytes for need in ranked)
    room = workers if wanted_bytes * workers <= budget_bytes else int(budget_bytes // wanted_bytes)
    chosen = min(workers, max(needed, room))
    return Allocation(chosen, _fitting(ranked, budget_bytes / chosen), waiting_s + middle_s > _BEHIND * chosen)


def _fitting(ranked: Sequence[Need], budget_bytes: float) -> tuple[Partition, ...]:
    """The most useful for their size that fit, each as long as there is room for it."""
    warm, left = [], budget_bytes
    for need in ranked:
        if need.memory_bytes <= left:
            warm.append(need.partition)
            left -= need.memory_bytes
    return tuple(warm)
