"""How much content a tensor's shape and type need, and whether it holds just that."""

from __future__ import annotations

import math
from functools import cache

from midstream_converters.onnx.proto import onnx

MAX_RANK = 32
_MAX_NAME = 100
_NAMES = {number: name for name, number in onnx.TensorProto.DataType.items() if name != "UNDEFINED"}

# numpy has no such types; a byte of raw data holds parts of several of them, and so does a number of the first ones.
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_BITS = _PACKED_BITS | {"FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
_FIELDS = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
}


def short_name(tensor: onnx.TensorProto) -> str:
    """The tensor's name for a message, in quotes; a file may hold one of megabytes."""
    return repr(tensor.name[:_MAX_NAME])


def content_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's content; 0 for strings."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    return (int(math.prod(tensor.dims)) * _bits(_NAMES[tensor.data_type]) + 7) // 8


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the content lies in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def content_problem(tensor: onnx.TensorProto) -> str | None:
    """What is wrong with a tensor's shape, type or amount of content; of external content only the first two."""
    dims = tensor.dims
    if len(dims) > MAX_RANK or any(size < 0 for size in dims):
        return f"has the shape {list(dims[:MAX_RANK])}"
    kind = _kind(tensor)
    if kind is None:
        return f"is of type {tensor.data_type}, which this onnx package does not know"
    if is_external(tensor):
        return None
    shape = f"{kind.lower()}{list(dims)}"
    if tensor.HasField("raw_data") and kind != "STRING":
        wanted, there = content_bytes(tensor), len(tensor.raw_data)
        return None if there == wanted else f"is {shape}, {wanted} bytes, and has {there} bytes of data"
    wanted = math.prod(dims) * (2 if kind.startswith("COMPLEX") else 1)
    if kind in _PACKED_BITS:
        wanted = content_bytes(tensor)
    there = len(getattr(tensor, _FIELDS.get(kind, "int32_data")))
    return None if there == wanted else f"is {shape}, {wanted} numbers or strings, and has {there} of them"


def _kind(tensor: onnx.TensorProto) -> str | None:
    return _NAMES.get(tensor.data_type)


@cache
def _bits(kind: str) -> int:
    number = onnx.TensorProto.DataType.Value(kind)
    return _BITS.get(kind) or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(number).itemsize)
