"""From what the user has to the model file that is sliced: Keras through TensorFlow, float to int8 where asked for."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from midstream.errors import InputError
from midstream_converters.keras.front import Front, convert_keras
from midstream_converters.keras.source import KerasModel, find_keras
from midstream_converters.opening import ModelFile, Options, read_model
from midstream_converters.quantising import Quantised, check_calibrated, quantise

Given = ModelFile | KerasModel
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """A model file to slice, and what was quantised on the way to it."""

    model: ModelFile
    quantised: Quantised | None = None


def read_given(path: Path, options: Options) -> Given:
    """Read a model file, or find a Keras model. Raises ModelError, or InputError where ``options`` do not fit it."""
    if options.quantize is not None:
        check_calibrated(options)
    if found := find_keras(path):
        return found
    model = read_model(path)
    there = "tflite" if model.is_tflite else "onnx"
    if options.to not in (None, there):
        raise InputError(f"--to {options.to} is for Keras models and SavedModels; {path} is {there}, leave it out")
    return model


def prepare(given: Given, options: Options, progress: Progress) -> Prepared:
    """The model file to slice. Raises ModelError, InputError and MissingExtraError, each with the remedy."""
    if isinstance(given, ModelFile) and options.quantize is None:
        return Prepared(given)
    with tempfile.TemporaryDirectory(prefix="midstream-") as name:
        front, model = None, given
        if isinstance(model, KerasModel):
            progress("converting with TensorFlow", 0, 1)
            front = convert_keras(model, options.to or "tflite", Path(name))
            model = _as_file(front)
        if options.quantize is None:
            return Prepared(model)
        progress("quantising", 0, 1)
        make = front.int8 if front is not None and model.is_tflite else None
        quantised = quantise(model, options, Path(name), make)
        return Prepared(quantised.model, quantised)


def _as_file(front: Front) -> ModelFile:
    content = front.content
    return ModelFile(front.source.path, content, len(content), hashlib.sha256(content).hexdigest())
