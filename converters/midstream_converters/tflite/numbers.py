"""Whether a TFLite model is in float32, or already in something narrower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midstream_converters.narrow import NarrowNumbers
from midstream_converters.tflite.read import read_tflite
from midstream_converters.tflite.schema import schema

_QUANTISED = (schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16, schema.TensorType.INT4)


def narrow_numbers(data: bytes, path: Path) -> NarrowNumbers:
    """What the model has of them. Raises ModelError where it is damaged."""
    tensors = [tensor for graph in read_tflite(data, str(path)).model.subgraphs for tensor in graph.tensors or []]
    scaled = [tensor for tensor in tensors if tensor.type in _QUANTISED and _has_scale(tensor)]
    halves = [tensor for tensor in tensors if tensor.type == schema.TensorType.FLOAT16]
    return NarrowNumbers(
        f"{len(scaled)} of its {len(tensors)} tensors have a scale" if scaled else "",
        f"{len(halves)} of its {len(tensors)} tensors are float16" if halves else "",
    )


def _has_scale(tensor: Any) -> bool:
    return (
        tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale) > 0
    )
