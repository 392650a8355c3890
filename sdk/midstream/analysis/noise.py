"""How loud the background noise in a sound is, told from the sound alone.

Noise is what stays when the signal pauses. So, in the style of minimum statistics (Martin 2001,
doi:10.1109/89.928915), for a stretch of 4–13 s:

1. The noise in each of 4 bands of equally many bins is the 10 % quantile of its power over time, and by as much more
   as the mean of a normal distribution lies above that: as wide as the 25 % quantile tells, at most as white noise is.
2. Noise that itself rises and falls, such as a crowd's, is louder than its quietest tenth. How much is told by how far
   the quantiles of the power lie apart (5, 10, 25 and 50 %): a straight line, whose weights differ between loud noise,
   where the quantiles are the noise's own, and faint noise, where they are the signal's. The weights are fitted by
   ``benchmarks/features.py``, on speakers and sentences that its table has not.
3. A line whose power stays the same is a tone, and signal, and left out of both; but not the lines of mains hum
   (multiples of 50 or 60 Hz, above a loud lowest one), which are noise.

How near it comes: docs/benchmarks/features.md. A sound without pauses counts in part as noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MIN_SNR_DB = -20.0
MAX_SNR_DB = 100.0

Power = NDArray[np.float32]
Levels = NDArray[np.float64]

_BANDS = 4
_QUANTILES = (0.05, 0.1, 0.25, 0.5)
# Of a normal distribution: how many deviations these lie below the mean.
_DEVIATIONS_BELOW = (1.645, 1.2816, 0.6745, 0.0)
# Relative variance of white noise's power in a band with a Hann window, times the band's bins: measured.
_BIN_VARIANCE = 1.7

# dB of SNR for each dB between the quantiles: 5 to 10, 10 to 25 and 25 to 50 %.
LOUD_WEIGHTS = (-2.2, -1.5, 0.65)
FAINT_WEIGHTS = (0.4, 0.2, -0.05)
LOUD_DB, FAINT_DB = 0.0, 20.0
MAX_SPREAD_DB = 6.0

# Of exponentially distributed power, which noise and speech have, this is about 1.
_STEADY_VARIATION = 0.1
_STEADY_FRAMES = 10
_MAINS_HZ = (50.0, 60.0)
_HUM_TOP_HZ, _RESOLVED_HZ = 160.0, 300.0
_HUM_ABOVE_FLOOR = 4.0
_PEAK_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Background:
    """The mean ``noise`` of a frame, and what each frame has but steady tones, in the unit of the sound's power."""

    noise: float
    changing: Power


def background(power: Power, bin_hz: float) -> Background:
    """The background of frames × bins, of which the first bin is centred at ``bin_hz`` and each next one as far on."""
    steady = _steady_lines(power, bin_hz)
    rest, share = power, np.ones(power.shape[1], dtype=np.float32)
    if steady.any():
        rest = np.where(steady, np.float32(0.0), power)
        share = (~steady).astype(np.float32)
    changing = rest.sum(axis=1)
    spread = spreads(rest, share)
    if spread.total <= 0.0 or spread.quietest <= 0.0:
        return Background(0.0, changing)
    snr = spread.base_db + correction_db(spread)
    return Background(spread.total / (1.0 + 10 ** (snr / 10.0)), changing)


def snr_db(total: float, noise: float) -> float:
    """Signal to noise in dB, -20…100, where ``total`` is the power of both; -20 where that is 0."""
    signal = total - noise
    if signal <= 0.0:
        return MIN_SNR_DB
    if noise <= 0.0:
        return MAX_SNR_DB
    return min(MAX_SNR_DB, max(MIN_SNR_DB, 10.0 * (math.log10(signal) - math.log10(noise))))


@dataclass(frozen=True, slots=True)
class Spread:
    """A stretch's mean power, that of its quietest tenth, and dB between the quantiles, each at most 6."""

    total: float
    quietest: float
    steps_db: tuple[float, float, float]

    @property
    def base_db(self) -> float:
        """SNR were the noise constant."""
        return 10.0 * math.log10(max(self.total - self.quietest, 1e-3 * self.total) / self.quietest)


