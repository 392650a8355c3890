"""Read a TFLite file into the neutral graph.

Requires: bytes that LiteRT itself loads. Ensures: the layers of the main subgraph in running order, every tensor with a
key of its own. What IF, WHILE and others call is part of the layer that calls it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from midstream.errors import ModelError
from midstream.tensors import TensorSpec, nbytes
from midstream_converters.graph import ModelGraph, Node, Value
from midstream_converters.linear import revealed
from midstream_converters.tflite.bounds import check_bounds
from midstream_converters.tflite.check import check_model
from midstream_converters.tflite.names import numpy_dtype, operator_name, tensor_numbers
from midstream_converters.tflite.schema import schema
from midstream_converters.tflite.subgraphs import calls, keeps_state, reached


@dataclass(frozen=True)
class TfliteModel:
    """A flatbuffer as objects, and what its tensors are called in the graph."""

    model: Any
    graph: ModelGraph
    keys: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def subgraph(self) -> Any:
        """The main subgraph."""
        return self.model.subgraphs[0]


def read_tflite(data: bytes, path: str) -> TfliteModel:
    """Read and check a model. Raises ModelError naming what is wrong with it, and the remedy."""
    model = _parse(data, path)
    join_buffers(model, data)
    check_model(model, path)
    return _to_graph(model, path)


def _parse(data: bytes, path: str) -> Any:
    check_bounds(data, path)
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except (
        struct.error,
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ):
        raise ModelError(f"{path} is not a whole TFLite model: its flatbuffer is truncated or damaged") from None


def join_buffers(model: Any, data: bytes) -> None:
    """Bring in the buffers that lie behind the flatbuffer, as those of large models do."""
    for buffer in model.buffers or []:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data[buffer.offset : buffer.offset + buffer.size], np.uint8)
            buffer.offset = buffer.size = 0


def _to_graph(model: Any, path: str) -> TfliteModel:
    subgraph = model.subgraphs[0]
    keys = _unique_keys(subgraph.tensors or [])
    inputs, outputs = tensor_numbers(subgraph.inputs), tensor_numbers(subgraph.outputs)
    made = {i for operator in subgraph.operators for i in tensor_numbers(operator.outputs)}
    # A constant may be empty, and then has no data to know it by.
    constant = set(range(len(keys))) - made - set(inputs)
    dynamic: set[int] = set(inputs)
    nodes = []
    for index, operator in enumerate(subgraph.operators):
        reads = [i for i in tensor_numbers(operator.inputs) if i >= 0]
        makes = [i for i in tensor_numbers(operator.outputs) if i >= 0]
        stateful = keeps_state(model, subgraph, operator)
        static = not stateful and dynamic.isdisjoint(reads)
        if not static:
            dynamic.update(makes)
        op = operator_name(model, operator)
        nodes.append(
            Node(
                index,
                keys[makes[0]] if makes else op.lower(),
                op,
                tuple(keys[i] for i in reads if i not in constant and not subgraph.tensors[i].isVariable),
                tuple(keys[i] for i in makes),
                _macs(op, [_shape(subgraph.tensors[i]) for i in reads], [_shape(subgraph.tensors[i]) for i in makes]),
                _weight_bytes(model, subgraph, operator),
                static,
                stateful,
                _is_activated(model, operator),
            )
        )
    values = {}
    for i, tensor in enumerate(subgraph.tensors or []):
        spec = _spec(tensor, keys[i])
        values[keys[i]] = Value(spec, 0 if spec is None else nbytes(spec.dtype, _shape(tensor)))
    graph = ModelGraph(tuple(nodes), tuple(keys[i] for i in inputs), tuple(keys[i] for i in outputs), values)
    return TfliteModel(
        model,
        graph,
        keys,
        _specs(values, graph.inputs, path),
        _specs(values, graph.outputs, path),
    )


def _is_activated(model: Any, operator: Any) -> bool:
    """Whether an operator has an activation in it, or calls, on a condition, what always leads through one."""
    if getattr(operator.builtinOptions, "fusedActivationFunction", _NO_ACTIVATION) != _NO_ACTIVATION:
        return True
    branches = [model.subgraphs[call.subgraph] for call in calls(operator)] if _is_if(model, operator) else []
    return bool(branches) and not any(map(partial(_hands_through, model), branches))


def _is_if(model: Any, operator: Any) -> bool:
    return operator_name(model, operator) == "IF"


def _hands_through(model: Any, subgraph: Any) -> bool:
    """Whether an output of what an IF calls may reveal what goes in; neither state nor an IF within is followed."""
    if any(keeps_state(model, subgraph, operator) for operator in subgraph.operators or []):
        return True
    steps = [
        Node(
            index,
            "",
            operator_name(model, operator),
            tuple(map(str, tensor_numbers(operator.inputs))),
            tuple(map(str, tensor_numbers(operator.outputs))),
            activated=not _is_if(model, operator) and _is_activated(model, operator),
        )
        for index, operator in enumerate(subgraph.operators or [])
    ]
    found = revealed(steps, [str(number) for number in tensor_numbers(subgraph.inputs)])
    return not found.isdisjoint(map(str, tensor_numbers(subgraph.outputs)))


def _weight_bytes(model: Any, subgraph: Any, operator: Any) -> int:
    """Bytes of the constants that an operator reads, and of those that what it calls reads."""
    size = sum(
        len(model.buffers[subgraph.tensors[i].buffer].data)
        for i in tensor_numbers(operator.inputs)
        if i >= 0 and _has_data(model, subgraph.tensors[i])
    )
    called = {index for call in calls(operator) for index in reached(model, call.subgraph)}
    inner = (tensor for index in called for tensor in model.subgraphs[index].tensors or [])
    return size + sum(len(model.buffers[tensor.buffer].data) for tensor in inner if _has_data(model, tensor))


def _specs(values: dict[str, Value], keys: Sequence[str], path: str) -> tuple[TensorSpec, ...]:
    specs = []
    for key in keys:
        spec = values[key].spec
        if spec is None:
            raise ModelError(
                f"{path}: input or output {key!r} is of a type midstream cannot carry (a string or resource)"
            )
        specs.append(spec)
    return tuple(specs)


def _unique_keys(tensors: Sequence[Any]) -> tuple[str, ...]:
    """The tensors' own names where they are unique, made unique by their number where they are not."""
    names = [(tensor.name or b"").decode(errors="replace") for tensor in tensors]
    seen: set[str] = set()
    keys = []
    for index, name in enumerate(names):
        key = name if name and name not in seen else f"{name or 'tensor'}:{index}"
        while key in seen:
            key += "'"
        seen.add(key)
        keys.append(key)
    return tuple(keys)


