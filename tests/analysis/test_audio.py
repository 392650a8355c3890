from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from midstream.analysis import analyze
from midstream.analysis.mel import mel_filterbank
from midstream.tensors import Tensor

Samples = NDArray[np.float64]


def noise(length: int, seed: int = 1) -> Samples:
    return np.random.default_rng(seed).normal(size=length)


def voice(rate: int, seconds: float = 5.0) -> Samples:
    """A voiced harmonic sound of gliding pitch in syllables four times a second, with pauses."""
    time = np.arange(round(rate * seconds)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / rate
    carrier = np.sum([np.cos(k * phase + k * k) / k**1.2 for k in range(1, 25)], axis=0)
    return np.asarray(carrier * np.maximum(0.0, np.sin(2 * np.pi * 4 * time)), dtype=np.float64)


def at_snr(signal: Samples, snr_db: float) -> Samples:
    """The signal in white noise, at -20 dB of full scale."""
    added = noise(len(signal))
    mixed = signal / signal.std() + added / added.std() * 10 ** (-snr_db / 20)
    return np.asarray(0.1 * mixed, dtype=np.float64)


def features(sound: Tensor, rate: int = 16_000) -> dict[str, float]:
    return analyze(sound, kind="audio", sample_rate=rate).features


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("snr_db", [0, 10, 20, 35])
def test_snr_of_a_voice_in_white_noise(rate: int, snr_db: float) -> None:
    sound = at_snr(voice(rate), snr_db)
    assert features(sound, rate)["snr_db"] == pytest.approx(snr_db, abs=1.5)
    assert features((sound * 32767).astype(np.int16), rate)["snr_db"] == pytest.approx(snr_db, abs=1.5)


@pytest.mark.parametrize("snr_db", [0, 10, 20])
def test_snr_of_a_voice_without_pauses(snr_db: float) -> None:
    time = np.arange(80_000) / 16_000
    sound = np.sin(2 * np.pi * 440 * time) * (1 + np.sin(2 * np.pi * 4 * time))
    assert features(at_snr(sound, snr_db))["snr_db"] == pytest.approx(snr_db, abs=3.0)


def test_a_steady_tone_is_not_noise_and_noise_is_not_signal() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(80_000) / 16_000)
    assert features(at_snr(tone, 15))["snr_db"] == pytest.approx(15, abs=1.5)
    assert features(0.9 * tone)["snr_db"] > 45
    assert features(0.1 * noise(80_000))["snr_db"] < -8


def test_padding_with_silence_does_not_hide_the_noise() -> None:
    sound = at_snr(voice(16_000), 10)
    padded = np.concatenate([np.zeros(32_000), sound, np.zeros(32_000)])
    assert features(padded)["snr_db"] == pytest.approx(10, abs=1.5)


def test_entropy_flatness_and_crossings_of_tone_and_noise() -> None:
    tone = features(0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000))
    white = features(0.1 * noise(16_000))
    # The periodogram of white noise is exponentially distributed: flatness exp(-γ), entropy 1 - (1 - γ) / ln(bins).
    assert white["spectral_flatness"] == pytest.approx(np.exp(-np.euler_gamma), abs=0.02)
    assert white["spectral_entropy"] == pytest.approx(1 - (1 - np.euler_gamma) / np.log(256), abs=0.01)
    assert white["zero_crossing_rate"] == pytest.approx(0.5, abs=0.02)
    assert tone["zero_crossing_rate"] == pytest.approx(2 * 1000 / 16_000, abs=0.001)
    assert tone["rms_db"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert tone["spectral_flatness"] < 0.01 and tone["spectral_entropy"] < 0.25


@pytest.mark.parametrize("sound", [np.zeros(8000), np.full(8000, 0.3), np.full(8000, 7, np.int16), np.ones(1)])
def test_silence_and_dc_have_defined_features(sound: Tensor) -> None:
    found = analyze(sound, kind="audio", sample_rate=16_000)
    assert found.score == 0.0
    levels = {"snr_db": -20.0, "rms_db": -120.0, "log_mel_mean_db": -100.0}
    assert found.features == dict.fromkeys(features(noise(8000)), 0.0) | levels


def test_an_offset_changes_nothing() -> None:
    sound = at_snr(voice(16_000, 1.0), 20)
    assert features(sound + 0.2) == pytest.approx(features(sound), rel=1e-3)


def test_channels_are_averaged_on_either_axis() -> None:
    left, right = 0.1 * noise(16_000, 1), 0.1 * noise(16_000, 2)
    wanted = features((left + right) / 2)
    assert features(np.stack([left, right])) == pytest.approx(wanted)
    assert features(np.stack([left, right], axis=1)) == pytest.approx(wanted)


def test_more_noise_is_more_complex() -> None:
    scores = [analyze(at_snr(voice(16_000), snr), "audio", 16_000).features["spectral_entropy"] for snr in (30, 15, 0)]
    assert scores == sorted(scores)


def test_a_long_sound_takes_no_more_memory() -> None:
    part = (0.1 * noise(16_000 * 30)).astype(np.float32)
    peaks = []
    for times in (1, 4):
        sound = np.tile(part, times)
        tracemalloc.start()
        features(sound)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 60e6


@pytest.mark.parametrize(("rate", "frame"), [(8000, 256), (16_000, 512), (48_000, 2048)])
def test_mel_bands_are_those_of_librosa(rate: int, frame: int) -> None:
    librosa = pytest.importorskip("librosa")
    wanted = librosa.filters.mel(sr=rate, n_fft=frame, n_mels=40)
    assert np.allclose(mel_filterbank(rate, frame, 40), wanted, rtol=1e-3, atol=1e-6)


def test_log_mel_statistics_are_those_of_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    sound = at_snr(voice(16_000), 10).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=sound - sound.mean(), sr=16_000, n_fft=512, hop_length=256, n_mels=40, center=False
    )
    decibels = librosa.power_to_db(power, top_db=None)
    found = features(sound)
    assert found["log_mel_mean_db"] == pytest.approx(decibels.mean(), abs=1e-3)
    assert found["log_mel_std_db"] == pytest.approx(decibels.std(), abs=1e-3)


