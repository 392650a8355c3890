"""The demo's models: which files, what their inputs mean, and their bundles, kept from one run to the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from text import LINE_HEIGHT

from midstream.inputs import parse_semantics
from midstream_converters.convert import convert
from midstream_converters.opening import Options

DETECTION_SIZE = (256, 512)
_SAMPLE_LINE_WIDTH = 640


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model file, and what one would tell ``midstream convert`` about it."""

    title: str
    file: str
    input: str
    max_cuts: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)


FACES = DemoModel("faces", "face_detection_short_range.tflite", "input=image:NHWC:RGB:1/127.5:127.5", max_cuts=8)
SPEECH = DemoModel(
    "speech",
    "silero_vad.onnx",
    "input=audio:16000",
    max_cuts=8,
    shapes={"input": (1, 576), "state": (2, 1, 128)},
    values={"sr": 16_000},
)
DETECTION = DemoModel(
    "text detection",
    "ch_PP-OCRv4_det_infer.onnx",
    "x=image:NCHW:BGR:1/127.5:127.5",
    max_cuts=6,
    shapes={"x": (1, 3, *DETECTION_SIZE)},
)
RECOGNITION = DemoModel(
    "text recognition",
    "ch_PP-OCRv4_rec_infer.onnx",
    "x=image:NCHW:BGR:1/127.5:127.5",
    max_cuts=6,
    shapes={"x": (1, 3, LINE_HEIGHT, _SAMPLE_LINE_WIDTH)},
)
MODELS = (FACES, SPEECH, DETECTION, RECOGNITION)


def make_bundles(models: Path, cache: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Every model's bundle in the cache folder, by title, converted where it is not there yet; the rest goes."""
    cache.mkdir(parents=True, exist_ok=True)
    paths = {model.title: cache / Path(model.file).stem for model in MODELS}
    for stale in set(cache.iterdir()) - set(paths.values()):
        shutil.rmtree(stale)
    for model in MODELS:
        name, semantics = parse_semantics(model.input)
        options = Options(
            max_cuts=model.max_cuts, semantics={name: semantics}, shapes=model.shapes, values=model.values
        )
        say(f"[bold]{model.file}[/]: converting and proving every cut, if its bundle is not there from before")
        convert(models / model.file, paths[model.title], options)
    return paths
