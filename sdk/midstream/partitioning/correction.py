"""What measured times correct of the expected ones, for each machine and each cut on it; and what waits are off by.

Nothing here reads a clock: whoever measures says when. The formulas are explained in ``docs/planner.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

WHOLE = ""
"""What a whole model's times are learned under, where a cut's are under its id."""

# A table of costs stays as it is while no factor has moved by more than this share, or than single times spread.
TOLERANCE = 0.05
MAX_GATEWAYS = 8
# Of the distance to the middle one of the last three samples, a level goes this share; the second where that is farther
# away than samples usually scatter: then something has changed for good.
_USUAL_GAIN, _JUMP_GAIN = 0.2, 0.6
# What counts as far away: so many times the spread, but not less than this share.
_FAR, _LEAST_FAR = 2.0, 0.05
# A distance counts as no more than that to four times as long.
_FARTHEST = math.log(4.0)
# A spread goes this share of the way to each sample, of which none counts as more than so many spreads, or this share.
_SPREAD_GAIN, _SPREAD_BOUND, _LEAST_SPREAD_BOUND = 0.1, 4.0, 0.1
# What a spread begins with: the times of a static network have a coefficient of variation of 3.7 %.
FIRST_SPREAD = 0.03
_MOST = math.log(1000.0)
# A cut's own factor is followed slowly, and believed as if so many samples had said that it has none.
_CUT_GAIN, _DOUBT, _MOST_BELIEVED = 0.1, 4.0, 20
# A restored level that a measurement contradicts by more than this share, and three spreads, is given up.
_AGREES = math.log(1.25)
_WAIT_GAIN, _WAIT_HALF_LIFE_S = 0.3, 2.0
MAX_WAIT_BIAS_MS = 50.0


@dataclass(frozen=True, slots=True)
class Track:
    """A quantity as samples of it show it, here the logarithm of measured over expected time.

    ``spread`` is the mean absolute distance of a sample from the level before it, ``recent`` are the last two samples.
    Following the middle one of three, one sample alone never moves the level by more than its usual scatter.
    """

    level: float = 0.0
    spread: float = FIRST_SPREAD
    samples: int = 0
    recent: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def at(cls, level: float, spread: float = FIRST_SPREAD, samples: int = 0) -> Track:
        """One that begins at a level that is known, as if the last samples had been there."""
        level = _within(level, _MOST)
        return cls(level, spread, samples, (level, level))

    def after(self, sample: float, usual_gain: float = _USUAL_GAIN, jump_gain: float = _JUMP_GAIN) -> Track:
        """With one sample more."""
        _, middle, _ = sorted((*self.recent, sample))
        off = _within(middle - self.level, _FARTHEST)
        gain = jump_gain if abs(off) > max(_LEAST_FAR, _FAR * self.spread) else usual_gain
        error = min(abs(sample - self.level), max(_LEAST_SPREAD_BOUND, _SPREAD_BOUND * self.spread))
        return Track(
            _within(self.level + gain * off, _MOST),
            self.spread + _SPREAD_GAIN * (error - self.spread),
            self.samples + 1,
            (self.recent[1], sample),
        )


@dataclass(frozen=True, slots=True)
class Factors:
    """By how much a machine's times are multiplied, in logarithms: a cut's where it has one, else the machine's."""

    machine: float = 0.0
    cuts: Mapping[str, float] = field(default_factory=dict)

    def of(self, cut: str | None) -> float:
        """The factor itself; None is anything that no cut of its own stands for."""
        return math.exp(self.machine if cut is None else self.cuts.get(cut, self.machine))