def spreads(power: Power, share: NDArray[np.float32]) -> Spread:
    """How the power is spread over time; ``share`` is 0 for bins that ``power`` lacks and 1 for the others."""
    bins = power.shape[1]
    edges = np.linspace(0, bins, min(_BANDS, bins) + 1).astype(np.intp)[:-1]
    bands = np.add.reduceat(power, edges, axis=1)
    whole = np.add.reduceat(np.ones(bins, dtype=np.float32), edges)
    present = np.add.reduceat(share, edges)
    bands *= whole / np.maximum(present, 1.0)
    levels = np.column_stack([bands, bands.sum(axis=1)])
    ordered = np.sort(levels, axis=0)
    quantiles = [_quantile(ordered, share) for share in _QUANTILES]
    quietest = float(np.sum(_mean_of_noise(quantiles[1][:-1], quantiles[2][:-1], present)))
    steps = [10.0 * math.log10(max(1.0, above[-1] / max(below[-1], 1e-30))) for below, above in pairwise(quantiles)]
    first, second, third = (min(MAX_SPREAD_DB, step) for step in steps)
    return Spread(float(levels[:, -1].mean(dtype=np.float64)), quietest, (first, second, third))


def _mean_of_noise(low: Levels, higher: Levels, bins: NDArray[np.float32]) -> Levels:
    """The mean of noise in bands of so many bins, from the 10 and 25 % quantiles of its power.

    A normal distribution's, unless that is wider than white noise is: then the signal is in it.
    """
    seen = (higher - low) / (_DEVIATIONS_BELOW[1] - _DEVIATIONS_BELOW[2])
    white = np.sqrt(_BIN_VARIANCE / np.maximum(bins, 1.0))
    white = low * white / np.maximum(0.25, 1.0 - _DEVIATIONS_BELOW[1] * white)
    return low + _DEVIATIONS_BELOW[1] * np.minimum(seen, white)


def correction_db(spread: Spread) -> float:
    """What to add to the SNR of constant noise, as the module describes."""
    loud = min(1.0, max(0.0, (FAINT_DB - spread.base_db) / (FAINT_DB - LOUD_DB)))
    return sum(
        step * (loud * at_loud + (1.0 - loud) * at_faint)
        for step, at_loud, at_faint in zip(spread.steps_db, LOUD_WEIGHTS, FAINT_WEIGHTS, strict=True)
    )


def _quantile(ordered: NDArray[np.float32], share: float) -> Levels:
    """Of columns that are in order, between the nearest two."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    part = place - below
    return np.asarray((1.0 - part) * ordered[below].astype(np.float64) + part * ordered[above], dtype=np.float64)


def _steady_lines(power: Power, bin_hz: float) -> NDArray[np.bool_]:
    """Which bins hold a tone, that is not mains hum."""
    none = np.zeros(power.shape[1], dtype=np.bool_)
    if len(power) < _STEADY_FRAMES:
        return none
    mean = power.mean(axis=0)
    square = np.einsum("ij,ij->j", power, power) / len(power)
    steady = square < (1.0 + _STEADY_VARIATION) * mean * mean
    return none if steady.any() and _is_hum(power, mean, steady, bin_hz) else steady


def _is_hum(power: Power, mean: NDArray[np.float32], steady: NDArray[np.bool_], bin_hz: float) -> bool:
    low = power[:, : max(1, int(_HUM_TOP_HZ / bin_hz))]
    if float(np.quantile(low.mean(axis=1), _QUANTILES[1])) <= _HUM_ABOVE_FLOOR * float(np.median(mean)):
        return False
    inner = mean[1:-1]
    peaks = steady[1:-1] & (inner >= mean[:-2]) & (inner >= mean[2:]) & (inner > _PEAK_SHARE * mean.max())
    places = np.flatnonzero(peaks) + 1
    left, middle, right = (np.log(np.maximum(mean[places + step], 1e-30)) for step in (-1, 0, 1))
    curve = np.minimum(left - 2.0 * middle + right, -1e-6)
    lines = (places + 1 + 0.5 * (left - right) / curve) * bin_hz
    resolved = lines[lines > _RESOLVED_HZ]
    tolerance = 2.0 + 0.006 * resolved
    return any(bool(np.all(np.abs(resolved - np.rint(resolved / hz) * hz) <= tolerance)) for hz in _MAINS_HZ)
