"""The corpus of sounds: seconds of speech and of made sound, with noise, hum and babble at known ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midstream_training.sources import SAMPLE_RATE, Sound

SECOND = SAMPLE_RATE
_MADE_SHARE = 0.15
_PLAIN_SHARE = 0.25


def sound(voices: Sequence[Sound], seed: int) -> tuple[Sound, int]:
    """One second of the corpus, and the index of its source, -1 for a made one."""
    rng = np.random.default_rng(seed)
    if rng.random() < _MADE_SHARE:
        source, found = -1, _made(rng)
    else:
        source = int(rng.integers(len(voices)))
        found = part(voices[source], rng)
    found = found * np.float32(10.0 ** rng.uniform(-1.6, 0.2))
    if rng.random() >= _PLAIN_SHARE:
        kind = int(rng.integers(5))
        snr_db = rng.uniform(-5.0, 35.0)
        if kind == 0:
            found = noisy(found, rng, snr_db)
        elif kind == 1:
            found = mixed(found, _pink(rng), snr_db)
        elif kind == 2:
            found = mixed(found, _hum(rng), snr_db)
        elif kind == 3:
            found = mixed(found, _babble(voices, rng), snr_db)
        else:
            found = muffled(found, float(rng.uniform(300, 4000)))
    return np.clip(found, -1.0, 1.0).astype(np.float32), source


def noisy(clean: Sound, rng: np.random.Generator, snr_db: float) -> Sound:
    """With white noise at this ratio; a silent sound gets it at -50 dB."""
    return mixed(clean, rng.standard_normal(clean.size).astype(np.float32), snr_db)


def mixed(clean: Sound, other: Sound, snr_db: float) -> Sound:
    """Both, the other so much quieter."""
    level = max(_rms(clean), 10.0 ** (-50 / 20))
    return np.asarray(clean + other * (level / max(1e-9, _rms(other)) * 10.0 ** (-snr_db / 20)), np.float32)


def muffled(clean: Sound, cutoff_hz: float) -> Sound:
    """Without what lies above: a fourth-order roll-off."""
    spectrum = np.fft.rfft(clean)
    hz = np.fft.rfftfreq(clean.size, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / np.sqrt(1.0 + (hz / cutoff_hz) ** 8), clean.size).astype(np.float32)


def faded(clean: Sound, share: float) -> Sound:
    """Silence in place of this share of it, at its end."""
    done = clean.copy()
    done[round(clean.size * (1 - share)) :] = 0.0
    return done


def part(voice: Sound, rng: np.random.Generator) -> Sound:
    """A second of it, from anywhere."""
    start = int(rng.integers(0, max(1, voice.size - SECOND)))
    return np.resize(voice[start : start + SECOND], SECOND).astype(np.float32)


def _made(rng: np.random.Generator) -> Sound:
    """Near silence, noise, a chord, clicks, or a chirp."""
    kind, time = int(rng.integers(5)), np.arange(SECOND) / SAMPLE_RATE
    if kind == 0:
        return (10.0 ** rng.uniform(-5, -3) * rng.standard_normal(SECOND)).astype(np.float32)
    if kind == 1:
        return (0.15 * (rng.standard_normal(SECOND) if rng.random() < 0.5 else _pink(rng))).astype(np.float32)
    if kind == 2:
        pitches = 80.0 * 2.0 ** rng.uniform(0, 5, int(rng.integers(1, 6)))
        return (0.2 * np.sin(2 * np.pi * np.outer(pitches, time)).mean(0)).astype(np.float32)
    if kind == 3:
        clicks = np.zeros(SECOND)
        clicks[rng.integers(0, SECOND, int(rng.integers(2, 40)))] = rng.uniform(0.3, 1.0)
        decay = np.exp(-np.arange(800) / rng.uniform(20, 200)) * rng.standard_normal(800)
        return (0.5 * np.convolve(clicks, decay)[:SECOND]).astype(np.float32)
    low, high = 80.0 * 2.0 ** rng.uniform(0, 6, 2)
    return (0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(low, high, SECOND)) / SAMPLE_RATE)).astype(np.float32)


def _pink(rng: np.random.Generator) -> Sound:
    spectrum = np.fft.rfft(rng.standard_normal(SECOND)) / np.sqrt(np.arange(SECOND // 2 + 1) + 1)
    plain = np.fft.irfft(spectrum, SECOND)
    return (plain / plain.std()).astype(np.float32)


def _hum(rng: np.random.Generator) -> Sound:
    time = np.arange(SECOND) / SAMPLE_RATE
    base = 50.0 if rng.random() < 0.5 else 60.0
    parts = [np.sin(2 * np.pi * base * order * time + rng.uniform(0, 6)) / order for order in range(1, 8)]
    return np.sum(parts, axis=0).astype(np.float32)


def _babble(voices: Sequence[Sound], rng: np.random.Generator) -> Sound:
    chosen = rng.integers(0, len(voices), 5)
    return np.sum([part(voices[index], rng) for index in chosen], axis=0).astype(np.float32)


def _rms(samples: Sound) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
