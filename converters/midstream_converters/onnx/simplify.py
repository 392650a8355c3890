"""Bring an ONNX graph into the form that slicing wants.

Requires: a topologically sorted main graph. Ensures: constants are initializers, large ones of inner graphs too; an
input of a fixed value is a constant, an If whose condition follows from constants is replaced by its branch, and every
node ends in an output. Nothing that is computed changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

from midstream.tensors import Tensor
from midstream_converters.onnx.content import content_bytes
from midstream_converters.onnx.probe import probe_values
from midstream_converters.onnx.proto import Graph, Node, inner_graphs, onnx, reads, rename
from midstream_converters.onnx.store import INLINE_BYTES


def simplify(model: onnx.ModelProto, fixed: Mapping[str, Tensor], folder: Path) -> None:
    """Rewrite the model's main graph in place. ``fixed`` binds inputs to values; external data lies in ``folder``."""
    graph = model.graph
    _fill_sparse(graph)
    _drop_default_inputs(graph)
    _bind_inputs(graph, fixed)
    _lift_constants(graph)
    # What nothing needs, no run of the whole model has shown to be harmless.
    _drop_dead(graph)
    while _inline_ifs(model, folder):
        _lift_constants(graph)
    _lift_inner(graph)
    _drop_dead(graph)


def _fill_sparse(graph: Graph) -> None:
    """Sparse initializers become dense ones of the same values."""
    for sparse in graph.sparse_initializer:
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    del graph.sparse_initializer[:]


def _drop_default_inputs(graph: Graph) -> None:
    """Initializers that are also inputs count as constants: nobody gives them over the network."""
    constants = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(kept)


def _bind_inputs(graph: Graph, fixed: Mapping[str, Tensor]) -> None:
    for value in [value for value in graph.input if value.name in fixed]:
        graph.initializer.append(numpy_helper.from_array(fixed[value.name], value.name))
        graph.input.remove(value)


def _lift_constants(graph: Graph) -> None:
    kept = []
    for node in graph.node:
        tensor = _constant_tensor(node) if node.op_type == "Constant" and not node.domain else None
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        nodes = [_copy(node) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def _constant_tensor(node: Node) -> onnx.TensorProto | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    plain = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in plain:
        return None
    value = np.asarray(onnx.helper.get_attribute_value(attribute), dtype=plain[attribute.name])
    return numpy_helper.from_array(value, node.output[0])


def _inline_ifs(model: onnx.ModelProto, folder: Path) -> bool:
    """Put a branch where each If of a constant condition stood; False where there was none."""
    graph = model.graph
    conditions = _constant_conditions(model, folder)
    if not conditions:
        return False
    taken = _all_names(graph)
    nodes: list[Node] = []
    for node in graph.node:
        condition = conditions.get(node.input[0]) if _is_if(node) else None
        if condition is None:
            nodes.append(_copy(node))
        else:
            branch = "then_branch" if condition else "else_branch"
            nodes.extend(_branch(graph, node, next(a.g for a in node.attribute if a.name == branch), taken))
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _is_if(node: Node) -> bool:
    return bool(node.op_type == "If" and not node.domain)


def _constant_conditions(model: onnx.ModelProto, folder: Path) -> dict[str, bool]:
    """What those conditions of Ifs are that follow from constants alone; one run tells all of them."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    known = set(constants)
    for node in graph.node:
        if known.issuperset(reads(node)) and not node.op_type.startswith("Random"):
            known.update(node.output)
    conditions = dict.fromkeys(node.input[0] for node in graph.node if _is_if(node) and node.input[0] in known)
    needed = set(conditions)
    nodes = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(reads(node))
            nodes.append(node)
    values: dict[str, Any] = {
        name: numpy_helper.to_array(constants[name], base_dir=str(folder)) for name in conditions if name in constants
    }
    if computed := [name for name in conditions if name not in constants]:
        part = onnx.helper.make_graph(
            nodes[::-1], "conditions", [], [], [constants[name] for name in sorted(needed & constants.keys())]
        )
        small = onnx.helper.make_model(
            part, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
        )
        values |= probe_values(small, {}, computed, folder)
    return {name: bool(np.asarray(value).reshape(-1)[0]) for name, value in values.items()}


def _branch(graph: Graph, node: Node, body: Graph, taken: set[str]) -> list[Node]:
    """The nodes for an If's place; inner names get a prefix of their own, outputs the If's names."""
    prefix = node.name or node.output[0]
    own = [name for inner in body.node for name in inner.output if name]
    own += [tensor.name for tensor in body.initializer]
    names = {name: _fresh(f"{prefix}/{name}", taken) for name in own}
    copies = []
    results = [value.name for value in body.output]
    for result, output in zip(results, node.output, strict=True):
        if result in names and results.count(result) == 1 and result not in {t.name for t in body.initializer}:
            names[result] = output
        else:
            copies.append(onnx.helper.make_node("Identity", [names.get(result, result)], [output]))
    inlined = []
    for inner in body.node:
        fresh_node = _copy(inner)
        rename(fresh_node, names)
        inlined.append(fresh_node)
    for tensor in body.initializer:
        constant = onnx.TensorProto()
        constant.CopyFrom(tensor)
        constant.name = names[tensor.name]
        graph.initializer.append(constant)
    return inlined + copies


def _lift_inner(graph: Graph) -> None:
    """Large initializers of inner graphs become the main graph's, under names of their own."""
    taken = _all_names(graph)
    for node in graph.node:
        for inner in inner_graphs(node):
            for tensor in [tensor for tensor in inner.initializer if content_bytes(tensor) >= INLINE_BYTES]:
                if any(value.name == tensor.name for value in (*inner.input, *inner.output)):
                    continue
                lifted = _copy_tensor(tensor)
                lifted.name = _fresh(f"{node.name or node.output[0]}/{tensor.name}", taken)
                graph.initializer.append(lifted)
                for reader in inner.node:
                    rename(reader, {tensor.name: lifted.name})
                inner.initializer.remove(tensor)


def _fresh(name: str, taken: set[str]) -> str:
    """The name, or the next one that nothing has; it is taken from then on."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _all_names(graph: Graph) -> set[str]:
    """Every name in the graph and its inner graphs."""
    names = {tensor.name for tensor in graph.initializer}
    names |= {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        names |= {*node.input, *node.output}
        for inner in inner_graphs(node):
            names |= _all_names(inner)
    return names


def _drop_dead(graph: Graph) -> None:
    wanted = {value.name for value in graph.output}
    kept: list[Node] = []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            kept.append(_copy(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = {tensor.name: _copy_tensor(tensor) for tensor in graph.initializer if tensor.name in wanted}
    del graph.initializer[:]
    graph.initializer.extend(constants.values())


def _copy(node: Node) -> Node:
    fresh = Node()
    fresh.CopyFrom(node)
    return fresh


def _copy_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    fresh = onnx.TensorProto()
    fresh.CopyFrom(tensor)
    return fresh
