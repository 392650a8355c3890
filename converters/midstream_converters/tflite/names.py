"""What the numbers in a TFLite file stand for: operators and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from midstream.errors import printable
from midstream.tensors import CARRIED_DTYPES
from midstream_converters.tflite.schema import schema


def numpy_dtype(tensor_type: int) -> np.dtype[np.generic] | None:
    """The dtype of this number in the schema; None for strings, complex and four-bit numbers, and resources."""
    name = _names(schema.TensorType).get(tensor_type, "").lower()
    return np.dtype(name) if name in CARRIED_DTYPES else None


def tensor_numbers(vector: Any) -> list[int]:
    """A vector of tensor numbers, which a flatbuffer leaves out where it is empty."""
    return [] if vector is None else [int(number) for number in vector]


def operator_name(model: Any, operator: Any) -> str:
    """The operator's name in the schema, such as CONV_2D, or the name of a custom one."""
    return _code_name(model.operatorCodes[operator.opcodeIndex])


def custom_names(model: Any) -> list[str]:
    """The custom operators the file names, sorted."""
    return sorted({_code_name(code) for code in model.operatorCodes or [] if _builtin(code) == _CUSTOM})


def _code_name(code: Any) -> str:
    if _builtin(code) == _CUSTOM:
        return printable((code.customCode or b"?").decode(errors="replace"), 100)
    return _OPERATORS.get(_builtin(code), f"operator {_builtin(code)}")


def _builtin(code: Any) -> int:
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_OPERATORS = _names(schema.BuiltinOperator)
_CUSTOM: int = schema.BuiltinOperator.CUSTOM
