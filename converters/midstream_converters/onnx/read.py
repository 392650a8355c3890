"""Read an ONNX file into the neutral graph.

Requires: a model that onnxruntime loads. Ensures: a simplified main graph in running order, every value with the
specification that shape inference gives, or the widest one that holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from midstream.errors import InputError, ModelError, printable
from midstream.tensors import CARRIED_DTYPES, Tensor, Tensors, TensorSpec
from midstream_converters.graph import ModelGraph, Node, Value
from midstream_converters.linear import revealed
from midstream_converters.onnx.bounds import check_bounds
from midstream_converters.onnx.content import content_bytes
from midstream_converters.onnx.probe import probe_sizes
from midstream_converters.onnx.proto import all_nodes, captured, inner_graphs, onnx, reads
from midstream_converters.onnx.simplify import simplify
from midstream_converters.onnx.sizes import sized_by_content
from midstream_converters.onnx.store import store_constants
from midstream_converters.onnx.wire import check_wire
from midstream_converters.weights import WeightStore

# Those whose operators every build of onnxruntime has.
_KNOWN_DOMAINS = frozenset({
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft",
    "com.microsoft.nchwc", "com.ms.internal.nhwc",
})  # fmt: skip


@dataclass(frozen=True)
class OnnxInputs:
    """What a model takes: all inputs that have no default, and those of them that are bound to a value."""

    all: tuple[TensorSpec, ...]
    fixed: Tensors

    @property
    def free(self) -> tuple[TensorSpec, ...]:
        """Those that are not bound."""
        return tuple(spec for spec in self.all if spec.name not in self.fixed)


@dataclass(frozen=True)
class OnnxModel:
    """A simplified model whose large constants lie in ``folder``; its constants by name, and what it takes.

    ``all_inputs`` include those bound to a value, ``fixed``. ``replaceable`` are constants that the file also lists as
    inputs: they keep their value here, but the runtime must go on taking them for changeable to compute the same bits.
    """

    model: onnx.ModelProto
    folder: Path
    constants: dict[str, onnx.TensorProto]
    inputs: tuple[TensorSpec, ...]
    all_inputs: tuple[TensorSpec, ...]
    fixed: Tensors
    replaceable: dict[str, onnx.ValueInfoProto]


def parse_onnx(data: bytes, path: Path) -> onnx.ModelProto:
    """The model, without its external data. Raises ModelError where these bytes are no model of standard operators."""
    check_wire(data, path)
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except (DecodeError, ValueError):
        raise ModelError(f"{path} is not a whole ONNX model: it is truncated, damaged or of another kind") from None
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} holds no layers; it is not an ONNX model that can be sliced")
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    foreign = sorted({_qualified(node) for node in nodes if _is_custom(node, model)})
    if foreign:
        raise ModelError(
            f"{path} uses the custom operators {', '.join(foreign)}, which onnxruntime cannot run by itself; "
            "export the model again with standard ONNX operators only"
        )
    check_bounds(model, path)
    return model


def declared_names(model: onnx.ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs that must be given, and of the outputs."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    return (
        tuple(value.name for value in model.graph.input if value.name not in defaults),
        tuple(value.name for value in model.graph.output),
    )


def declared_inputs(model: onnx.ModelProto, values: Mapping[str, Any], path: Path) -> OnnxInputs:
    """What a model takes, with some inputs bound to values.

    Raises ModelError naming what cannot be carried, InputError on a value that an input does not take.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    specs = {value.name: _io_spec(value, path) for value in model.graph.input if value.name not in defaults}
    return OnnxInputs(tuple(specs.values()), {name: _bound(name, value, specs, path) for name, value in values.items()})


