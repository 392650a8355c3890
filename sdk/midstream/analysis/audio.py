"""What a sound's spectrum tells of its complexity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from midstream.analysis.mel import mel_filterbank
from midstream.analysis.noise import MIN_SNR_DB, noise_power, snr_db
from midstream.errors import InputError
from midstream.tensors import Tensor

MIN_RATE, MAX_RATE = 1000, 384_000
MAX_CHANNELS = 64
MEL_BANDS = 40
SILENCE_DB = -120.0

_FRAME_SECONDS = 0.025
_SEGMENT_FRAMES = 512
_BLOCK = 1 << 16
_POWER_FLOOR = 1e-10
# A Hann window spreads a constant over bins 0 and 1: digital silence keeps the offset that was removed from the sound.
_FIRST_BIN = 2
_SILENT_RMS = 10 ** (SILENCE_DB / 20)


@dataclass(frozen=True, slots=True)
class _Sound:
    """A sound as it was given; mono samples are made of one part at a time, never of the whole."""

    channels: Tensor
    scale: float
    offset: float = 0.0

    @property
    def length(self) -> int:
        return int(self.channels.shape[0])

    def block(self, start: int, stop: int) -> NDArray[np.float64]:
        mono = (self.channels[start:stop].astype(np.float64) / self.scale).mean(axis=1)
        return np.asarray(mono - self.offset, dtype=np.float64)

    def blocks(self, overlap: int = 0) -> Iterator[NDArray[np.float64]]:
        for start in range(0, self.length, _BLOCK):
            yield self.block(max(0, start - overlap), min(self.length, start + _BLOCK))


def audio_features(sound: Tensor, sample_rate: int | None) -> dict[str, float]:
    """Features of a sound in int16, or float of -1…1.

    Channels, on the shorter axis, are averaged, and a constant offset (DC) is removed. Floats beyond ±1 are
    divided by their peak. Spectra are of frames of 25–50 ms (a power of two of samples) that overlap by half,
    with a Hann window.

    - ``snr_db``: signal to noise, -20…100, estimated blindly as `midstream.analysis.noise` describes.
    - ``spectral_entropy``: 0–1, entropy of a frame's power over its bins, mean of the frames.
    - ``spectral_flatness``: 0–1, geometric by arithmetic mean of a frame's power, mean of the frames.
    - ``zero_crossing_rate``: 0–1, the share of neighbouring samples of unlike sign.
    - ``rms_db``: level relative to full scale, at least -120.
    - ``log_mel_mean_db``, ``log_mel_std_db``: of the power in 40 mel bands in dB, over bands and frames.

    Power is at least 1e-10 wherever a logarithm is taken. Frames below -120 dB are left out of entropy,
    flatness and SNR. A sound that is silent throughout has SNR -20, RMS -120, log-mel mean -100 and 0 for the
    rest. Memory needed does not grow with the length. Raises InputError on a missing or impossible ``sample_rate``
    (Hz), on NaN or infinite samples, and on another dtype or shape.
    """
    rate = _checked_rate(sample_rate)
    raw = _checked(sound)
    offset = sum(float(block.sum()) for block in raw.blocks()) / raw.length
    centred = _Sound(raw.channels, raw.scale, offset)
    rms = math.sqrt(sum(float(block @ block) for block in centred.blocks()) / raw.length)
    if rms <= _SILENT_RMS:
        return {
            "snr_db": MIN_SNR_DB,
            "spectral_entropy": 0.0,
            "spectral_flatness": 0.0,
            "zero_crossing_rate": 0.0,
            "rms_db": SILENCE_DB,
            "log_mel_mean_db": 10.0 * math.log10(_POWER_FLOOR),
            "log_mel_std_db": 0.0,
        }
    crossings = sum(int(np.count_nonzero(np.diff(block >= 0))) for block in centred.blocks(overlap=1))
    return {
        **_spectral_features(centred, rate),
        "zero_crossing_rate": crossings / max(1, raw.length - 1),
        "rms_db": 20.0 * math.log10(rms),
    }


def _checked_rate(sample_rate: int | None) -> int:
    if sample_rate is None:
        raise InputError("audio cannot be analyzed without its sample rate; give sample_rate in Hz")
    whole = isinstance(sample_rate, (int, float, np.integer)) and float(sample_rate).is_integer()
    if not whole or not MIN_RATE <= sample_rate <= MAX_RATE:
        raise InputError(f"sample_rate {sample_rate!r} is not a whole number of {MIN_RATE}…{MAX_RATE} Hz")
    return int(sample_rate)


def _checked(sound: Tensor) -> _Sound:
    if sound.dtype != np.int16 and (sound.dtype.kind != "f" or sound.dtype.itemsize > 8):
        raise InputError(f"the audio to analyze has dtype {sound.dtype}; int16 and float of -1…1 are understood")
    if sound.ndim not in (1, 2) or (sound.ndim == 2 and min(sound.shape) > MAX_CHANNELS):
        raise InputError(
            f"the audio to analyze has shape {list(sound.shape)}; one axis of samples is understood, or two "
            f"of which the shorter one holds at most {MAX_CHANNELS} channels"
        )
    planes = sound[:, np.newaxis] if sound.ndim == 1 else sound
    channels = planes.T if planes.shape[0] < planes.shape[1] else planes
    if sound.dtype == np.int16:
        return _Sound(channels, 32768.0)
    peak = max(abs(float(sound.min())), abs(float(sound.max())))
    if not math.isfinite(peak):
        raise InputError("the audio to analyze has NaN or infinite samples; all must be finite")
    return _Sound(channels, max(1.0, peak))


def _spectral_features(sound: _Sound, rate: int) -> dict[str, float]:
    frame = 1 << math.ceil(math.log2(_FRAME_SECONDS * rate))
    hop = frame // 2
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(frame) / frame)).astype(np.float32)
    filters = mel_filterbank(rate, frame, MEL_BANDS)
    filters = filters[filters.any(axis=1)]
    silent_power = _SILENT_RMS**2 * float(window @ window) * frame / 2
    frames = 1 + max(0, sound.length - frame) // hop
    sums = np.zeros(4)
    mel_sums = np.zeros(2)
    loud_frames = 0
    for first, last in _segments(frames):
        samples = sound.block(first * hop, min(sound.length, (last - 1) * hop + frame)).astype(np.float32)
        samples = np.pad(samples, (0, max(0, frame - samples.size)))
        spectrum = np.fft.rfft(sliding_window_view(samples, frame)[::hop] * window)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        log_mel = 10.0 * np.log10(np.maximum(power @ filters.T, _POWER_FLOOR))
        mel_sums += (log_mel.sum(dtype=np.float64), np.square(log_mel, dtype=np.float64).sum())
        lines = power[:, _FIRST_BIN:]
        loud = lines[lines.sum(axis=1) > silent_power]
        if loud.size:
            sums += (
                loud.sum(dtype=np.float64),
                noise_power(loud) * len(loud),
                _entropies(loud),
                _flatnesses(loud),
            )
            loud_frames += len(loud)
    total, noise, entropies, flatnesses = (float(value) for value in sums)
    mean, square = (float(value) / (frames * len(filters)) for value in mel_sums)
    return {
        "snr_db": snr_db(total, noise),
        "spectral_entropy": min(1.0, entropies / max(1, loud_frames)),
        "spectral_flatness": min(1.0, flatnesses / max(1, loud_frames)),
        "log_mel_mean_db": mean,
        "log_mel_std_db": math.sqrt(max(0.0, square - mean * mean)),
    }


def _segments(frames: int) -> Iterator[tuple[int, int]]:
    """First and one past the last frame of stretches of equal length, 4–13 s each in a long sound."""
    count = math.ceil(frames / _SEGMENT_FRAMES)
    edges = [frames * index // count for index in range(count + 1)]
    yield from pairwise(edges)


def _entropies(power: NDArray[np.float32]) -> float:
    """The sum over frames of the entropy of their normalised power, each 0–1."""
    shares = power / power.sum(axis=1, keepdims=True)
    terms = shares * np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    return max(0.0, float(-terms.sum(dtype=np.float64)) / math.log(power.shape[1]))


def _flatnesses(power: NDArray[np.float32]) -> float:
    """The sum over frames of the flatness of their power, each 0–1."""
    floored = np.maximum(power, _POWER_FLOOR)
    geometric = np.exp(np.log(floored).mean(axis=1))
    return float((geometric / floored.mean(axis=1)).sum(dtype=np.float64))
