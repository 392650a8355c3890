"""A sound to be read from its beginning to its end, once, in parts of any length."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError
from midstream.media import CLIPPED_LEVEL
from midstream.tensors import Tensor

MIN_RATE, MAX_RATE = 1000, 384_000
MAX_CHANNELS = 64


class Sound(Protocol):
    """What features are made of; `midstream.media.open_audio` gives one of a file."""

    @property
    def length(self) -> int:
        """Samples in all, at least 1."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def clipped(self) -> int:
        """How many of the samples read so far are clipped in some channel: at 99.9 % of full scale or above."""

    def read(self, count: int) -> NDArray[np.floating]:
        """The next samples of -1…1, mono: as many as asked for."""


class ArraySound:
    """A sound in memory: int16, or float of -1…1, mono or with channels on the shorter axis, which are averaged.

    Floats beyond ±1 are clipped ones; the sound is divided by its peak. Raises InputError on another dtype or shape,
    on NaN or infinite samples, and on a missing or impossible sample rate.
    """

    def __init__(self, array: Tensor, sample_rate: int | None) -> None:
        self.sample_rate = checked_rate(sample_rate)
        if array.dtype != np.int16 and (array.dtype.kind != "f" or array.dtype.itemsize > 8):
            raise InputError(f"the audio to analyze has dtype {array.dtype}; int16 and float of -1…1 are understood")
        if array.ndim not in (1, 2) or (array.ndim == 2 and min(array.shape) > MAX_CHANNELS):
            raise InputError(
                f"the audio to analyze has shape {list(array.shape)}; one axis of samples is understood, or two "
                f"of which the shorter one holds at most {MAX_CHANNELS} channels"
            )
        planes = array[:, np.newaxis] if array.ndim == 1 else array
        self._channels = planes.T if planes.shape[0] < planes.shape[1] else planes
        peak = max(abs(float(array.min())), abs(float(array.max())))
        if not math.isfinite(peak):
            raise InputError("the audio to analyze has NaN or infinite samples; all must be finite")
        full = 32768.0 if array.dtype == np.int16 else 1.0
        self._scale = full if array.dtype == np.int16 else max(full, peak)
        self._clipped_from = CLIPPED_LEVEL * full
        self._has_clipped = peak >= self._clipped_from
        self.length = int(self._channels.shape[0])
        self.clipped = 0
        self._place = 0

    def read(self, count: int) -> NDArray[np.float64]:
        """The next samples, mono."""
        part = self._channels[self._place : self._place + count].astype(np.float64)
        self._place += count
        if self._has_clipped:
            self.clipped += int(np.count_nonzero((np.abs(part) >= self._clipped_from).any(axis=1)))
        part /= self._scale
        return part[:, 0] if part.shape[1] == 1 else np.asarray(part.mean(axis=1), dtype=np.float64)


def checked_rate(sample_rate: int | None) -> int:
    """The sample rate in Hz; raises InputError where it is missing or not a whole number of 1000…384000."""
    if sample_rate is None:
        raise InputError("audio cannot be analyzed without its sample rate; give sample_rate in Hz")
    whole = isinstance(sample_rate, (int, float, np.integer)) and float(sample_rate).is_integer()
    if not whole or not MIN_RATE <= sample_rate <= MAX_RATE:
        raise InputError(f"sample_rate {sample_rate!r} is not a whole number of {MIN_RATE}…{MAX_RATE} Hz")
    return int(sample_rate)
