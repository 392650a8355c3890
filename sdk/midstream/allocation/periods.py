"""What recurs: the lag after which a partition's arrivals are most like themselves, and what came one lag ago."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 1024
"""Intervals that are looked back at; no longer period than about two thirds of these is found."""

_SHORTEST = 6
# A lag counts from when so much of what is remembered lies twice; then shorter ones that do nearly as well come first.
_LONGEST_SHARE = 0.65
_NEARLY = 0.92
_MIN_SEEN = 24
# Each row is looked at anew every so many steps, in turn.
_EVERY = 16
# Where one, two and three periods ago it is looked for what is like the last intervals, and how many these are.
_PERIODS = np.repeat((1, 2, 3), 5)
_SHIFTS = np.tile((-2, -1, 0, 1, 2), 3)
_COMPARED = 6
_FAR = 25.0


class Periods:
    """The period of each row of counts, looked for again every 16 steps, a share of the rows at each. Pure.

    It is the lag of the largest autocorrelation of log(1 + count), each side normalised by its own energy, so that a
    burst that has come twice tells when the third is due.
    """

    def __init__(self, rows: int) -> None:
        self._logs = np.zeros((rows, REMEMBERED), np.float32)
        self._values = np.zeros((rows, REMEMBERED), np.float32)
        self._seen = np.zeros(rows, np.int64)
        self._lag = np.zeros(rows, np.int64)
        self._strength = np.zeros(rows)
        self._step = 0

    def grow(self, rows: int) -> None:
        """Have so many rows; the new ones have seen nothing."""
        more = rows - len(self._lag)
        self._logs, self._values = (np.pad(each, ((0, more), (0, 0))) for each in (self._logs, self._values))
        self._seen, self._lag = (np.pad(each, (0, more)) for each in (self._seen, self._lag))
        self._strength = np.pad(self._strength, (0, more))

    def reset(self, row: int) -> None:
        """Begin anew with this row."""
        self._logs[row] = self._values[row] = 0.0
        self._seen[row] = self._lag[row] = 0
        self._strength[row] = 0.0

    def add(self, values: NDArray[np.floating]) -> None:
        """One count for each row."""
        at = self._step % REMEMBERED
        self._values[:, at] = values
        self._logs[:, at] = np.log1p(values)
        self._seen = np.minimum(self._seen + 1, REMEMBERED)
        self._step += 1
        rows = np.arange(self._step % _EVERY, len(values), _EVERY)
        rows = rows[self._seen[rows] >= _MIN_SEEN]
        if rows.size:
            self._look(rows)

    @property
    def steps(self) -> int:
        """How many counts each row was given, those before a reset too."""
        return self._step

    @property
    def lag(self) -> NDArray[np.int64]:
        """Intervals; 0 where nothing recurs."""
        return self._lag

    @property
    def strength(self) -> NDArray[np.float64]:
        """The autocorrelation at that lag, 0–1."""
        return self._strength

    def ago(self, *ahead: int) -> NDArray[np.float64]:
        """What came one period before the intervals that are so many ahead, rows × these; NaN where nothing recurs.

        1 is the next interval, 0 the last one; further ahead than a period it is what came before.
        """
        lag, aheads = self._lag[:, np.newaxis], np.array(ahead)
        back = lag - np.where(aheads < 1, aheads - 1, (aheads - 1) % np.maximum(lag, 1)) - 1
        found = self._values[np.arange(len(lag))[:, np.newaxis], (self._step - 1 - back) % REMEMBERED]
        return np.where((lag > 0) & (back < self._seen[:, np.newaxis]), found.astype(np.float64), np.nan)

    def aligned(self) -> NDArray[np.float64]:
        """What came one, two and three periods before the next interval, as near as that is shifted to what came last.

        Each place around there weighs e^-d, d being how far, squared, the intervals before it are from the last ones on
        the scale of logarithms. NaN where nothing recurs, or no place is near.
        """
        rows = np.arange(len(self._lag))
        back = self._lag[:, np.newaxis] * _PERIODS - _SHIFTS
        there = (back >= 1) & (back <= self._seen[:, np.newaxis] - _COMPARED) & (self._lag[:, np.newaxis] > 0)
        before = np.arange(1, _COMPARED + 1)
        last = self._logs[:, (self._step - before) % REMEMBERED]
        then = self._logs[rows[:, np.newaxis, np.newaxis], (self._step - back[..., np.newaxis] - before) % REMEMBERED]
        off = then - last[:, np.newaxis]
        late = 0.2 / (1.05 - np.minimum(self._strength, 1.0))
        away = (off * off).sum(axis=2) + late[:, np.newaxis] * np.abs(_SHIFTS)
        weights = np.where(there & (away < _FAR), np.exp(-away) / _PERIODS, 0.0)
        total = weights.sum(axis=1)
        logs = (weights * self._logs[rows[:, np.newaxis], (self._step - back) % REMEMBERED]).sum(axis=1)
        return np.where(total > 0, np.expm1(logs / np.maximum(total, 1e-30)), np.nan)

    def _look(self, rows: NDArray[np.intp]) -> None:
        ordered = np.roll(self._logs[rows], -(self._step % REMEMBERED), axis=1)
        for row, series in zip(rows, ordered, strict=True):
            self._lag[row], self._strength[row] = found_period(series[REMEMBERED - self._seen[row] :])


def found_period(series: NDArray[np.floating]) -> tuple[int, float]:
    """The lag of the largest autocorrelation, and how large it is; (0, 0) where there is none above 0.

    Of a lag's multiples the shortest that does nearly as well is taken.
    """
    count = len(series)
    longest = int(count * _LONGEST_SHARE)
    if longest <= _SHORTEST:
        return 0, 0.0
    x = series.astype(np.float64) - series.mean()
    # One jittered by an interval is still the same burst.
    x = np.convolve(x, (0.25, 0.5, 0.25), "same")
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(x, size)
    products = np.fft.irfft(spectrum * spectrum.conj(), size)[:count]
    energy = np.concatenate([[0.0], np.cumsum(x * x)])
    lags = np.arange(count)
    norm = np.sqrt(energy[count - lags] * (energy[-1] - energy[lags]))
    # A pair of sides that are hardly alive says nothing.
    floor = 0.02 * energy[-1] + 1e-9
    correlation = np.where(norm > floor, products / np.maximum(norm, floor), 0.0)[: longest + 1]
    # What stays as it was for a while is no period: only beyond the first fall below 0, or at a peak of its own.
    peaks = np.zeros(longest + 1, bool)
    peaks[1:-1] = (correlation[1:-1] >= correlation[:-2]) & (correlation[1:-1] > correlation[2:])
    peaks[:_SHORTEST] = False
    if not peaks.any():
        return 0, 0.0
    best = correlation[peaks].max()
    if best <= 0.0:
        return 0, 0.0
    lag = int(np.flatnonzero(peaks & (correlation >= _NEARLY * best))[0])
    return lag, float(min(1.0, correlation[lag]))