def read_onnx(model: onnx.ModelProto, inputs: OnnxInputs, path: Path, weights: WeightStore) -> OnnxModel:
    """Simplify a model that was seen to run; its large constants go to ``weights``.

    Raises ModelError naming what cannot be carried.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    # Before version 4 of the format every initializer had to be listed, and none could be replaced.
    listed = model.graph.input if model.ir_version >= 4 else ()
    replaceable = {value.name: _copied(value) for value in listed if value.name in defaults}
    simplify(model, inputs.fixed, path.parent)
    if not model.graph.node:
        raise ModelError(f"{path} has no layers that lead to an output; there is nothing to slice")
    store_constants(model, path.parent, weights)
    return OnnxModel(
        model,
        weights.path.parent,
        {tensor.name: tensor for tensor in model.graph.initializer},
        inputs.free,
        inputs.all,
        inputs.fixed,
        replaceable,
    )


def build_graph(
    source: OnnxModel, inferred: Mapping[str, onnx.ValueInfoProto], sample: Tensors, path: Path
) -> ModelGraph:
    """The neutral graph, with the sizes that one run on ``sample`` shows."""
    graph = source.model.graph
    dynamic = {value.name for value in graph.input}
    static = []
    for node in graph.node:
        follows = not dynamic.isdisjoint(reads(node)) or node.op_type.startswith("Random")
        static.append(not follows)
        if follows:
            dynamic.update(node.output)
    made = [name for node in graph.node for name in node.output if name]
    shown = {name: _known_type(inferred.get(name)) for name in made if _has_numpy_type(inferred.get(name))}
    seen = probe_sizes(source.model, sample, shown, source.folder)
    values = {name: Value(None, 0) for name in made} | _values(source, inferred, sample, seen, path)
    shapes = {name: np.shape(array) for name, array in (seen | sample).items() if isinstance(array, np.ndarray)}
    nodes = tuple(
        Node(
            index,
            node.name or f"{node.op_type}_{index}",
            _qualified(node),
            tuple(name for name in reads(node) if name not in source.constants),
            tuple(name for name in node.output if name),
            _macs(node, source.constants, shapes),
            sum(content_bytes(source.constants[name]) for name in node.input if name in source.constants),
            static[index],
            activated=_is_activated(node, dynamic),
        )
        for index, node in enumerate(graph.node)
    )
    outputs = tuple(value.name for value in graph.output)
    return ModelGraph(nodes, tuple(spec.name for spec in source.inputs), outputs, values)


def _is_activated(node: onnx.NodeProto, dynamic: Set[str]) -> bool:
    """Whether a node has an activation in it, or both branches of an If lead what they capture through one."""
    if any(attribute.name == "activation" and attribute.s for attribute in node.attribute):
        return True
    return node.op_type == "If" and not any(_hands_through(branch, dynamic) for branch in inner_graphs(node))


def _hands_through(branch: onnx.GraphProto, dynamic: Set[str]) -> bool:
    """Whether an output of a branch reveals what it captures; an If within it counts as revealing."""
    steps = (
        Node(
            index,
            "",
            _qualified(node),
            tuple(reads(node)),
            tuple(node.output),
            activated=node.op_type != "If" and _is_activated(node, dynamic),
        )
        for index, node in enumerate(branch.node)
    )
    found = revealed(steps, [name for name in captured(branch) if name in dynamic])
    return not found.isdisjoint(value.name for value in branch.output)


def infer_types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """What follows of the types and sizes of a model's values from those of its inputs; empty where nothing does."""
    known = onnx.ModelProto()
    known.CopyFrom(model)
    # Before version 4 of the format inference wants every initializer listed as an input; the runtime does not.
    known.ir_version = max(model.ir_version, 4)
    try:
        shaped = onnx.shape_inference.infer_shapes(known)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError):
        # Without inference every size that may vary counts as dynamic, which is always true enough to check against.
        return {}
    return {value.name: value for value in shaped.graph.value_info}


def _values(
    source: OnnxModel,
    inferred: Mapping[str, onnx.ValueInfoProto],
    sample: Tensors,
    seen: Mapping[str, Any],
    path: Path,
) -> dict[str, Value]:
    """What inference says of a size, else what a run showed where no other run can differ, else that it is dynamic."""
    free = any(size is None for spec in source.inputs for size in spec.shape)
    unsure = sized_by_content(source.model.graph)
    values = {}
    for name, array in seen.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            continue
        if name in inferred and inferred[name].type.WhichOneof("value") != "tensor_type":
            continue
        dims = _dims(inferred[name]) if name in inferred else None
        if dims is None or len(dims) != array.ndim:
            dims = (None,) * array.ndim
        if not free and name not in unsure:
            dims = array.shape
        values[name] = Value(TensorSpec(name, array.dtype, dims, may_be_empty=name in unsure), array.nbytes)
    for spec in source.inputs:
        values[spec.name] = Value(spec, sample[spec.name].nbytes)
    for output in source.model.graph.output:
        array = seen.get(output.name, sample.get(output.name))
        values[output.name] = Value(_io_spec(output, path, array), 0 if array is None else array.nbytes)
    return values


