"""Whether a parsed TFLite file holds together, can be sliced, and is one that LiteRT takes."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from midstream.errors import ModelError
from midstream_converters.tflite.names import custom_names, numpy_dtype, tensor_numbers
from midstream_converters.tflite.subgraphs import calls, reached


def check_model(model: Any, path: str) -> None:
    """Raise ModelError naming what is wrong with a model, and the remedy."""
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise ModelError(f"{path} holds no layers; there is nothing to slice")
    if problem := _broken_part(model):
        raise ModelError(f"{path} is a damaged TFLite model: {problem}")


def _broken_part(model: Any) -> str | None:
    """What points out of the file, or is of another size than it says: the runtime would follow it."""
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes or []):
                return f"an operator has the code {operator.opcodeIndex} of {len(model.operatorCodes or [])}"
            for call in calls(operator):
                if call.subgraph >= len(model.subgraphs):
                    return f"an operator calls subgraph {call.subgraph} of {len(model.subgraphs)}"
    problems = (_broken_tensor(model, model.subgraphs[index]) for index in reached(model))
    return next((problem for problem in problems if problem), None)


def _broken_tensor(model: Any, graph: Any) -> str | None:
    tensors, buffers = graph.tensors or [], model.buffers or []
    uses = [*tensor_numbers(graph.inputs), *tensor_numbers(graph.outputs)]
    for operator in graph.operators or []:
        uses += tensor_numbers(operator.inputs) + tensor_numbers(operator.outputs)
        uses += tensor_numbers(operator.intermediates)
    if outside := [number for number in uses if not -1 <= number < len(tensors)]:
        return f"tensor {outside[0]} of {len(tensors)} is used"
    made = Counter(number for operator in graph.operators or [] for number in tensor_numbers(operator.outputs))
    if twice := [number for number, times in made.items() if times > 1 and number >= 0]:
        return f"tensor {twice[0]} is made by several operators"
    made_later = set(made)
    for operator in graph.operators or []:
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


def advice(model: Any) -> str | None:
    """What is the matter with operators that LiteRT has no kernels for, and what to do; None where all are built in."""
    custom = custom_names(model)
    if not custom:
        return None
    names = ", ".join(custom)
    if "edgetpu-custom-op" in custom:
        return f"is compiled for the Edge TPU ({names}); give the TFLite file that it was compiled from"
    if any(name.startswith("ethos-u") for name in custom):
        return f"is compiled for an Ethos-U by Vela ({names}); give the TFLite file that it was compiled from"
    if any(name.startswith("Flex") for name in custom):
        return (
            f"uses the TensorFlow operators {names}, which LiteRT cannot run by itself; convert it from TensorFlow "
            "again with built-in operators only (target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS])"
        )
    return (
        f"uses the custom operators {names}, which LiteRT cannot run by itself; "
        "convert the model again with built-in operators only"
    )