def test_the_mel_bands_known_by_arithmetic() -> None:
    filters = mel_filterbank(16_000, 512, 40)
    assert filters.shape == (40, 257)
    # Triangles of unit area: weights times bin width add up to 1 where a band spans many bins.
    assert filters[-5:].sum(axis=1) * 16_000 / 512 == pytest.approx(np.ones(5), abs=0.02)
    assert filters[:, 0].max() == 0.0
    with pytest.raises(ValueError, match="read-only"):
        filters[0, 0] = 1.0


def test_the_cepstrum_is_that_of_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    sound = at_snr(voice(16_000), 10).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=sound - sound.mean(), sr=16_000, n_fft=512, hop_length=256, n_mels=40, center=False
    )
    wanted = librosa.feature.mfcc(S=librosa.power_to_db(power, top_db=None), n_mfcc=7)
    found = features(sound)
    for order in range(1, 7):
        assert found[f"mfcc_{order}_mean"] == pytest.approx(wanted[order].mean(), abs=1e-3)
        assert found[f"mfcc_{order}_std"] == pytest.approx(wanted[order].std(), abs=1e-3)


@pytest.mark.parametrize("lines", [(50,), (60,), (50, 100, 150), (100, 200, 300), (60, 180, 300, 420)])
@pytest.mark.parametrize("snr_db", [0, 10, 20])
def test_mains_hum_is_noise(lines: tuple[int, ...], snr_db: float) -> None:
    signal = voice(16_000)
    time = np.arange(len(signal)) / 16_000
    hum = np.sum([np.sin(2 * np.pi * hz * time + hz) for hz in lines], axis=0)
    sound = 0.1 * (signal / signal.std() + hum / hum.std() * 10 ** (-snr_db / 20))
    assert features(sound)["snr_db"] == pytest.approx(snr_db, abs=3.0)


@pytest.mark.parametrize("snr_db", [-5, 5, 15])
def test_noise_that_rises_and_falls_is_not_taken_for_its_quietest_part(snr_db: float) -> None:
    signal = voice(16_000, 8.0)
    swell = np.repeat(10 ** (np.random.default_rng(3).normal(0, 3.0, 80) / 20), len(signal) // 80)
    added = noise(len(signal)) * swell
    mixed = 0.1 * (signal / signal.std() + added / added.std() * 10 ** (-snr_db / 20))
    assert features(mixed)["snr_db"] == pytest.approx(snr_db, abs=5.0)


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_onsets_are_counted(rate: int) -> None:
    sound = 0.001 * noise(4 * rate)
    time = np.arange(rate // 4) / rate
    for start in range(rate // 4, 4 * rate - rate // 4, rate // 2):
        sound[start : start + len(time)] += 0.5 * np.exp(-time * 30) * np.sin(2 * np.pi * 800 * time)
    assert features(sound, rate)["onset_density"] == pytest.approx(7 / 4)
    assert features(0.1 * noise(4 * rate), rate)["onset_density"] == 0.0


def test_activity_is_what_stands_out_of_the_noise() -> None:
    spoken = voice(16_000, 2.0)
    sound = 0.01 * noise(16_000 * 8)
    sound[32_000:64_000] += 0.3 * spoken
    # The voice sounds half of a quarter of the time; a frame that it only touches counts too.
    assert features(sound)["voice_activity"] == pytest.approx(0.125, abs=0.05)
    assert features(0.1 * noise(80_000))["voice_activity"] < 0.01
    tone = np.sin(2 * np.pi * 440 * np.arange(80_000) / 16_000)
    assert features(at_snr(tone, 15))["voice_activity"] < 0.01


def test_clipped_samples_are_counted_in_any_channel() -> None:
    left, right = 0.1 * noise(16_000, 1), 0.1 * noise(16_000, 2)
    assert features(left)["clipping_share"] == 0.0
    left[:1600] = 1.0
    right[800:2400] = -1.0
    both = np.stack([left, right])
    assert features(both)["clipping_share"] == 0.15
    assert features(np.clip(both * 32768, -32768, 32767).astype(np.int16))["clipping_share"] == 0.15
    assert features(2.0 * left)["clipping_share"] >= 0.1


def test_a_sound_in_parts_is_the_same_sound() -> None:
    sound = at_snr(voice(16_000, 20.0), 10)
    found, whole = features(sound), features(sound)
    assert found == whole
    twice = features(np.tile(sound, 3))
    for name, value in whole.items():
        assert twice[name] == pytest.approx(value, rel=0.03, abs=0.3), name
