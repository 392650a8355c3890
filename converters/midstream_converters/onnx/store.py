"""Move a model's large constants into the bundle's weights file.

Requires: a simplified model, whose external data, if it has any, lies in files of its own folder. Ensures: every
constant of the main graph of ``INLINE_BYTES`` or more is external data in the store; all others are in the model.
"""

from __future__ import annotations

import math
from pathlib import Path

from onnx import numpy_helper

from midstream.errors import ModelError
from midstream.manifest import WEIGHTS_FILE
from midstream_converters.onnx.proto import inner_tensors, onnx
from midstream_converters.weights import WeightRange, WeightStore

# Below this size a constant stays inside the program; shape inference in the runtime wants to see these.
INLINE_BYTES = 1024
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def store_constants(model: onnx.ModelProto, folder: Path, weights: WeightStore) -> None:
    """Do it in place. ``folder`` is the model file's. Raises ModelError naming external data that cannot be read."""
    for tensor in inner_tensors(model.graph):
        if _is_outside(tensor):
            _inline(tensor, folder)
    for tensor in model.graph.initializer:
        if constant_size(tensor) >= INLINE_BYTES:
            _refer(tensor, _stored(tensor, folder, weights))
        elif _is_outside(tensor):
            _inline(tensor, folder)


def external_files(model: onnx.ModelProto, folder: Path) -> dict[Path, int]:
    """The files that hold the model's external data, and their sizes. Raises ModelError where one cannot be used."""
    tensors = (*model.graph.initializer, *inner_tensors(model.graph))
    files = sorted({locate(tensor, folder)[0] for tensor in tensors if _is_outside(tensor)})
    return {file: file.stat().st_size for file in files}


def constant_size(tensor: onnx.TensorProto) -> int:
    """Bytes of a constant's content; 0 for strings."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    small = _BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    bits = small or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return (int(math.prod(tensor.dims)) * bits + 7) // 8


def constant_bytes(tensor: onnx.TensorProto) -> bytes:
    """The little-endian bytes of a constant that the model itself holds, however it stores them."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)


def locate(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length of a constant's external data. Raises ModelError where it is not wholly there."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    place = (folder / location).resolve()
    if not location or not place.is_relative_to(folder.resolve()):
        raise ModelError(
            f"the external data of {tensor.name!r} is at {location!r}, outside the model's folder {folder}; "
            "it is not read: put it beside the model"
        )
    wanted = constant_size(tensor)
    try:
        offset = int(fields.get("offset", 0))
        length = int(fields.get("length", wanted))
        there = place.stat().st_size if place.is_file() else -1
    except (ValueError, OSError):
        offset, length, there = 0, -1, 0
    if there < 0:
        raise ModelError(f"the external data file {place} of {tensor.name!r} is not there; put it beside the model")
    if length != wanted or not 0 <= offset <= there - length:
        raise ModelError(
            f"the external data of {tensor.name!r} is said to be {fields.get('length', wanted)} bytes at "
            f"{fields.get('offset', 0)} of {place}, which has {there}; {wanted} are needed: export the model again"
        )
    return place, offset, length


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _stored(tensor: onnx.TensorProto, folder: Path, weights: WeightStore) -> WeightRange:
    if not _is_outside(tensor):
        return weights.add(constant_bytes(tensor))
    path, offset, length = locate(tensor, folder)
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
    path, offset, length = locate(tensor, folder)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
    except OSError as error:
        raise ModelError(f"the external data of {tensor.name!r} cannot be read: {error.strerror}") from None
    tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=content))
