"""The complexity score of trained models, run by this SDK's own engines on one thread.

Two small networks are part of the package, each as TFLite and as ONNX: a CNN over a picture's thumbnail and a GRU over
a second's log-mel frames, both with the classical features beside. What they were taught, on what, and how well they
do is in ``docs/complexity.md``. Where neither engine is installed, the score is the formula of
`midstream.analysis.score`; so it is for tensors that are no picture and no sound.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from midstream import analysis
from midstream.analysis import Analysis, Kind, catalogue
from midstream.analysis.analyze import checked_array
from midstream.analysis.image import Colour, picture_features, prepared
from midstream.analysis.score import image_score
from midstream.analysis.sound import ArraySound, Sound
from midstream.analysis.views import picture_view, sound_view
from midstream.engines import Program, engine_for, installed_engines
from midstream.inputs import Semantics
from midstream.manifest import EngineName, SliceRecord
from midstream.tensors import Tensor, Tensors

Trained = Literal["image", "audio"]

MAX_SECONDS_HEARD = 60

_MODELS = Path(__file__).with_name("models")
_SUFFIX: Mapping[EngineName, str] = {"litert": "tflite", "onnx": "onnx"}
_VIEWS: Mapping[Trained, str] = {"image": "picture", "audio": "frames"}
FEATURES: Mapping[Trained, tuple[str, ...]] = {
    "image": tuple(name for name in catalogue.IMAGE if name != "motion"),
    "audio": tuple(catalogue.AUDIO),
}
"""What the networks are given beside the view, in this order."""


def analyze(array: Tensor, kind: Kind, sample_rate: int | None = None, *, colour: Colour = "RGB") -> Analysis:
    """The feature vector and complexity score of one input, as `midstream.analysis.analyze`, the score being trained.

    Takes what that takes, and raises what it raises.
    """
    checked = checked_array(array, kind)
    if kind == "image":
        return analyze_image(checked, colour)
    if kind == "audio":
        return analyze_sound(ArraySound(checked, sample_rate))
    return analysis.analyze(checked, kind)


def analyze_image(picture: Tensor, colour: Colour = "RGB", engine: EngineName | None = None) -> Analysis:
    """The same of a picture, whose channels are in this order. ``engine`` is tried before others."""
    pixels, grey = prepared(checked_array(picture, "image"), colour)
    features = picture_features(pixels, grey, colour)
    network = _network("image", engine)
    score = image_score(features) if network is None else network.score(picture_view(grey), features)
    return Analysis("image", score, features)


def analyze_sound(sound: Sound, engine: EngineName | None = None) -> Analysis:
    """The same of a sound that is read as it goes: the mean score of its seconds, at most 60 of them, evenly spread."""
    network = _network("audio", engine)
    if network is None:
        return analysis.analyze_sound(sound)
    heard = _Heard(sound)
    found = analysis.analyze_sound(heard)
    scores = [network.score(view, found.features) for view in heard.views()]
    return replace(found, score=float(np.mean(scores)))


def analyze_inputs(
    tensors: Tensors,
    semantics: Mapping[str, Semantics],
    sample_rate: int | None = None,
    engine: EngineName | None = None,
) -> Analysis | None:
    """The analysis of a model's whole input, as `midstream.analysis.analyze_inputs`, the score being trained."""
    return analysis.analyze_inputs(
        tensors,
        semantics,
        sample_rate,
        of_picture=partial(analyze_image, engine=engine),
        of_sound=partial(analyze_sound, engine=engine),
    )


class _Network:
    """One loaded network; may be used by several threads, one after another."""

    def __init__(self, kind: Trained, engine: EngineName) -> None:
        path = _MODELS / f"complexity_{kind}.{_SUFFIX[engine]}"
        content = path.read_bytes()
        self._view, self._names = _VIEWS[kind], FEATURES[kind]
        record = SliceRecord(path.name, len(content), ("features", self._view), ("score",))
        self._session = engine_for(engine).load(Program(record, content, path))
        self._lock = threading.Lock()

    def score(self, view: NDArray[np.float32], features: Mapping[str, float]) -> float:
        """0–100."""
        numbers = np.array([[features[name] for name in self._names]], np.float32)
        with self._lock:
            (answer,) = self._session.run({self._view: view, "features": numbers}).values()
        value = float(answer.reshape(-1)[0])
        return 100.0 * min(1.0, max(0.0, value)) if math.isfinite(value) else 100.0


def _network(kind: Trained, wanted: EngineName | None) -> _Network | None:
    installed = installed_engines()
    chosen = wanted if wanted in installed else next(iter(installed), None)
    return None if chosen is None else _loaded(kind, chosen)


@lru_cache(maxsize=4)
def _loaded(kind: Trained, engine: EngineName) -> _Network:
    return _Network(kind, engine)


class _Heard:
    """A sound that passes through, of which some seconds are kept as views."""

    def __init__(self, sound: Sound) -> None:
        self._sound = sound
        self.length, self.sample_rate = sound.length, sound.sample_rate
        self._every = max(1, math.ceil(sound.length / sound.sample_rate / MAX_SECONDS_HEARD))
        self._second = self._filled = 0
        self._parts: list[NDArray[np.floating]] = []
        self._views: list[NDArray[np.float32]] = []

    @property
    def clipped(self) -> int:
        """As of the sound."""
        return self._sound.clipped

    def read(self, count: int) -> NDArray[np.floating]:
        """As of the sound."""
        part = rest = self._sound.read(count)
        while rest.size:
            piece, rest = np.split(rest, [self.sample_rate - self._filled])
            if self._second % self._every == 0:
                self._parts.append(piece)
            self._filled += piece.size
            if self._filled == self.sample_rate:
                self._end_second()
        return part

    def views(self) -> list[NDArray[np.float32]]:
        """Of whole seconds, and of a last half or more; at least one."""
        if self._parts and (not self._views or self._filled >= self.sample_rate / 2):
            self._end_second()
        return self._views

    def _end_second(self) -> None:
        if self._parts:
            self._views.append(sound_view(np.concatenate(self._parts), self.sample_rate))
        self._parts, self._filled = [], 0
        self._second += 1
