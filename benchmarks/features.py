"""What the features of pictures and sounds are worth, and what they take.

Run it with ``python benchmarks/features.py``; it writes docs/benchmarks/features.md. ``--fit`` instead fits the weights
of `midstream.analysis.noise` on its own speakers and sentences, and prints them. espeak-ng speaks.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Literal

import cv2
import numpy as np
from models import machine, processor_series_ms, table, verdict, write_page
from numpy.typing import NDArray
from scipy.signal import resample_poly

from midstream.analysis import ImageStream, analyze, noise
from midstream.analysis.audio import frame_lines
from midstream.media import read_audio, read_image

Samples = NDArray[np.float64]
Kind = Literal["fit", "test"]
Source = Literal["spoken", "recorded", "in a room"]
Clips = Mapping[tuple[str, str], Samples]

ASSETS = Path(__file__).resolve().parent.parent / ".cache" / "assets"
VOICES: dict[Kind, tuple[str, ...]] = {
    "fit": (
        "en+m1", "en+f1", "en-us+m3", "en+Andy", "en-gb-scotland+f4", "de+m2", "fr+f2", "es+linda", "it+m5", "en+boris",
    ),
    "test": (
        "en+f3", "en-us+m7", "en+steph", "en+edward", "de+f5", "es+m4", "en-us+grandpa", "pt+anika", "nl+m6",
        "en+victor", "fr+Alicia", "en+travis",
    ),
}  # fmt: skip
SENTENCES: dict[Kind, tuple[str, ...]] = {
    "fit": (
        "The weather this morning is cold and grey, with rain expected until the early afternoon.",
        "Seven hundred and forty three people came, and most of them stayed until midnight.",
        "Please put the small boxes on the left shelf; the large ones go under the table.",
        "Nobody had told the driver that the bridge was closed, so he turned around and went home.",
        "She opened the window. A cool wind came in, and the papers flew across the room.",
        "When was the last time you checked the oil? I think it was sometime in March.",
    ),
    "test": (
        "Turn off the lights in the kitchen, and lock the front door after eleven o'clock.",
        "A quick look at the map showed that we had walked in the wrong direction for an hour.",
        "My brother plays the violin; he practises every evening. The neighbours do not mind.",
        "Fresh bread, cheese, apples and two bottles of water are all we need for the trip.",
        "The machine stopped without warning. Steam rose from the valve, and an alarm began to ring.",
        "How far is it to the next station? The train leaves at twenty to nine, I believe.",
    ),
}
SPEEDS, PITCHES = (140, 160, 185), (35, 50, 65)
ESPEAK_RATE = 22_050
SNRS_DB = tuple(range(-5, 31, 5))
SHORTEST_SECONDS, LONGEST_SECONDS = 3.0, 8.0
# Voice, noise and sample rate, and the mean absolute error asked for; None where none is.
CASES: tuple[tuple[Source, str, int, float | None], ...] = (
    ("spoken", "white", 16_000, 2.0), ("spoken", "white", 8000, 2.0), ("spoken", "white", 48_000, 2.0),
    ("spoken", "hum", 16_000, 2.0), ("spoken", "hum", 44_100, 2.0), ("spoken", "babble of 6", 16_000, 5.0),
    ("spoken", "babble of 12", 16_000, 5.0), ("spoken", "babble of 8", 48_000, 5.0), ("spoken", "pink", 16_000, None),
    ("recorded", "white", 16_000, None), ("recorded", "hum", 16_000, None), ("recorded", "babble of 6", 16_000, None),
    ("in a room", "white", 16_000, None), ("in a room", "hum", 16_000, None),
    ("in a room", "babble of 6", 16_000, None),
)  # fmt: skip
RECORDED = ("front_center.wav", "rear_left.wav", "front_center.wav")
ROOM_SECONDS, ROOM_DIRECT = 0.3, 3.0
FIT_CASES = ("white", "hum", "pink", "babble of 6", "babble of 8", "babble of 12")
FIT_CLIPS, CLIPS_A_LEVEL = 1800, 6
ROUNDS = 200


@cache
def clips(kind: Kind, rate: int) -> Clips:
    """Every voice with every sentence, at three speeds and pitches."""
    found = {}
    for index, (voice, sentence) in enumerate(itertools.product(VOICES[kind], SENTENCES[kind])):
        speed, pitch = str(SPEEDS[index % 3]), str(PITCHES[index % 5 % 3])
        command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "--stdout", sentence]
        data = subprocess.run(command, capture_output=True, check=True).stdout[44:]
        spoken = np.frombuffer(data[: len(data) // 2 * 2], "<i2") / 32768
        common = math.gcd(rate, ESPEAK_RATE)
        found[voice, sentence] = resample_poly(spoken, rate // common, ESPEAK_RATE // common)
    return found


@dataclass(frozen=True)
class Mixed:
    """A voice in noise, and the ratio of the powers of the two over the whole clip."""

    sound: NDArray[np.float32]
    rate: int
    snr_db: float


def mixed(
    kind: Kind, name: str, rate: int, snr_db: float, rng: np.random.Generator, source: Source = "spoken"
) -> Mixed:
    """One voice, with or without silence around it, and noise in which it does not speak itself."""
    spoken = clips(kind, rate)
    voice, signal = _spoken(spoken, rate, rng)
    if source == "recorded":
        signal = recorded(rate)
    elif source == "in a room":
        echo = rng.normal(size=round(ROOM_SECONDS * rate))
        echo *= 10 ** (-3 * np.arange(len(echo)) / len(echo))
        echo[0] = ROOM_DIRECT
        signal = np.convolve(signal, echo)[: len(signal)]
    added = _noise(name, len(signal), rate, voice, spoken, rng)
    added *= math.sqrt(float(np.mean(signal**2) / np.mean(added**2))) * 10 ** (-snr_db / 20)
    both = signal + added
    return Mixed((both / np.abs(both).max() * rng.uniform(0.1, 0.95)).astype(np.float32), rate, snr_db)


def _spoken(spoken: Clips, rate: int, rng: np.random.Generator) -> tuple[str, Samples]:
    """The voice, and what it says: 3 s and more of one or two sentences."""
    keys = list(spoken)
    voice, sentence = keys[rng.integers(len(keys))]
    signal = spoken[voice, sentence]
    signal = _trimmed(signal) if rng.random() < 0.5 else np.pad(signal, rng.integers(0, rate // 2, 2))
    if rng.random() < 0.4:
        signal = np.concatenate([signal, spoken[voice, keys[rng.integers(len(keys))][1]]])
    shortest = round(SHORTEST_SECONDS * rate)
    if rng.random() < 0.4 and len(signal) > shortest:
        length = int(rng.integers(shortest, min(len(signal), round(LONGEST_SECONDS * rate)) + 1))
        start = int(rng.integers(0, len(signal) - length + 1))
        signal = signal[start : start + length]
    return voice, np.resize(signal, max(len(signal), shortest))


@cache
def recorded(rate: int) -> Samples:
    """A woman's voice, as ALSA tests loudspeakers with it."""
    return np.concatenate([read_audio(ASSETS / "sounds" / name, rate)[0].astype(np.float64) for name in RECORDED])


