"""How a busy or throttled device enters the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MOST_SLOWDOWN = 8.0
_LEAST_CLOCK = 0.1


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """What a device's machine tells of itself now; None is what it does not tell.

    Of the ``cores`` that this process may use, other processes used ``others_share``, 0 to 1; ``others_threads`` of
    theirs wanted a core, on average. ``clock_share`` is the processor's clock by the highest it can have, low where
    nothing is to do; ``clock_limit_share`` the highest it is allowed now by the same. ``throttled`` says what a
    Raspberry Pi's firmware complains of, ``battery_share`` and ``gpu_share`` are 0 to 1.
    """

    cores: int = 1
    others_share: float | None = None
    others_threads: float | None = None
    temperature_c: float | None = None
    clock_share: float | None = None
    clock_limit_share: float | None = None
    throttled: tuple[str, ...] | None = None
    free_memory_bytes: int | None = None
    gpu_share: float | None = None
    battery_share: float | None = None
    on_mains: bool | None = None


def slowdown(load: DeviceLoad, threads: int = 1) -> float | None:
    """How many times longer a stage of so many threads takes than on an idle machine at its full clock, 1 to 8.

    With C cores, U = C · others_share of them used by others, and T threads here, each of these gets the share
    min(1, max((C − U) / T, C / (T + n))) of a core: what others leave, and at least what a fair scheduler gives every
    thread, n of others being max(⌈U⌉, others_threads). That is all of it while T cores are free. The slowdown is one
    by that share and by `clock_limit_share`. None where neither is known.
    """
    if load.others_share is None and load.clock_limit_share is None:
        return None
    cores = max(1, load.cores)
    ours, used = min(max(1, threads), cores), cores * (load.others_share or 0.0)
    theirs = max(math.ceil(used), load.others_threads or 0.0)
    share = min(1.0, max((cores - used) / ours, cores / (ours + theirs)))
    clock = 1.0 if load.clock_limit_share is None else min(1.0, max(_LEAST_CLOCK, load.clock_limit_share))
    return min(_MOST_SLOWDOWN, 1.0 / (share * clock))
