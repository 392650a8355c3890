"""How many workers, each on a core of its own or not: decided by what was measured with several at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Fewer workers hold less memory: a further one has to add this share.
_GAIN = 0.03


@dataclass(frozen=True, slots=True)
class Scaling:
    """So many ``workers``, each ``pinned`` to a core or left to the system; ``runs_per_s`` is what decided it.

    Its keys are how many ran at once, and whether they were pinned.
    """

    workers: int
    pinned: bool = False
    runs_per_s: Mapping[tuple[int, bool], float] = field(default_factory=dict)


def candidates(cores: int) -> tuple[int, ...]:
    """How many workers are tried on so many cores: 1, 2, 4, … and as many as there are."""
    powers = [1 << power for power in range(cores.bit_length()) if 1 << power < cores]
    return (*powers, cores)


def choose(runs_per_s: Mapping[tuple[int, bool], float]) -> Scaling:
    """The fewest workers that do nearly as much as any number does; pinned only where that adds as much again."""
    best = max(runs_per_s.values())
    workers = min(count for (count, _), rate in runs_per_s.items() if rate >= best * (1 - _GAIN))
    free, pinned = (runs_per_s.get((workers, each), 0.0) for each in (False, True))
    return Scaling(workers, pinned > free * (1 + _GAIN), runs_per_s)
