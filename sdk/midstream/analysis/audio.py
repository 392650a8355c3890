"""What a sound tells of its complexity: its spectrum, its noise, its events."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from midstream.analysis.mel import cosine_basis, hann_window, mel_filterbank
from midstream.analysis.noise import MIN_SNR_DB, background, snr_db
from midstream.analysis.onsets import Onsets
from midstream.analysis.sound import ArraySound, Sound
from midstream.tensors import Tensor

MEL_BANDS = 40
MFCC = 6
SILENCE_DB = -120.0

_FRAME_SECONDS = 0.025
_SEGMENT_FRAMES = 512
_SMALL_PRODUCT = 1 << 17
_POWER_FLOOR = 1e-10
_SILENT_RMS = 10 ** (SILENCE_DB / 20)
_ACTIVE_ABOVE_NOISE = 2.0
_ACTIVE_ABOVE_MEAN = 1e-4

Floats = NDArray[np.float32]


def audio_features(sound: Tensor, sample_rate: int | None) -> dict[str, float]:
    """Features of a sound in int16, or float of -1…1.

    Channels, on the shorter axis, are averaged. Floats beyond ±1 are divided by their peak. Spectra are of frames of
    25–50 ms (a power of two of samples) that overlap by half, with a periodic Hann window. The sound is taken in
    stretches of 4–13 s, less their mean (DC), so that memory does not grow with the length.

    - ``snr_db``: signal to noise, -20…100, estimated blindly as `midstream.analysis.noise` describes.
    - ``spectral_entropy``: 0–1, entropy of a frame's power over its bins, mean of the frames (Shen et al. 1998).
    - ``spectral_flatness``: 0–1, geometric by arithmetic mean of a frame's power, mean of the frames (Johnston 1988,
      doi:10.1109/49.608).
    - ``zero_crossing_rate``: 0–1, the share of neighbouring samples of unlike sign.
    - ``rms_db``: level relative to full scale, at least -120.
    - ``log_mel_mean_db``, ``log_mel_std_db``: of the power in 40 mel bands in dB, over bands and frames.
    - ``mfcc_1_mean`` … ``mfcc_6_mean``, ``mfcc_1_std`` … ``mfcc_6_std``: of mel-frequency cepstral coefficients,
      the orthonormal DCT-II of a frame's mel bands in dB (Davis and Mermelstein 1980, doi:10.1109/TASSP.1980.1163420).
    - ``onset_density``: onsets a second, as `midstream.analysis.onsets` finds them.
    - ``voice_activity``: 0–1, the share of frames whose power, without steady tones, is 3 dB or more above the noise,
      and above -40 dB of the mean: any sound that comes and goes, not only a voice.
    - ``clipping_share``: 0–1, the share of samples at 99.9 % of full scale or above in some channel.

    Mel bands narrower than a bin, at low rates, are left out. Power is at least 1e-10 wherever a logarithm is taken.
    Frames below -120 dB are left out of entropy, flatness and SNR. A sound that is silent throughout has SNR -20,
    RMS -120, log-mel mean -100 and 0 for the rest. Raises InputError on a missing or impossible ``sample_rate`` (Hz),
    on NaN or infinite samples, and on another dtype or shape.
    """
    return sound_features(ArraySound(sound, sample_rate))


def sound_features(sound: Sound) -> dict[str, float]:
    """The same of a sound that is read as it goes, such as `midstream.media.open_audio` gives."""
    rate, length = sound.sample_rate, sound.length
    frame = frame_length(rate)
    found = _Sums(rate, frame)
    for fresh, samples in stretches(sound, frame):
        found.add(fresh, samples)
    rms = math.sqrt(found.squares / length)
    if rms <= _SILENT_RMS:
        return {
            **found.features(length),
            **dict.fromkeys(("spectral_entropy", "spectral_flatness", "zero_crossing_rate", "log_mel_std_db"), 0.0),
            **dict.fromkeys((*_COEFFICIENTS, "onset_density", "voice_activity", "clipping_share"), 0.0),
            "snr_db": MIN_SNR_DB,
            "rms_db": SILENCE_DB,
            "log_mel_mean_db": 10.0 * math.log10(_POWER_FLOOR),
        }
    return {**found.features(length), "rms_db": 20.0 * math.log10(rms), "clipping_share": sound.clipped / length}


def frame_lines(samples: Floats, sample_rate: int) -> Floats:
    """What the noise is told from: the power of frames × bins, without 0 Hz."""
    spectrum = frame_spectra(samples - samples.mean(), frame_length(sample_rate))
    return _lines(spectrum, spectrum.real**2 + spectrum.imag**2)


_COEFFICIENTS = tuple(f"mfcc_{order}_{kind}" for kind in ("mean", "std") for order in range(1, MFCC + 1))


class _Sums:
    """What is summed over a sound's stretches."""

    def __init__(self, rate: int, frame: int) -> None:
        self._rate, self._frame = rate, frame
        self._filters = _filters(rate, frame)
        self._basis = cosine_basis(len(self._filters), min(MFCC + 1, len(self._filters)))[1:]
        self._silent = _SILENT_RMS**2 * float(hann_window(frame) @ hann_window(frame)) * frame / 2
        self._onsets = Onsets(frame / 2 / rate)
        self.squares = 0.0
        self._crossings = self._frames = self._loud = self._active = 0
        self._power = np.zeros(4)
        self._mel = np.zeros(2)
        self._mfcc = np.zeros((2, len(self._basis)))

    def add(self, fresh: int, samples: NDArray[np.floating]) -> None:
        """A stretch: at least a frame of samples, of which the last ``fresh`` were in none before."""
        centred = samples - samples.mean(dtype=np.float64)
        new = centred[-fresh:]
        self.squares += float(np.square(new).sum(dtype=np.float64))
        signs = np.signbit(centred[-fresh - 1 :])
        self._crossings += int(np.count_nonzero(signs[1:] != signs[:-1]))
        spectrum = frame_spectra(centred, self._frame)
        power = spectrum.real**2 + spectrum.imag**2
        self._frames += len(power)
        self._add_mel(power)
        self._add_lines(_lines(spectrum, power))

    def _add_mel(self, power: Floats) -> None:
        log_mel = np.float32(10.0) * np.log10(np.maximum(in_bands(power, self._filters), np.float32(_POWER_FLOOR)))
        self._mel += (log_mel.sum(dtype=np.float64), np.square(log_mel).sum(dtype=np.float64))
        coefficients = (log_mel @ self._basis.T).astype(np.float64)
        self._mfcc += (coefficients.sum(axis=0), np.square(coefficients).sum(axis=0))
        self._onsets.add(log_mel)

    def _add_lines(self, lines: Floats) -> None:
        total = lines.sum(axis=1)
        loud = total > self._silent
        if not loud.all():
            lines, total = lines[loud], total[loud]
        if not len(lines):
            return
        under = background(lines, self._rate / self._frame)
        whole = float(total.sum(dtype=np.float64))
        self._power += (whole, under.noise * len(lines), *_shapes(lines, total))
        self._loud += len(lines)
        least = max(_ACTIVE_ABOVE_NOISE * under.noise, _ACTIVE_ABOVE_MEAN * whole / len(lines))
        self._active += int(np.count_nonzero(under.changing > least))

    def features(self, length: int) -> dict[str, float]:
        """All but the level and the clipping."""
        total, noise, entropies, flatnesses = (float(value) for value in self._power)
        mean, std = _mean_and_std(self._mel, self._frames * len(self._filters))
        means, deviations = np.zeros(MFCC), np.zeros(MFCC)
        for order, (summed, squares) in enumerate(self._mfcc.T):
            means[order], deviations[order] = _mean_and_std((summed, squares), self._frames)
        return {
            "snr_db": snr_db(total, noise),
            "spectral_entropy": min(1.0, entropies / max(1, self._loud)),
            "spectral_flatness": min(1.0, flatnesses / max(1, self._loud)),
            "zero_crossing_rate": self._crossings / max(1, length - 1),
            "log_mel_mean_db": mean,
            "log_mel_std_db": std,
            **dict(zip(_COEFFICIENTS, (float(value) for value in (*means, *deviations)), strict=True)),
            "onset_density": self._onsets.count * self._rate / length,
            "voice_activity": self._active / self._frames,
        }