def _noise(name: str, length: int, rate: int, voice: str, spoken: Clips, rng: np.random.Generator) -> Samples:
    if name == "white":
        return rng.normal(size=length)
    if name == "pink":
        spectrum = np.fft.rfft(rng.normal(size=length))
        spectrum[0] = 0.0
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        return np.fft.irfft(spectrum, length)
    if name == "hum":
        return _hum(length, rate, rng)
    return _babble(length, int(name.rpartition(" ")[2]), voice, spoken, rng)


def _hum(length: int, rate: int, rng: np.random.Generator) -> Samples:
    """3 to 19 harmonics of 50 or 60 Hz, within the 0.2 % that mains drift; half of it with some white noise."""
    mains = rng.choice([50.0, 60.0]) * (1 + rng.uniform(-0.002, 0.002))
    falls, moments = rng.uniform(0.5, 1.5), np.arange(length) / rate
    found = np.zeros(length)
    for order in range(1, int(rng.integers(3, 20)) + 1):
        level = order**-falls * (1.0 if order == 1 else rng.choice([1.0, 1.0, 0.2]))
        found += level * np.cos(2 * np.pi * mains * order * moments + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.5:
        found += rng.normal(size=length) * found.std() * 10 ** (-rng.uniform(10, 30) / 20)
    return found


def _babble(length: int, speakers: int, voice: str, spoken: Clips, rng: np.random.Generator) -> Samples:
    """Others who speak without a break, each within 3 dB of the same level."""
    others = sorted({key[0] for key in spoken} - {voice})
    order = rng.permutation(others)
    found = np.zeros(length)
    for index in range(speakers):
        sentences = [spoken[key] for key in spoken if key[0] == order[index % len(order)]]
        speech = np.concatenate([_trimmed(sentences[place]) for place in rng.permutation(len(sentences))])
        turned = np.roll(np.resize(speech, max(length, len(speech))), int(rng.integers(len(speech))))[:length]
        found += turned / turned.std() * 10 ** (rng.uniform(-3, 3) / 20)
    return found


def _trimmed(sound: Samples) -> Samples:
    loud = np.flatnonzero(np.abs(sound) > 1e-4)
    return sound[loud[0] : loud[-1] + 1]


def ours(clip: Mixed) -> float:
    return analyze(clip.sound, "audio", clip.rate).features["snr_db"]


def percentile(clip: Mixed) -> float:
    """Plain: the noise is the 10 % quantile of the power of 25 ms frames."""
    frame = clip.rate // 40
    frames = clip.sound[: len(clip.sound) // frame * frame].reshape(-1, frame).astype(np.float64)
    powers = (frames**2).mean(axis=1)
    return noise.snr_db(float(powers.mean()), float(np.quantile(powers, 0.1)))


@cache
def wada_curve() -> tuple[Samples, Samples]:
    """SNR and what it makes of log mean - mean log: gamma-distributed speech of shape 0.4 in normal noise."""
    rng = np.random.default_rng(2008)
    speech = rng.gamma(0.4, size=1_000_000) * rng.choice([-1.0, 1.0], 1_000_000)
    speech /= math.sqrt(float(np.mean(speech**2)))
    added = rng.normal(size=len(speech))
    levels = np.arange(-20.0, 101.0)
    return levels, np.array([_wada_measure(speech + added * 10 ** (-level / 20)) for level in levels])


def _wada_measure(sound: NDArray[np.floating]) -> float:
    magnitudes = np.maximum(np.abs(sound), 1e-10)
    return math.log(magnitudes.mean()) - float(np.log(magnitudes).mean())


def wada(clip: Mixed) -> float:
    """Kim and Stern, "Robust signal-to-noise ratio estimation based on waveform amplitude distribution", 2008."""
    levels, measures = wada_curve()
    return float(np.interp(_wada_measure(clip.sound / np.abs(clip.sound).max()), measures, levels))


ESTIMATORS: tuple[tuple[str, Callable[[Mixed], float]], ...] = (
    ("midstream", ours), ("percentile", percentile), ("WADA", wada),
)  # fmt: skip


def snr_section() -> str:
    rows, details, met = [], [], True
    for source, name, rate, asked in CASES:
        rng = np.random.default_rng([7, rate, *name.encode()])
        bank = [mixed("test", name, rate, level, rng, source) for level in SNRS_DB for _ in range(CLIPS_A_LEVEL)]
        errors = {key: np.array([estimate(clip) - clip.snr_db for clip in bank]) for key, estimate in ESTIMATORS}
        means = [float(np.abs(errors[key]).mean()) for key, _ in ESTIMATORS]
        met = met and (asked is None or means[0] <= asked)
        rows.append([
            source, name, rate, "–" if asked is None else f"{asked:g}", *(f"{mean:.2f}" for mean in means),
            "–" if asked is None else verdict(means[0] <= asked),
        ])  # fmt: skip
        levels = errors["midstream"].reshape(len(SNRS_DB), -1).mean(axis=1)
        details.append([source, name, rate, *(f"{error:+.1f}" for error in levels)])
    count = len(SNRS_DB) * CLIPS_A_LEVEL
    return "\n\n".join([
        "## Signal to noise, blind",
        f"Mean absolute error in dB of {count} clips of 3 s and more a row, at −5, 0, … 30 dB: {len(VOICES['test'])} "
        f"speakers, {len(SENTENCES['test'])} sentences of espeak-ng, none of which any constant was fitted on. The "
        "true ratio is of the powers of voice and noise over the whole clip. Hum: 3–19 harmonics of 50 or 60 Hz. "
        "Babble: so many other speakers, without a break. Percentile: the 10 % quantile of the power of 25 ms frames. "
        "WADA: Kim and Stern 2008.",
        table("voice|noise| Hz| asked| midstream| percentile| WADA|", rows),
        "Midstream's mean error by the true ratio in dB:",
        table("voice|noise| Hz|" + "|".join(f" {level}" for level in SNRS_DB), details),
        MISSES,
        "All that was asked is met." if met else "Not all that was asked is met.",
    ])  # fmt: skip


MISSES = (
    "Where the noise never changes, the plain percentile is as near. Babble at −5 dB reads too high, and so does pink "
    "noise, whose few low bins carry most of the power. In a room the echo fills the pauses, and counts as noise: "
    "30 dB reads about 5 dB too low. Recorded: one voice, two words; in a room: the spoken voices with an "
    f"exponential echo of {ROOM_SECONDS:g} s, which belongs to the signal."
)


def fit() -> str:
    """Weights by least absolute error, on the speakers and sentences for that alone; SNR of −8 to 33 dB."""
    rng = np.random.default_rng(1)
    spans, wanted = [], []
    for index in range(FIT_CLIPS):
        clip = mixed("fit", FIT_CASES[index % len(FIT_CASES)], 16_000, float(rng.uniform(-8, 33)), rng)
        lines = frame_lines(clip.sound, clip.rate)
        spread = noise.spreads(lines, np.ones(lines.shape[1], dtype=np.float32))
        loud = min(1.0, max(0.0, (noise.FAINT_DB - spread.base_db) / (noise.FAINT_DB - noise.LOUD_DB)))
        spans.append([*(loud * step for step in spread.steps_db), *((1 - loud) * step for step in spread.steps_db)])
        wanted.append(clip.snr_db - spread.base_db)
    columns, target = np.array(spans), np.array(wanted)
    weights = np.zeros(columns.shape[1])
    for _ in range(50):
        scale = np.sqrt(1.0 / np.maximum(np.abs(columns @ weights - target), 0.3))
        weights = np.linalg.lstsq(columns * scale[:, None], target * scale, rcond=None)[0]
    before, after = np.abs(target).mean(), np.abs(columns @ weights - target).mean()
    loud, faint = (tuple(float(round(value, 2)) for value in part) for part in (weights[:3], weights[3:]))
    return f"LOUD_WEIGHTS = {loud}\nFAINT_WEIGHTS = {faint}\nmean absolute error {before:.2f} -> {after:.2f} dB"


def time_section() -> str:
    cv2.setNumThreads(1)
    frame = read_image(ASSETS / "pictures" / "astronaut.png")
    small, large = (np.asarray(cv2.resize(frame, size), np.uint8) for size in ((640, 480), (1920, 1080)))
    noisy = np.random.default_rng(0).integers(0, 256, small.shape, dtype=np.uint8)
    speech = np.concatenate(list(clips("test", 16_000).values())[:2])[4000:20_000].astype(np.float32)
    stream = ImageStream()
    runs: Sequence[tuple[str, float | None, Callable[[], object]]] = (
        ("picture, 640×480", 2.0, lambda: analyze(small, "image")),
        ("picture of white noise, 640×480", 2.0, lambda: analyze(noisy, "image")),
        ("frame of a stream, 640×480", 2.0, lambda: stream.analyze(small)),
        ("picture, 1920×1080", 4.0, lambda: analyze(large, "image")),
        ("1 s of sound, 16 kHz", 2.0, lambda: analyze(speech, "audio", 16_000)),
        ("cv2.resize 1920×1080 to 640×360, by area", None, lambda: cv2.resize(large, (640, 360), interpolation=3)),
        ("copy of 1920×1080×3 bytes", None, lambda: large.copy()),
    )
    series = processor_series_ms([run for _, _, run in runs], ROUNDS)
    yardstick = median(series[-2])
    rows = []
    for (name, asked, _), times in zip(runs, series, strict=True):
        middle = median(times)
        rows.append([
            name, "–" if asked is None else f"{asked:g}", f"{middle:.2f}", f"{min(times):.2f}",
            f"{middle / yardstick:.2f}", "–" if asked is None else verdict(middle <= asked),
        ])  # fmt: skip
    imports = sorted(_import_seconds() for _ in range(5))
    loaded = _loaded()
    return "\n\n".join([
        "## Time",
        f"Milliseconds of processor time of one thread, of {ROUNDS} runs that take turns: what else the machine does "
        "takes its share of the caches, but not of the clock. Ratio: of the median, to the median of the resize. The "
        "features and the formula's score alone; with the network: [what the score predicts](complexity.md).",
        table("what| asked| median| least| ratio|", rows),
        f"`import midstream` takes {median(imports):.3f} s (0.4 asked: {verdict(median(imports) <= 0.4)}), median of 5 "
        f"processes. After an image and a sound were analysed, of librosa, numba, scipy, soundfile and matplotlib "
        f"{loaded or 'none'} was imported ({verdict(not loaded)}).",
    ])  # fmt: skip


def _import_seconds() -> float:
    code = "import time; start = time.perf_counter(); import midstream; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _loaded() -> str:
    code = (
        "import sys, numpy as np, midstream\nmidstream.analyze(np.ones(9000, np.int16), 'audio', 16000)\n"
        "midstream.analyze(np.ones((9, 9), np.uint8), 'image')\n"
        "print(*({'librosa', 'numba', 'scipy', 'soundfile', 'matplotlib'} & set(sys.modules)))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure and write, or fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="fit the weights of the noise estimate and print them")
    if parser.parse_args().fit:
        print(fit())
        return
    load = os.getloadavg()[0]
    parts = [
        "# Features of pictures and sounds",
        f"Generated by `python benchmarks/features.py` on {machine()}; load average before: {load:.1f}.",
        snr_section(),
        time_section(),
    ]
    write_page("features", "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
