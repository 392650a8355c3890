"""Move a model's large constants into the bundle's weights file.

Requires: a simplified model, whose external data, if it has any, lies in files of its own folder. Ensures: every
constant of the main graph of ``INLINE_BYTES`` or more is external data in the store; all others are in the model.
"""

from __future__ import annotations

from pathlib import Path

from onnx import numpy_helper

from midstream.errors import ModelError
from midstream.manifest import WEIGHTS_FILE
from midstream_converters.onnx.content import content_bytes, is_external
from midstream_converters.onnx.external import resolve_external
from midstream_converters.onnx.proto import inner_tensors, onnx
from midstream_converters.weights import WeightRange, WeightStore

# Below this size a constant stays inside the program; shape inference in the runtime wants to see these.
INLINE_BYTES = 1024


def store_constants(model: onnx.ModelProto, folder: Path, weights: WeightStore) -> None:
    """Do it in place. ``folder`` is the model file's. Raises ModelError naming external data that cannot be read."""
    for tensor in inner_tensors(model.graph):
        if is_external(tensor):
            _inline(tensor, folder)
    for tensor in model.graph.initializer:
        if content_bytes(tensor) >= INLINE_BYTES:
            _refer(tensor, _stored(tensor, folder, weights))
        elif is_external(tensor):
            _inline(tensor, folder)


def external_files(model: onnx.ModelProto, folder: Path) -> dict[Path, int]:
    """The files that hold the model's external data, and their sizes. Raises ModelError where one cannot be used."""
    tensors = (*model.graph.initializer, *inner_tensors(model.graph))
    files = sorted({resolve_external(tensor, folder)[0] for tensor in tensors if is_external(tensor)})
    return {file: file.stat().st_size for file in files}


def constant_bytes(tensor: onnx.TensorProto) -> bytes:
    """The little-endian bytes of a constant that the model itself holds, however it stores them."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)


def _stored(tensor: onnx.TensorProto, folder: Path, weights: WeightStore) -> WeightRange:
    if not is_external(tensor):
        return weights.add(constant_bytes(tensor))
    path, offset, length = resolve_external(tensor, folder)
    try:
        return weights.add_range(path, offset, length)
    except (OSError, EOFError) as error:
        raise ModelError(f"the external data of {tensor.name!r} cannot be read: {error}") from None


def _refer(tensor: onnx.TensorProto, place: WeightRange) -> None:
    fresh = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    fresh.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", place.offset), ("length", place.length)):
        fresh.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(fresh)


def _inline(tensor: onnx.TensorProto, folder: Path) -> None:
    path, offset, length = resolve_external(tensor, folder)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
    except OSError as error:
        raise ModelError(f"the external data of {tensor.name!r} cannot be read: {error.strerror}") from None
    tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=content))
