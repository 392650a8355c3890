"""What is measured of one input: bytes at early cuts of real models at several rungs, and how far small answers stray.

An input's raw target is the mean of its logarithms of bytes, each brought to mean 0 and deviation 1 over the training
corpus, so that every cut and rung of every model counts alike; to it is added a share of the same mean of its
disagreements. Columns that vary by less than a tenth are left out: there the bytes do not depend on the input. The
target is the percentile of that in the training corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.bundle import Bundle
from midstream.communication.codecs import encode
from midstream.inputs import ImageInput, parse_semantics, prepare_image
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_training.sources import ROOT, SAMPLE_RATE, Picture, Sound

Floats = NDArray[np.float64]

EARLIEST = 3
RUNGS = ("int8", "step0.25")
# Slow, and much alike at neighbouring cuts: at the first cut only.
FIRST_RUNGS = ("lossless",)
PICTURE_RUNGS = ("jpeg90",)
SOUND_RUNGS = ("flac", "opus24")
DISAGREEMENT_SHARE = 0.2
LEAST_DEVIATION = 0.1

_REAL, _SMALL = ROOT / ".cache" / "assets" / "models", ROOT / "tests" / "models"
_CHUNK, _CONTEXT = 512, 64
_LEAST_APART = 1e-3


@dataclass(frozen=True)
class Subject:
    """A model whose cuts are measured. ``judged`` where its small answer is compared as well."""

    name: str
    path: Path
    semantics: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)
    judged: bool = True


IMAGE_SUBJECTS = (
    Subject("face detection", _REAL / "face_detection_short_range.tflite", "input=image:NHWC:RGB:1/127.5:127.5"),
    Subject("palm detection", _REAL / "palm_detection_lite.tflite", "input_1=image:NHWC:RGB:1/255"),
    Subject("pose detection", _REAL / "pose_detection.tflite", "input_1=image:NHWC:RGB:1/127.5:127.5", judged=False),
    Subject("person segmentation", _REAL / "selfie_segmentation.tflite", "input_1=image:NHWC:RGB:1/255"),
    Subject("text detection", _REAL / "ch_PP-OCRv4_det_infer.onnx", "x=image:NCHW:BGR:1/127.5:127.5",
            {"x": (1, 3, 320, 320)}, judged=False),
    Subject("text recognition", _REAL / "ch_PP-OCRv4_rec_infer.onnx", "x=image:NCHW:BGR:1/127.5:127.5",
            {"x": (1, 3, 48, 320)}, judged=False),
    Subject("text direction", _REAL / "ch_ppocr_mobile_v2.0_cls_infer.onnx", "x=image:NCHW:BGR:1/127.5:127.5",
            {"x": (1, 3, 48, 192)}),
)  # fmt: skip
_STATE = {"input": (1, _CHUNK + _CONTEXT), "state": (2, 1, 128)}
AUDIO_SUBJECTS = (
    Subject("voice activity", _REAL / "silero_vad.onnx", "input=audio:16000", _STATE, {"sr": SAMPLE_RATE}),
    Subject("keywords, GRU", _SMALL / "keyword_gru.tflite"),
    Subject("keywords, LSTM", _SMALL / "keyword_lstm.tflite"),
    Subject("keywords, LSTM as a loop", _SMALL / "keyword_lstm_while.tflite"),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What was measured of one input: bytes by "model / cut / rung", disagreement by model."""

    sizes: dict[str, float]
    disagreements: dict[str, float]


