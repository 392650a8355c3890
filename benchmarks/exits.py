"""Early exits of three models that are trained here: how many inputs they answer, how well, and what that saves.

    python benchmarks/exits.py

Needs TensorFlow, scikit-learn, mlxtend and espeak-ng: ``pip install -e '.[dev,convert-keras]' scikit-learn mlxtend``.
Takes about half an hour at the first run; the trained models stay in .cache/exits. Three parts of the data share no
picture and no voice: the model learns from one, with labels; `midstream exits` from the second, without; the third is
reported on.
Writes docs/benchmarks/exits.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from models import ROOT, interleaved_ms, machine, table, verdict, write_page
from numpy.typing import NDArray

from midstream.analysis import analyze_inputs
from midstream.bundle import Bundle
from midstream.exits import choices

Format = Literal["tflite", "onnx"]
Array = NDArray[np.float32]

CACHE = ROOT / ".cache" / "exits"
SIDE = 32
RATE = 16_000
FRAME, HOP, BANDS = 400, 320, 40
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHERS = ("house", "water", "seven", "garden", "music", "window", "yellow", "paper", "river", "table")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
PARTS = ("model", "exit", "test")
ROUNDS = 40
TARGET = 0.99
# onnxruntime fuses across the residuals of the keyword model: its cuts are off by some 1e-9, and none would be kept.
TOLERANCE = 1e-6
ASKED_SHARE, ASKED_POINTS, ASKED_COST = 0.60, 0.005, 0.50


@dataclass(frozen=True)
class Examples:
    """Inputs and labels of the three parts: N × … float32, N integers."""

    inputs: dict[str, Array]
    labels: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Task:
    """A model, and how to make its data and itself."""

    name: str
    what: str
    examples: Callable[[], Examples]
    train: Callable[[Array, NDArray[np.int64]], Any]


def digits() -> Examples:
    """scikit-learn's digits (1,797 handwritten, of 43 people), enlarged; by thirds, in their order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = bunch.images.astype(np.float32) / 16
    large = np.array([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in pictures])
    inputs = np.clip(large, 0, 1)[..., np.newaxis].astype(np.float32)
    places = dict(zip(PARTS, (slice(0, 600), slice(600, 1300), slice(1300, None)), strict=True))
    return Examples(
        {part: inputs[where] for part, where in places.items()},
        {part: bunch.target[where].astype(np.int64) for part, where in places.items()},
    )


def mnist() -> Examples:
    """The 5,000 pictures of MNIST that mlxtend has, 500 of each class, enlarged; by parts, in their order.

    They are of some 250 people, and nothing says which is whose.
    """
    from mlxtend.data import mnist_data

    pictures, classes = mnist_data()
    # They lie by class: now the first of each, then the second of each.
    order = np.arange(len(classes)).reshape(10, -1).T.reshape(-1)
    large = np.pad(pictures[order].reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2))) / 255
    inputs, labels = large[..., np.newaxis].astype(np.float32), classes[order].astype(np.int64)
    places = dict(zip(PARTS, (slice(0, 2000), slice(2000, 3500), slice(3500, None)), strict=True))
    return Examples(
        {part: inputs[where] for part, where in places.items()},
        {part: labels[where] for part, where in places.items()},
    )


def keywords() -> Examples:
    """Log energies of a second with a word of `WORDS`, another one or none, by a voice of espeak-ng, in noise.

    The noise is 5 to 30 dB below the word. Of espeak-ng's variants of a voice every fifth is for the exit, and every
    fifth for the test: nobody is heard in two parts.
    """
    counts = {"model": 6000, "exit": 2000, "test": 1500}
    listed = subprocess.run(["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True).stdout
    names = sorted(found.removeprefix("!v/") for line in listed.splitlines()[1:] for found in line.split()[-1:])
    voices = {"exit": names[3::5], "test": names[4::5]}
    voices["model"] = [name for name in names if name not in (*voices["exit"], *voices["test"])]
    inputs, labels = {}, {}
    for seed, (part, count) in enumerate(counts.items()):
        rng = np.random.default_rng(seed)
        # One voice after another, as in a folder of recordings.
        who = np.sort(rng.integers(0, len(voices[part]), count))
        given = rng.integers(0, len(WORDS) + 2, count)
        orders = [_order(int(label), voices[part][voice], rng) for label, voice in zip(given, who, strict=True)]
        with ThreadPoolExecutor(2) as pool:
            spoken = list(pool.map(_spoken, orders))
        inputs[part] = np.array([_energies(_clip(sound, rng)) for sound in spoken], np.float32)
        labels[part] = given.astype(np.int64)
    return Examples(inputs, labels)


def _order(label: int, variant: str, rng: np.random.Generator) -> tuple[str, ...]:
    """What to ask of espeak-ng for a label; nothing for noise."""
    if label == len(WORDS) + 1:
        return ()
    word = WORDS[label] if label < len(WORDS) else OTHERS[int(rng.integers(len(OTHERS)))]
    voice = f"{ACCENTS[int(rng.integers(len(ACCENTS)))]}+{variant}"
    return ("-v", voice, "-s", str(rng.integers(120, 200)), "-p", str(rng.integers(25, 75)), word)


def _spoken(order: tuple[str, ...]) -> Array:
    if not order:
        return np.zeros(0, np.float32)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["espeak-ng", "-w", file.name, *order], check=True, capture_output=True)
        with wave.open(file.name) as sound:
            rate = sound.getframerate()
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float32) / 32768
    length = round(len(samples) * RATE / rate)
    return np.interp(np.arange(length) * rate / RATE, np.arange(len(samples)), samples).astype(np.float32)


