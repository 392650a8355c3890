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

    def ago(self, ahead: int, periods: int = 1) -> NDArray[np.float64]:
        """What came so many periods before the interval that is so many ahead; NaN where nothing recurs.

        ``ahead`` is 1 for the next interval, 0 for the last one; further than a period it is what came before.
        """
        over = ahead - 1 if ahead < 1 else (ahead - 1) % np.maximum(self._lag, 1)
        back = self._lag * periods - over - 1
        found = self._values[np.arange(len(self._lag)), (self._step - 1 - back) % REMEMBERED].astype(np.float64)
        return np.where((self._lag > 0) & (back < self._seen), found, np.nan)

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
