"""How the device of a bench is made as slow as a board: by a quota of a core, or by pacing; and how near that comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Literal

from midstream.benching.quota import Quota
from midstream.benching.workers import Worker
from midstream.engines.paced import FIRST_RUNS

Slowing = Literal["auto", "quota", "pacing"]
# What a quota may miss, in the middle and between runs, before pacing is taken instead.
_OFF, _SPREAD = 0.1, 0.2
# A process has a millisecond at a time: shorter models would run at full speed, or wait for their next turn.
_SHORTEST_MS = 5.0
# The runs that pacing goes by.
_ROUNDS, _SLOW_ROUNDS = FIRST_RUNS, 5


@dataclass(frozen=True, slots=True)
class Slowed:
    """By which method, how many times; what the whole model should take, took afterwards, and how that spread.

    ``off`` is the share by which it misses, ``spread`` the width of the middle half in shares of the median.
    """

    method: Literal["none", "quota", "pacing"]
    slowdown: float
    wanted_ms: float
    measured_ms: float
    spread: float
    why: str

    @property
    def off(self) -> float:
        """See above."""
        return self.measured_ms / self.wanted_ms - 1.0

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {**asdict(self), "off": self.off}


def slow_down(device: Worker, wanted_ms: float, quota: Quota | None, wish: Slowing) -> Slowed:
    """Make the whole model take ``wanted_ms`` on the device, and measure that it does."""
    alone = device.ask(do="whole", rounds=_ROUNDS)
    quickest_ms = min(wall for wall, _ in alone)
    slowdown = wanted_ms / quickest_ms
    if slowdown <= 1.0:
        return _verified(device, "none", 1.0, wanted_ms, "this machine is no faster than the board")
    why = _against_quota(quota, wish, quickest_ms)
    if why is None and quota is not None:
        share = min(core for _, core in alone) / wanted_ms
        try:
            found = _by_quota(device, quota, share, wanted_ms)
        except OSError as error:
            why = f"the quota was refused: {error.strerror}"
        else:
            if wish == "quota" or (abs(found.off) <= _OFF and found.spread <= _SPREAD):
                return found
            why = f"by a quota it would be {found.off:+.0%} off, with a spread of {found.spread:.0%}"
            quota.set(1e3)
    device.ask(do="pace", slowdown=slowdown)
    return _verified(device, "pacing", slowdown, wanted_ms, why or "")


def _against_quota(quota: Quota | None, wish: Slowing, quickest_ms: float) -> str | None:
    if wish == "pacing":
        return "it was asked for"
    if quota is None:
        return "this system lets nobody set a CPU quota here"
    if wish == "auto" and quickest_ms < _SHORTEST_MS:
        return f"a run of {quickest_ms:.2g} ms is shorter than what a quota gives out evenly"
    return None


def _by_quota(device: Worker, quota: Quota, share: float, wanted_ms: float) -> Slowed:
    quota.take(device.pid)
    quota.set(share)
    measured = median(wall for wall, _ in device.ask(do="whole", rounds=_SLOW_ROUNDS))
    share *= measured / wanted_ms
    quota.set(share)
    return _verified(device, "quota", 1.0 / share, wanted_ms, f"{share:.1%} of a core")


def _verified(
    device: Worker, method: Literal["none", "quota", "pacing"], slowdown: float, wanted_ms: float, why: str
) -> Slowed:
    measured = [wall for wall, _ in device.ask(do="whole", rounds=_SLOW_ROUNDS)]
    return Slowed(method, slowdown, wanted_ms, median(measured), spread_of(measured), why)


def spread_of(series: Sequence[float]) -> float:
    """The width of the middle half, as a share of the median."""
    low, middle, high = quantiles(series, n=4)
    return (high - low) / middle