class Bench:
    """The models, converted once into a folder of their own and opened."""

    def __init__(self, subjects: Sequence[Subject], folder: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory() if folder is None else None
        root = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self.subjects = {subject.name: subject for subject in subjects}
        self.bundles: dict[str, Bundle] = {}
        for subject in subjects:
            target = root / subject.path.name
            if not target.exists():
                options = Options(
                    semantics=dict([parse_semantics(subject.semantics)]) if subject.semantics else {},
                    shapes=dict(subject.shapes),
                    values=dict(subject.values),
                )
                convert(subject.path, target, options)
            self.bundles[subject.name] = Bundle.open(target)

    def picture(self, frame: Picture) -> Measured:
        """Of a picture, at each model's own size; the small answer is that to half of it each way."""
        sizes, disagreements = {}, {}
        for name, bundle in self.bundles.items():
            subject = self.subjects[name]
            inputs = _picture_inputs(bundle, subject, frame)
            for rung in PICTURE_RUNGS:
                sizes[f"{name} / input / {rung}"] = _bytes(rung, bundle, inputs)
            for key, size in _cut_sizes(bundle, inputs).items():
                sizes[f"{name} / {key}"] = size
            if subject.judged:
                high, wide = _picture_size(bundle, subject)
                small = cv2.resize(frame, (wide // 2, high // 2), interpolation=cv2.INTER_AREA)
                less = _picture_inputs(bundle, subject, np.asarray(small, np.uint8))
                disagreements[name] = _apart(bundle.run(inputs), bundle.run(less))
        return Measured(sizes, disagreements)

    def sound(self, samples: Sound) -> Measured:
        """Of a second of sound: chunk by chunk, or half a second at a time; the small answer is that to 8-bit sound."""
        sizes: dict[str, float] = {}
        disagreements = {}
        coarse = np.round(samples * 128).astype(np.float32) / 128
        for name, bundle in self.bundles.items():
            if self.subjects[name].semantics:
                answers, found = _stream(bundle, samples, measured=True)
                less, _ = _stream(bundle, coarse, measured=False)
            else:
                answers, found = _clips(bundle, samples, measured=True)
                less, _ = _clips(bundle, coarse, measured=False)
            sizes |= {f"{name} / {key}": size for key, size in found.items()}
            disagreements[name] = _apart(answers, less)
        whole = {"input": samples[np.newaxis]}
        semantics = next(iter(self.bundles.values())).manifest.semantics
        for rung in SOUND_RUNGS:
            sizes[f"sound / input / {rung}"] = float(sum(len(each.data) for each in encode(rung, whole, semantics)))
        return Measured(sizes, disagreements)


def raw_target(sizes: Floats, disagreements: Floats, reference: Reference) -> Floats:
    """Of inputs × columns, both."""
    counted = reference.size_std >= LEAST_DEVIATION
    cost = ((np.log(sizes) - reference.size_mean) / reference.size_std)[:, counted].mean(axis=1)
    hard = ((np.log(disagreements + _LEAST_APART) - reference.hard_mean) / reference.hard_std).mean(axis=1)
    return np.asarray((1 - DISAGREEMENT_SHARE) * cost + DISAGREEMENT_SHARE * hard, np.float64)


@dataclass(frozen=True)
class Reference:
    """What brings columns to mean 0 and deviation 1, and raw targets to percentiles: of the training corpus."""

    size_mean: Floats
    size_std: Floats
    hard_mean: Floats
    hard_std: Floats
    raw: Floats

    @staticmethod
    def of(sizes: Floats, disagreements: Floats) -> Reference:
        """Of inputs × columns."""
        cost, hard = np.log(sizes), np.log(disagreements + _LEAST_APART)
        fitted = Reference(
            cost.mean(0), np.maximum(cost.std(0), 1e-6), hard.mean(0), np.maximum(hard.std(0), 1e-6), np.zeros(0)
        )
        raw = np.sort(raw_target(sizes, disagreements, fitted))
        return Reference(fitted.size_mean, fitted.size_std, fitted.hard_mean, fitted.hard_std, raw)

    def percentile(self, raw: Floats) -> Floats:
        """0–100, between the training corpus's own values by straight lines."""
        return np.interp(raw, self.raw, np.linspace(0.0, 100.0, len(self.raw)))


def keyword_frames(samples: Sound) -> NDArray[np.float32]:
    """The keyword models' input, 24 frames × 12 bands, of half a second: as ``benchmarks/make_models.py`` makes it."""
    half = samples.reshape(-1, 2).mean(axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(half, 256)[::160][:24]
    power = np.abs(np.fft.rfft(windows * np.hanning(256))) ** 2
    edges = np.unique(np.geomspace(4, 120, 13).round().astype(int))
    energy = np.stack([power[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    level = np.clip(np.log10(energy + 1e-3), -4.0, 4.0)
    return (np.round(level * 16.0) / 16.0).astype(np.float32)


def _picture_size(bundle: Bundle, subject: Subject) -> tuple[int, int]:
    spec = bundle.inputs[0]
    shape = subject.shapes.get(spec.name, spec.shape)
    meaning = bundle.manifest.semantics[spec.name]
    assert isinstance(meaning, ImageInput)
    high, wide = meaning.size_of(shape)
    assert high is not None and wide is not None
    return high, wide


def _picture_inputs(bundle: Bundle, subject: Subject, frame: Picture) -> Tensors:
    spec = bundle.inputs[0]
    meaning = bundle.manifest.semantics[spec.name]
    assert isinstance(meaning, ImageInput)
    return {spec.name: prepare_image(frame, spec, meaning, _picture_size(bundle, subject))}


def _bytes(rung: str, bundle: Bundle, tensors: Tensors) -> float:
    return float(sum(len(each.data) for each in encode(rung, tensors, bundle.manifest.semantics)))


def _cut_sizes(bundle: Bundle, inputs: Tensors) -> dict[str, float]:
    found = {}
    for place, cut in enumerate(bundle.cuts[:EARLIEST]):
        crossing, _ = bundle.run_head(cut.id, inputs)
        for rung in RUNGS if place else (*FIRST_RUNGS, *RUNGS):
            found[f"{cut.id} / {rung}"] = _bytes(rung, bundle, crossing)
    return found


def _stream(bundle: Bundle, samples: Sound, measured: bool) -> tuple[Tensors, dict[str, float]]:
    """A model with a state, over chunks; bytes are those of all chunks."""
    padded = np.pad(samples, (_CONTEXT, -samples.size % _CHUNK)).astype(np.float32)
    state = np.zeros((2, 1, 128), np.float32)
    answers, sums = [], dict[str, float]()
    for start in range(0, padded.size - _CONTEXT, _CHUNK):
        inputs: Tensors = {"input": padded[np.newaxis, start : start + _CHUNK + _CONTEXT], "state": state}
        if any(spec.name == "sr" for spec in bundle.inputs):
            inputs["sr"] = np.array(SAMPLE_RATE, np.int64)
        if measured:
            for key, size in _cut_sizes(bundle, inputs).items():
                sums[key] = sums.get(key, 0.0) + size
        outputs = bundle.run(inputs)
        state = np.asarray(outputs["stateN"], np.float32)
        answers.append(outputs["output"])
    return {"output": np.concatenate(answers)}, sums


def _clips(bundle: Bundle, samples: Sound, measured: bool) -> tuple[Tensors, dict[str, float]]:
    answers, sums = [], dict[str, float]()
    for half in (samples[:8000], samples[8000:16000]):
        inputs: Tensors = {bundle.inputs[0].name: keyword_frames(half)[np.newaxis]}
        if measured:
            for key, size in _cut_sizes(bundle, inputs).items():
                sums[key] = sums.get(key, 0.0) + size
        answers.append(next(iter(bundle.run(inputs).values())))
    return {"output": np.concatenate(answers)}, sums


def _apart(full: Tensors, small: Tensors) -> float:
    """Mean over outputs of the mean absolute difference, in the outputs' own unit."""
    return float(np.mean([np.abs(value.astype(np.float64) - small[name]).mean() for name, value in full.items()]))