def _has_numpy_type(value: onnx.ValueInfoProto | None) -> bool:
    """Whether a run can show this value; one of unknown type is tried."""
    if value is None or value.type.WhichOneof("value") != "tensor_type":
        return True
    elem_type = value.type.tensor_type.elem_type
    return elem_type == onnx.TensorProto.STRING or _numpy_dtype(elem_type) is not None


def _known_type(value: onnx.ValueInfoProto | None) -> np.dtype[np.generic] | None:
    is_tensor = value is not None and value.type.WhichOneof("value") == "tensor_type"
    return _numpy_dtype(value.type.tensor_type.elem_type) if value is not None and is_tensor else None


def _numpy_dtype(elem_type: int) -> np.dtype[np.generic] | None:
    """The dtype of numpy's own that holds this type; None for strings, bfloat16, float8, small integers."""
    if elem_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return None
    if elem_type not in onnx.TensorProto.DataType.values():
        return None
    dtype: np.dtype[np.generic] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    return dtype if dtype.name in CARRIED_DTYPES else None


def _bound(name: str, value: Any, inputs: Mapping[str, TensorSpec], path: Path) -> Tensor:
    """A value as the array the input takes; one number fills an input of known size."""
    if name not in inputs:
        raise InputError(f"--value {name}: {path} has no such input; it has {', '.join(inputs)}")
    spec = inputs[name]
    try:
        given = np.asarray(value)
        array: Tensor = given.astype(spec.dtype)
        if array.ndim == 0 and None not in spec.shape:
            array = np.full([size or 0 for size in spec.shape], array)
        exact = spec.dtype.kind == "f" or bool(np.all(array == given))
    except (ValueError, TypeError, OverflowError):
        exact = False
    if not exact or not replace(spec, may_be_empty=True).accepts(array.shape):
        raise InputError(f"--value {name}={json.dumps(value)} is not a value of input {spec} of {path}")
    return array


def _io_spec(value: onnx.ValueInfoProto, path: Path, seen: Tensor | None = None) -> TensorSpec:
    """What the file declares; where it leaves an output's shape out, as many dynamic sizes as a run has shown."""
    is_tensor = value.type.WhichOneof("value") == "tensor_type"
    dtype = _numpy_dtype(value.type.tensor_type.elem_type) if is_tensor else None
    if dtype is None:
        raise ModelError(
            f"{path}: input or output {value.name!r} is not a tensor of numbers; midstream cannot carry it"
        )
    dims = _dims(value)
    if dims is None:
        dims = () if seen is None else (None,) * seen.ndim
    return TensorSpec(value.name, dtype, dims)


def _dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)


def _copied(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    fresh = onnx.ValueInfoProto()
    fresh.CopyFrom(value)
    return fresh


def _qualified(node: onnx.NodeProto) -> str:
    return printable(f"{node.domain}::{node.op_type}" if node.domain else node.op_type, 100)


def _is_custom(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    local = {(function.domain, function.name) for function in model.functions}
    return node.domain not in _KNOWN_DOMAINS and (node.domain, node.op_type) not in local


def _macs(node: onnx.NodeProto, constants: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one run; 0 for layers that are not made of them."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(constants[name].dims) if name in constants else shapes.get(name, ())

    out = shape(node.output[0]) if node.output else ()
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"):
        weight = shape(node.input[3 if node.op_type == "QLinearConv" else 1])
        positions = shape(node.input[0]) if node.op_type == "ConvTranspose" else out
        return math.prod(positions) * math.prod(weight[1:])
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"):
        left = shape(node.input[0])
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * (left[0] if transposed else left[-1]) if left else 0
    if node.op_type in ("LSTM", "GRU", "RNN"):
        steps = math.prod(shape(node.input[0])[:2])
        return steps * (math.prod(shape(node.input[1])) + math.prod(shape(node.input[2])))
    return 0