def _clip(sound: Array, rng: np.random.Generator) -> Array:
    """A second with the word somewhere in it, and noise whose spectrum falls more or less."""
    clip = np.zeros(RATE, np.float32)
    heard = sound[:RATE]
    start = int(rng.integers(0, RATE - len(heard) + 1))
    clip[start : start + len(heard)] = heard
    spectrum = np.fft.rfft(rng.standard_normal(RATE))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** rng.uniform(0, 0.6)
    noise = np.fft.irfft(spectrum, RATE).astype(np.float32)
    loud = float(np.sqrt(np.mean(heard**2))) if len(heard) else 0.05
    clip += noise / float(noise.std()) * loud * 10 ** (-rng.uniform(5, 30) / 20)
    return (clip * rng.uniform(0.2, 1.0) / np.abs(clip).max()).astype(np.float32)


def digit_network(inputs: Array, labels: NDArray[np.int64]) -> Any:
    """A convolutional classifier whose later layers are the dear ones, trained with pictures moved, turned, noisy."""
    import keras

    def conv(x: Any, channels: int) -> Any:
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))

    image = keras.Input((SIDE, SIDE, 1), name="image")
    x = keras.layers.MaxPooling2D()(conv(conv(image, 16), 32))
    x = keras.layers.MaxPooling2D()(conv(conv(x, 32), 64))
    for channels in (96, 128, 128, 128, 128, 128):
        x = conv(x, channels)
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="scores")(x))
    rng = np.random.default_rng(0)
    many = np.concatenate([inputs, *(np.array([_moved(each, rng) for each in inputs]) for _ in range(4))])
    return _trained(model, many, np.tile(labels, 5), epochs=8)


def _moved(picture: Array, rng: np.random.Generator) -> Array:
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.uniform(-12, 12), rng.uniform(0.9, 1.1))
    turn[:, 2] += rng.uniform(-2, 2, 2)
    moved = cv2.warpAffine(picture, turn, (SIDE, SIDE)) + 0.05 * rng.standard_normal((SIDE, SIDE))
    return np.clip(moved, 0, 1)[..., np.newaxis].astype(np.float32)


def keyword_network(inputs: Array, labels: NDArray[np.int64]) -> Any:
    """Separable convolutions over log energies, as in DS-CNN (Zhang et al., "Hello Edge", 2017), each added to what it
    was given, as in DS-ResNet (Xu and Zhang, "Depthwise Separable Convolutional ResNet", 2020).
    """
    import keras

    frames = keras.Input(inputs.shape[1:], name="frames")
    x = keras.layers.Reshape((*inputs.shape[1:], 1))(keras.layers.BatchNormalization(momentum=0.9)(frames))
    x = keras.layers.Conv2D(72, (10, 4), strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    for _ in range(16):
        y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        y = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(y))
        y = keras.layers.Conv2D(72, 1, use_bias=False)(y)
        x = keras.layers.ReLU()(keras.layers.Add()([x, keras.layers.BatchNormalization(momentum=0.9)(y)]))
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(frames, keras.layers.Dense(len(WORDS) + 2, activation="softmax", name="scores")(x))
    return _trained(model, inputs, labels, epochs=12)


def _energies(clip: Array) -> Array:
    """Logarithms of the powers in BANDS mel bands, frame by frame."""
    windows = np.lib.stride_tricks.sliding_window_view(clip, FRAME)[::HOP] * np.hanning(FRAME)
    powers = np.abs(np.fft.rfft(windows)) ** 2
    return np.log(powers @ _bands() + 1e-4).astype(np.float32)