class Correction:
    """How many times as long as expected one machine takes, in all and at each cut. Not thread-safe.

    ``factors`` are those that a table of costs is made with: another value only where one has moved by more than
    `TOLERANCE`, and than single times scatter by.
    """

    def __init__(self, machine: Track | None = None, cuts: Mapping[str, Track] | None = None) -> None:
        self._machine = Track() if machine is None else machine
        self._cuts = dict(cuts or {})
        self.factors = self._now()

    @property
    def spread(self) -> float:
        """The mean share by which single times differ from what is expected after correction."""
        return self._machine.spread

    @property
    def tracks(self) -> tuple[Track, Mapping[str, Track]]:
        """Of the machine, and of each cut beside it, as the constructor takes them."""
        return self._machine, dict(self._cuts)

    def factor(self, cut: str | None = None) -> float:
        """Measured over expected time, as far as is known now."""
        return math.exp(self._machine.level + self._own(cut))

    def observe(self, cut: str | None, ratio: float) -> None:
        """Learn from a time: ``ratio`` is measured over expected time, without any correction, and above 0.

        None is what has no cut of its own: it tells about the machine only.
        """
        sample = _within(math.log(ratio), _MOST)
        self._machine = self._machine.after(sample - self._own(cut))
        if cut is not None:
            known = self._cuts.get(cut, Track())
            self._cuts[cut] = known.after(sample - self._machine.level, _CUT_GAIN, _CUT_GAIN)
        tabled = self.factors.cuts.get(cut, self.factors.machine) if cut is not None else self.factors.machine
        moved = max(abs(self._machine.level - self.factors.machine), abs(self._machine.level + self._own(cut) - tabled))
        if moved > max(math.log1p(TOLERANCE), self.spread):
            self.factors = self._now()

    def rescale(self, factor: float) -> None:
        """Take all that was learned as so many times as long, as it turns out that it was measured under a load."""
        level = self._machine.level + math.log(factor)
        self._machine = Track.at(level, self._machine.spread, self._machine.samples)
        self.factors = self._now()

    def check(self, ratio: float) -> bool:
        """Hold what was learned against a measurement of the whole model; where they disagree, it has changed.

        Returns whether the measurement is what counts now.
        """
        measured = math.log(ratio)
        off = abs(measured - self._machine.level - self._own(WHOLE))
        counts = not self._machine.samples or off > max(_AGREES, 3.0 * self._machine.spread)
        if counts:
            self._machine = Track.at(measured, self._machine.spread)
            self.factors = self._now()
        return counts

    def _own(self, cut: str | None) -> float:
        """What a cut has beside the machine, the less believed the fewer samples there are."""
        track = None if cut is None else self._cuts.get(cut)
        if track is None:
            return 0.0
        believed = min(track.samples, _MOST_BELIEVED)
        return track.level * believed / (believed + _DOUBT)

    def _now(self) -> Factors:
        level = self._machine.level
        return Factors(level, {cut: level + self._own(cut) for cut in self._cuts})


@dataclass(frozen=True, slots=True)
class WaitBias:
    """By how much longer requests wait at a gateway than its load reports said, in ms; less than 0 where shorter.

    It halves every two seconds, as a newer report knows better.
    """

    bias_ms: float = 0.0
    since_s: float = 0.0

    def at(self, now_s: float) -> float:
        """The bias at a time, in ms; 0 where less than half a millisecond is left."""
        left_ms = self.bias_ms * 0.5 ** (max(0.0, now_s - self.since_s) / _WAIT_HALF_LIFE_S)
        return left_ms if abs(left_ms) >= 0.5 else 0.0

    def after(self, waited_ms: float, planned_ms: float, now_s: float) -> WaitBias:
        """With one wait more, and that for which it was planned, bias included; an error beyond 50 ms counts as 50."""
        error_ms = _within(waited_ms - planned_ms, MAX_WAIT_BIAS_MS)
        return WaitBias(_within(self.at(now_s) + _WAIT_GAIN * error_ms, MAX_WAIT_BIAS_MS), now_s)


class Corrections:
    """Those of a device, and of the gateways that it has measured last. Not thread-safe."""

    def __init__(self, device: Correction | None = None, gateways: Mapping[str, Correction] | None = None) -> None:
        self.device = Correction() if device is None else device
        self._gateways = dict(gateways or {})
        self._waits: dict[str, WaitBias] = {}

    @property
    def gateways(self) -> Mapping[str, Correction]:
        """By id, the one measured last at the end."""
        return self._gateways

    def copy(self) -> Corrections:
        """The factors as they are now, without the waits."""
        gateways = {gateway_id: Correction(*known.tracks) for gateway_id, known in self._gateways.items()}
        return Corrections(Correction(*self.device.tracks), gateways)

    def gateway(self, gateway_id: str) -> Correction | None:
        """What was learned of a gateway, None where that is nothing."""
        return self._gateways.get(gateway_id)

    def observe(self, gateway_id: str, cut: str, ratio: float) -> None:
        """Learn from a time that a gateway took, like `Correction.observe`."""
        known = self._gateways.pop(gateway_id, None) or Correction()
        known.observe(cut, ratio)
        self._gateways[gateway_id] = known
        if len(self._gateways) > MAX_GATEWAYS:
            del self._gateways[next(iter(self._gateways))]

    def waited(self, gateway_id: str, waited_ms: float, planned_ms: float, now_s: float) -> None:
        """Learn how long a request has waited at a gateway, and for how long that was planned."""
        known = self._waits.pop(gateway_id, WaitBias())
        self._waits[gateway_id] = known.after(waited_ms, planned_ms, now_s)
        if len(self._waits) > MAX_GATEWAYS:
            del self._waits[next(iter(self._waits))]

    def wait_bias_ms(self, gateway_id: str, now_s: float) -> float:
        """What has to be added to the waits that a gateway reports."""
        known = self._waits.get(gateway_id)
        return 0.0 if known is None else known.at(now_s)


def _within(value: float, most: float) -> float:
    return max(-most, min(most, value))