def _has_data(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _spec(tensor: Any, key: str) -> TensorSpec | None:
    dtype = numpy_dtype(tensor.type)
    if dtype is None:
        return None
    declared = tensor_numbers(tensor.shapeSignature)
    if len(declared) != len(_shape(tensor)):
        declared = list(_shape(tensor))
    shape = tuple(None if size < 0 else size for size in declared)
    scale, zero_point = None, None
    quantization = tensor.quantization
    if quantization is not None and quantization.scale is not None and len(quantization.scale) == 1:
        scale = float(quantization.scale[0])
        zero_point = next(iter(tensor_numbers(quantization.zeroPoint)), 0)
    return TensorSpec(key, dtype, shape, scale, zero_point)


def _macs(op: str, reads: Sequence[tuple[int, ...]], makes: Sequence[tuple[int, ...]]) -> int:
    """Multiply-accumulates of one run; 0 for layers that are not made of them."""
    if len(reads) < 2 or not makes:
        return 0
    left, right = reads[0], reads[1]
    out = math.prod(makes[0])
    if op == "CONV_2D" and len(right) == 4:
        return out * math.prod(right[1:])
    if op == "DEPTHWISE_CONV_2D" and len(right) == 4:
        return out * right[1] * right[2]
    if op == "TRANSPOSE_CONV" and len(reads) > 2 and len(right) == 4:
        return math.prod(reads[2]) * right[0] * right[1] * right[2]
    if op == "FULLY_CONNECTED" and right:
        return out * right[-1]
    if op == "BATCH_MATMUL" and left:
        return out * left[-1]
    if op == "UNIDIRECTIONAL_SEQUENCE_LSTM" and len(left) == 3:
        # Steps and inputs in either order; the matrices of four gates, apart from states of one row.
        return left[0] * left[1] * sum(math.prod(shape) for shape in reads[1:] if len(shape) == 2 and shape[0] > 1)
    return 0


_NO_ACTIVATION: int = schema.ActivationFunctionType.NONE
