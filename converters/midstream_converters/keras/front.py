"""From a Keras model to the model file that is sliced: TensorFlow's work, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from midstream.errors import MissingExtraError
from midstream_converters.apart import run_apart
from midstream_converters.keras.source import KerasModel
from midstream_converters.stored import StoredSamples

_WORKER = "midstream_converters.keras.worker"
_MADE = "made"


@dataclass(frozen=True)
class Front:
    """What TensorFlow made of a model, and the folder in which it goes on from there; ``fixed_batch``: one input."""

    source: KerasModel
    folder: Path
    content: bytes
    fixed_batch: bool
    _answer: dict[str, Any]

    def int8(self, samples: StoredSamples) -> bytes:
        """TFLite in int8, its inputs and outputs in float, calibrated on samples in this folder. Raises ModelError."""
        request = self._answer | {"action": "int8", "inputs": list(samples.inputs)}
        purpose = f"{self.source.path}: making TFLite in int8 with TensorFlow"
        run_apart(_WORKER, self.folder, request, purpose, "leave --quantize out, or try --to onnx")
        return (self.folder / _MADE).read_bytes()


def convert_keras(source: KerasModel, to: Literal["tflite", "onnx"], folder: Path) -> Front:
    """TFLite or ONNX of a model. Raises ModelError naming what stands in the way and the remedy, MissingExtraError."""
    for package in ("tensorflow", *(["tf2onnx"] if to == "onnx" else [])):
        if not find_spec(package):
            raise MissingExtraError(package, "convert-keras", "converting a Keras model or SavedModel")
    request = {
        "action": "open",
        "name": str(source.path),
        "model": str(source.path.resolve()),
        "kind": source.kind,
        "to": to,
    }
    remedy = f"try --to {'onnx' if to == 'tflite' else 'tflite'}"
    answer = run_apart(_WORKER, folder, request, f"{source.path}: making {to} with TensorFlow", remedy)
    return Front(source, folder, (folder / _MADE).read_bytes(), answer.get("batch") == 1, answer)
