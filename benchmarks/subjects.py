"""Models with inputs made for them, of which the ones to calibrate with share nothing with those to test with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import scenes

from midstream.analysis import Analysis
from midstream.bundle import Bundle
from midstream.complexity import analyze_inputs
from midstream.inputs import ImageInput, parse_semantics, prepare_image
from midstream.partitioning import Candidate, size_features
from midstream.tensors import Tensors, TensorSpec
from midstream_converters.opening import Options


@dataclass(frozen=True)
class Subject:
    """A model, its inputs, and what agreement means for it."""

    name: str
    file: str
    semantics: str
    inputs: str
    metric: str
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, int]
    # Whether an answer has anything in it that could be lost.
    counts: Callable[[Tensors], bool]

    def options(self) -> Options:
        """What one would tell ``midstream convert``."""
        return Options(semantics=dict([parse_semantics(self.semantics)]), shapes=self.shapes, values=self.values)


def _any_region(outputs: Tensors) -> bool:
    return bool((next(iter(outputs.values())) > 0.3).any())


def _some_person(outputs: Tensors) -> bool:
    return bool((next(iter(outputs.values())) > 0.5).mean() > 0.02)


def _some_text(outputs: Tensors) -> bool:
    return bool((next(iter(outputs.values())).argmax(-1) != 0).any())


SUBJECTS = (
    Subject("text detection", "ch_PP-OCRv4_det_infer.onnx", "x=image:NCHW:BGR:1/127.5:127.5", "signs", "regions",
            {"x": (1, 3, 320, 320)}, {}, _any_region),
    Subject("text recognition", "ch_PP-OCRv4_rec_infer.onnx", "x=image:NCHW:BGR:1/127.5:127.5", "lines", "text:blank=0",
            {"x": (1, 3, 48, 320)}, {}, _some_text),
    Subject("text direction", "ch_ppocr_mobile_v2.0_cls_infer.onnx", "x=image:NCHW:BGR:1/127.5:127.5", "lines",
            "argmax", {"x": (1, 3, 48, 192)}, {}, lambda _: True),
    Subject("person segmentation", "selfie_segmentation.tflite", "input_1=image:NHWC:RGB:1/255", "people", "mask",
            {}, {}, _some_person),
    Subject("voice activity", "silero_vad.onnx", "input=audio:16000", "voices", "mask@output:score=0.5",
            {"input": (1, 576), "state": (2, 1, 128)}, {"sr": 16000}, lambda _: True),
)  # fmt: skip


def inputs_of(subject: Subject, bundle: Bundle, kind: scenes.Kind, count: int) -> list[Tensors]:
    """Inputs whose answers have something in them."""
    free = {spec.name: spec for spec in bundle.manifest.free_inputs()}
    zeros = {name: np.zeros(bundle.manifest.sample_shapes[name], spec.dtype) for name, spec in free.items()}
    found: list[Tensors] = []
    for value in _values(subject, bundle, free, kind, 3 * count):
        sample = zeros | value
        if subject.counts(bundle.run(sample)):
            found.append(sample)
        if len(found) == count:
            break
    return found


def _values(
    subject: Subject, bundle: Bundle, free: dict[str, TensorSpec], kind: scenes.Kind, count: int
) -> Iterator[Tensors]:
    ((name, meaning),) = bundle.manifest.semantics.items()
    shape = bundle.manifest.sample_shapes[name]
    seed = 1 if kind == "calibration" else 2
    if not isinstance(meaning, ImageInput):
        for window in scenes.windows(kind, math.prod(shape), count, seed):
            yield {name: window.reshape(shape)}
        return
    size = meaning.size_of(shape)
    for frame in scenes.MAKERS[subject.inputs](kind, count, seed):
        yield {name: prepare_image(frame, free[name], meaning, size)}


class Sample:
    """An input with its analysis, and what it takes at a cut in a codec, really encoded."""

    def __init__(self, bundle: Bundle, tensors: Tensors) -> None:
        self._bundle = bundle
        self._tensors = bundle.check_inputs(tensors)
        self._crossing: dict[str | None, Tensors] = {None: self._tensors}
        self._sizes: dict[tuple[str | None, str], int] = {}
        self.analysis: Analysis | None = analyze_inputs(
            self._tensors, bundle.manifest.semantics, engine=bundle.manifest.engine
        )
        self.features = None if self.analysis is None else size_features(self.analysis.features, self._tensors)

    def real(self, candidate: Candidate) -> Candidate:
        """The candidate with the payload that this input has there."""
        if not candidate.offloads:
            return candidate
        key = candidate.cut, candidate.codec
        if key not in self._sizes:
            if candidate.cut not in self._crossing:
                assert candidate.cut is not None
                self._crossing[candidate.cut] = self._bundle.run_head(candidate.cut, self._tensors)[0]
            encoded = self._bundle.encode(*key, self._crossing[candidate.cut])
            self._sizes[key] = sum(len(tensor.data) for tensor in encoded)
        return replace(candidate, payload_bytes=self._sizes[key])