def stretches(sound: Sound, frame: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Stretches of equally many frames, 4–13 s each in a long sound, and how many of their last samples are new."""
    hop = frame // 2
    frames = 1 + max(0, sound.length - frame) // hop
    count = math.ceil(frames / _SEGMENT_FRAMES)
    done = 0
    tail: NDArray[np.floating] = np.zeros(0)
    for first, last in pairwise(frames * index // count for index in range(count + 1)):
        stop = sound.length if last == frames else (last - 1) * hop + frame
        fresh = stop - done
        samples = (
            np.concatenate([tail[tail.size - (done - first * hop) :], sound.read(fresh)]) if done else sound.read(fresh)
        )
        yield fresh, samples
        tail, done = samples[-frame:], stop


def frame_length(rate: int) -> int:
    """Samples of a frame: a power of two, 25–50 ms."""
    return 1 << math.ceil(math.log2(_FRAME_SECONDS * rate))


def frame_spectra(samples: NDArray[np.floating], frame: int) -> NDArray[np.complex64]:
    """Frames × (frame // 2 + 1) of samples, at least one frame, the last one filled with zeros where they are few."""
    padded = np.pad(samples, (0, max(0, frame - samples.size))).astype(np.float32)
    return np.asarray(np.fft.rfft(sliding_window_view(padded, frame)[:: frame // 2] * hann_window(frame)), np.complex64)


def in_bands(power: Floats, filters: Floats) -> Floats:
    """Frames × bands: power of frames × bins through filters of bands × bins."""
    # So few frames at a time that BLAS wakes none of its threads: they wait for each other longer than they work.
    rows = max(1, _SMALL_PRODUCT // filters.size)
    found = np.empty((len(power), len(filters)), dtype=np.float32)
    for start in range(0, len(power), rows):
        np.matmul(power[start : start + rows], filters.T, out=found[start : start + rows])
    return found


def _lines(spectrum: NDArray[np.complexfloating], power: Floats) -> Floats:
    """Power without 0 Hz, and without what a Hann window spreads from there: a frame's own mean is no sound.

    So digital silence keeps nothing of the offset that was removed from the whole.
    """
    first = spectrum[:, 1] + 0.5 * spectrum[:, 0]
    lines = power[:, 1:]
    lines[:, 0] = first.real**2 + first.imag**2
    return lines


def _shapes(power: Floats, total: Floats) -> tuple[float, float]:
    """The sums over frames of the entropy and of the flatness of their power, each 0–1 a frame."""
    bins = power.shape[1]
    shares = power / total[:, np.newaxis]
    terms = shares * np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    entropies = max(0.0, float(-terms.sum(dtype=np.float64)) / math.log(bins))
    floored = np.maximum(power, np.float32(_POWER_FLOOR))
    geometric = np.exp(np.log(floored).mean(axis=1))
    return entropies, float((geometric / floored.mean(axis=1)).sum(dtype=np.float64))


def _mean_and_std(sums: tuple[float, float] | NDArray[np.float64], count: int) -> tuple[float, float]:
    mean = float(sums[0]) / count
    return mean, math.sqrt(max(0.0, float(sums[1]) / count - mean * mean))


@lru_cache(maxsize=8)
def _filters(rate: int, frame: int) -> Floats:
    filters = mel_filterbank(rate, frame, MEL_BANDS)
    return filters[filters.any(axis=1)]
