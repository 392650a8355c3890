"""How a busy or throttled device enters the plan, apart from what its measured times have shown already."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MOST_SLOWDOWN = 8.0
_LEAST_CLOCK = 0.1
_SMOOTHING = 0.2
_LEAST_MS = 0.05
# A single run is taken as at most so many times slower than those before it, or than its load foretells.
_MOST_RISE = 4.0


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


@dataclass(frozen=True, slots=True)
class LearnedFactor:
    """How many times slower stages ran than on the machine that measured the bundle, on average.

    ``slowdown`` is the same average of what the machine's load foretold for those runs, None where it said nothing.
    """

    factor: float = 1.0
    slowdown: float | None = None

    def after(self, expected_ms: float, took_ms: float, slowdown: float | None) -> LearnedFactor:
        """Once a stage took so long, under a load that foretold this `slowdown`.

        ``expected_ms`` is the bundle's time of it; one below 0.05 ms tells nothing.
        """
        if expected_ms < _LEAST_MS:
            return self
        then, foretold = self.beside(slowdown).slowdown, self.factor
        if then is not None and slowdown is not None:
            foretold *= max(1.0, slowdown / then)
            then += _SMOOTHING * (slowdown - then)
        ran = min(took_ms / expected_ms, _MOST_RISE * foretold)
        return LearnedFactor(self.factor + _SMOOTHING * (ran - self.factor), then)

    def beside(self, slowdown: float | None) -> LearnedFactor:
        """With this slowdown for the past, where nothing was known of that: the first that is known stands in."""
        return self if self.slowdown is not None else LearnedFactor(self.factor, slowdown)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What to plan with: the factor of an idle device at its full clock, and `SystemState.device_load`.

    A stage is expected to take ``factor`` / (1 − ``device_load``) times its time in the bundle. ``careful_factor`` is
    for deadlines: that, or what was measured last where it is more.
    """

    factor: float
    device_load: float
    careful_factor: float


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


def device_state(load: DeviceLoad, learned: LearnedFactor, threads: int = 1) -> DeviceState:
    """What to plan with under this load, by what was learned and under which load that was.

    Expected is learned.factor · slowdown now / slowdown then: a load that the measured times have met is not counted
    again, one that has come since counts at once, and one that has gone no longer.
    """
    now, then = slowdown(load, threads), learned.slowdown
    if now is None or then is None:
        return DeviceState(learned.factor, 0.0, learned.factor)
    factor = learned.factor / then
    return DeviceState(factor, 1.0 - 1.0 / now, max(learned.factor, factor * now))
