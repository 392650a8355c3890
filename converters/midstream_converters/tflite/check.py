"""Whether a parsed TFLite file holds together, can be sliced, and is one that LiteRT takes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from midstream.errors import ModelError
from midstream.tensors import CARRIED_DTYPES
from midstream_converters.tflite.schema import schema


def check_model(model: Any, path: str) -> None:
    """Raise ModelError naming what is wrong with a model, and the remedy."""
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise ModelError(f"{path} holds no layers; there is nothing to slice")
    if problem := _broken_part(model):
        raise ModelError(f"{path} is a damaged TFLite model: {problem}")
    _check_operators(model, path)


def numpy_dtype(tensor_type: int) -> np.dtype[np.generic] | None:
    """The dtype of this number in the schema; None for strings, complex and four-bit numbers, and resources."""
    name = _names(schema.TensorType).get(tensor_type, "").lower()
    return np.dtype(name) if name in CARRIED_DTYPES else None


def tensor_numbers(vector: Any) -> list[int]:
    """A vector of tensor numbers, which a flatbuffer leaves out where it is empty."""
    return [] if vector is None else [int(number) for number in vector]


def operator_name(model: Any, operator: Any) -> str:
    """The operator's name in the schema, such as CONV_2D, or the name of a custom one."""
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _names(schema.BuiltinOperator).get(builtin, f"operator {builtin}")
    return (code.customCode or b"").decode(errors="replace") if name == "CUSTOM" else name


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _broken_part(model: Any) -> str | None:
    """What points out of the file, or is of another size than it says: the runtime would follow it."""
    graph = model.subgraphs[0]
    tensors, buffers = graph.tensors or [], model.buffers or []
    uses = [*tensor_numbers(graph.inputs), *tensor_numbers(graph.outputs)]
    for operator in [operator for any_graph in model.subgraphs for operator in any_graph.operators or []]:
        if not 0 <= operator.opcodeIndex < len(model.operatorCodes or []):
            return f"an operator has the code {operator.opcodeIndex} of {len(model.operatorCodes or [])}"
    for operator in graph.operators:
        uses += tensor_numbers(operator.inputs) + tensor_numbers(operator.outputs)
        uses += tensor_numbers(operator.intermediates)
    if outside := [number for number in uses if not -1 <= number < len(tensors)]:
        return f"tensor {outside[0]} of {len(tensors)} is used"
    made = Counter(number for operator in graph.operators for number in tensor_numbers(operator.outputs))
    if twice := [number for number, times in made.items() if times > 1 and number >= 0]:
        return f"tensor {twice[0]} is made by several operators"
    made_later = set(made)
    for operator in graph.operators:
        if early := made_later.intersection(tensor_numbers(operator.inputs)) - {-1}:
            return f"tensor {min(early)} is read before it is made"
        made_later.difference_update(tensor_numbers(operator.outputs))
    for number, tensor in enumerate(tensors):
        shape = tensor_numbers(tensor.shape)
        if not 0 <= tensor.buffer < len(buffers):
            return f"tensor {number} has the buffer {tensor.buffer} of {len(buffers)}"
        if any(size < 0 for size in shape):
            return f"tensor {number} has the shape {shape}"
        content = buffers[tensor.buffer].data
        dtype = numpy_dtype(tensor.type)
        if content is None or len(content) == 0 or dtype is None or tensor.sparsity is not None:
            continue
        if len(content) != math.prod(shape) * dtype.itemsize:
            return f"tensor {number}, {dtype.name}{shape}, has a buffer of {len(content)} bytes"
    return None


def _check_operators(model: Any, path: str) -> None:
    custom = sorted(
        {
            (code.customCode or b"?").decode(errors="replace")
            for code in model.operatorCodes or []
            if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.CUSTOM
        }
    )
    if custom:
        raise ModelError(
            f"{path} uses the custom operators {', '.join(custom)}, which LiteRT cannot run by itself; "
            "convert the model again with built-in operators only"
        )
    if len(model.subgraphs) > 1:
        used = sorted({operator_name(model, op) for graph in model.subgraphs for op in graph.operators or []})
        control = [name for name in used if name in ("IF", "WHILE", "CALL_ONCE", "CALL")]
        raise ModelError(
            f"{path} has {len(model.subgraphs)} subgraphs ({', '.join(control) or 'several entry points'}); "
            "only models of one subgraph can be sliced yet. Export the main signature without control flow"
        )