def _bands() -> Array:
    """Triangles, evenly spaced in mel from 60 to 7600 Hz."""
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), BANDS + 2) / 2595) - 1)
    hertz = np.arange(FRAME // 2 + 1) * RATE / FRAME
    rising = (hertz[:, np.newaxis] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz[:, np.newaxis]) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None).astype(np.float32)


def _trained(model: Any, inputs: Array, labels: NDArray[np.int64], epochs: int) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * (len(inputs) // 64 + 1))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(inputs, labels, batch_size=64, epochs=epochs, verbose=2)
    return model


TASKS = (
    Task("digits", "handwritten digits, enlarged to 32 × 32; a convolutional network", digits, digit_network),
    Task("mnist", "5,000 handwritten digits of MNIST, 32 × 32; the same network", mnist, digit_network),
    Task(
        "keywords", "ten words, others or noise in a second of sound; DS-CNN with residuals", keywords, keyword_network
    ),
)


def made(task: Task) -> Examples:
    """The task's data, from the cache where it is there; the trained model is in the cache afterwards."""
    CACHE.mkdir(parents=True, exist_ok=True)
    data = data_file(task)
    if not data.exists():
        examples = task.examples()
        arrays: dict[str, Any] = {f"inputs_{part}": value for part, value in examples.inputs.items()}
        arrays |= {f"labels_{part}": value for part, value in examples.labels.items()}
        np.savez(data, **arrays)
    with np.load(data) as file:
        inputs = {part: file[f"inputs_{part}"] for part in PARTS}
        labels = {part: file[f"labels_{part}"] for part in PARTS}
    if not all(model_file(task, kind).exists() for kind in get_args(Format)):
        _write(task, task.train(inputs["model"], labels["model"]))
    return Examples(inputs, labels)


def data_file(task: Task) -> Path:
    """Where the task's data is, once `made` has been called."""
    return CACHE / f"{task.name}.npz"


def model_file(task: Task, kind: Format) -> Path:
    """Where the trained model is, once `made` has been called."""
    return CACHE / f"{task.name}.{kind}"


def _write(task: Task, model: Any) -> None:
    """The trained model in both formats, by the same tools as `midstream convert` uses for Keras models."""
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    (shape,) = [tuple(each.shape[1:]) for each in model.inputs]
    name = model.inputs[0].name
    signature = [tf.TensorSpec((1, *shape), tf.float32, name)]
    function = tf.function(lambda given: {"scores": model(given, training=False)}, input_signature=signature)
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    model_file(task, "tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    tf2onnx.convert.from_function(function, signature, opset=17, output_path=str(model_file(task, "onnx")))


@dataclass(frozen=True)
class Found:
    """What the third part shows."""

    task: Task
    kind: str
    learned: dict[str, Any]
    answered: float
    agreement: float
    accuracy: float
    accuracy_with: float
    cost: float
    time_share: float
    brier: float
    brier_of_mean: float


def command(*arguments: str) -> Any:
    """What a `midstream` command prints with --json."""
    run = [sys.executable, "-m", "midstream.cli.main", *arguments, "--json"]
    done = subprocess.run(run, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def measured(task: Task, kind: Format, examples: Examples, folder: Path) -> Found | str:
    """Convert, learn the exit as a user would, and try it on the third part; or why there is no exit."""
    bundle = folder / f"{task.name}-{kind}.bundle"
    command("convert", str(model_file(task, kind)), "-o", str(bundle), "--tolerance", str(TOLERANCE))
    opened = Bundle.open(bundle)
    name, output = opened.inputs[0].name, opened.outputs[0].name
    inputs = folder / f"{task.name}-{kind}.npz"
    np.savez(inputs, **{name: examples.inputs["exit"][:, np.newaxis]})  # type: ignore[arg-type]
    learned = command("exits", str(bundle), "--calibration", str(inputs), "--agreement", str(TARGET))
    if learned["exit"] is None:
        return str(learned["reason"])
    opened = Bundle.open(bundle)
    early = opened.early_exit
    assert early is not None
    labels = examples.labels["test"]
    wholes, withs, answered, chances = [], [], [], []
    for each in examples.inputs["test"]:
        given = {name: each[np.newaxis]}
        wholes.append(opened.run_tail(None, given)[output].reshape(-1))
        crossing, _ = opened.run_head(early.cut, given)
        early_answer = opened.run_exit(crossing)
        answered.append(early_answer is not None)
        withs.append(wholes[-1] if early_answer is None else early_answer[output].reshape(-1))
        analysis = analyze_inputs(given, opened.manifest.semantics)
        chances.append(early.share_of(None if analysis is None else analysis.features))
    whole, with_exit, asked = choices(np.array(wholes)), choices(np.array(withs)), np.array(answered)
    given = {name: examples.inputs["test"][0][np.newaxis]}
    crossing, _ = opened.run_head(early.cut, given)

    def head_and_exit() -> None:
        opened.run_exit(opened.run_head(early.cut, given)[0])

    whole_ms, begun_ms, tail_ms = interleaved_ms(
        [lambda: opened.run_tail(None, given), head_and_exit, lambda: opened.run_tail(early.cut, crossing)], ROUNDS
    )
    return Found(
        task,
        kind,
        learned["exit"],
        float(asked.mean()),
        float((whole == with_exit)[asked].mean()) if asked.any() else 0.0,
        float((whole == labels).mean()),
        float((with_exit == labels).mean()),
        begun_ms / whole_ms,
        (begun_ms + (1 - asked.mean()) * tail_ms) / whole_ms,
        float(np.mean((np.array(chances) - asked) ** 2)),
        float(np.mean((early.answered_share - asked) ** 2)),
    )


def page(found: Sequence[Found | tuple[Task, str, str]]) -> str:
    """docs/benchmarks/exits.md."""
    results = [each for each in found if isinstance(each, Found)]
    rows = [
        (
            each.task.name, each.kind, each.learned["cut"], f"{each.answered:.1%}", f"{each.agreement:.2%}",
            f"{each.accuracy:.2%}", f"{each.accuracy_with:.2%}", f"{each.cost:.0%}", f"{each.time_share:.0%}",
            verdict(each.answered >= ASKED_SHARE and each.agreement >= TARGET),
            verdict(each.accuracy - each.accuracy_with <= ASKED_POINTS), verdict(each.cost <= ASKED_COST),
        )
        for each in results
    ]  # fmt: skip
    learned = [
        (
            each.task.name, each.kind, f"{each.learned['samples']} + {each.learned['held_out']}",
            f"{each.learned['answered_share']:.1%}", f"{each.learned['agreement']:.2%}",
            each.learned["predicted_from"], f"{each.brier:.3f}", f"{each.brier_of_mean:.3f}",
        )
        for each in results
    ]  # fmt: skip
    none = "".join(f"\n- {task.name}, {kind}: {why}" for task, kind, why in (e for e in found if isinstance(e, tuple)))
    headings = (
        "model|format|exit after| answered early| of these as the whole model| accuracy, whole model|"
        " accuracy with exit| head + exit| mean time"
        f"|{ASKED_SHARE:.0%} at {TARGET:.0%}|accuracy within {ASKED_POINTS * 100:g} points|at most {ASKED_COST:.0%}"
    )
    return f"""# Early exits, measured

Generated by `python benchmarks/exits.py`, {machine()}. Three models, trained by the script:

{chr(10).join(f"- **{task.name}**: {task.what}" for task in TASKS)}

Each model learned from one part of the data, with labels; `midstream exits` from another, without them; everything in
the first table is of a third ({", ".join(f"{len(made(task).labels['test'])} {task.name}" for task in TASKS)}). No voice
of espeak-ng is in two parts. The digits are parted in their order, in which writers follow one another, so that the
third is of people whom neither model nor exit has met; whose those of MNIST are is not known. Bundles are converted
with `--tolerance {
        TOLERANCE:g}`, as onnxruntime computes across the cuts of the third model with differences of some 1e-9.

{table(headings, rows)}
{none}

Times are shares of the whole model's, one thread, taken in turns; *mean time* is that of a device that goes on by
itself where the exit is not sure.

## What was known beforehand

`midstream exits` learns the exit from some inputs and holds others out. *Chance from* says what tells whether an input
will be answered; the Brier score is the mean squared error of that on the third part.

{
        table(
            "model|format|inputs, learned from + held out| answered, held out| agreement, held out|chance from"
            "| Brier score| of the mean",
            learned,
        )
    }
"""


def main() -> None:
    """Train, learn, measure, write."""
    found: list[Found | tuple[Task, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            examples = made(task)
            for kind in ("tflite", "onnx"):
                result = measured(task, kind, examples, Path(folder))
                print(task.name, kind, result, file=sys.stderr)
                found.append((task, kind, result) if isinstance(result, str) else result)
    write_page("exits", page(found))


if __name__ == "__main__":
    main()
