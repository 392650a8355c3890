"""The onnx package, asked for by name so that its absence is one clear error, and small steps over its messages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from midstream.errors import MissingExtraError

if not find_spec("onnx"):
    raise MissingExtraError("onnx", "convert", "converting an ONNX model")

import onnx as onnx

Node = onnx.NodeProto
Graph = onnx.GraphProto


def inner_graphs(node: Node) -> Iterator[Graph]:
    """The bodies of If, Loop, Scan and others."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def reads(node: Node) -> list[str]:
    """Every value the node needs: its inputs, and what its inner graphs capture from outside, nested ones too."""
    needed = dict.fromkeys(name for name in node.input if name)
    for graph in inner_graphs(node):
        needed |= dict.fromkeys(captured(graph))
    return list(needed)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The graph's nodes and those of its inner graphs, nested ones too."""
    for node in graph.node:
        yield node
        for inner in inner_graphs(node):
            yield from all_nodes(inner)


def inner_tensors(graph: Graph) -> Iterator[onnx.TensorProto]:
    """The stored tensors that are no initializers of this graph: those in attributes, and all of inner graphs."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for inner in inner_graphs(node):
            yield from inner.initializer
            yield from inner_tensors(inner)


def captured(graph: Graph) -> list[str]:
    """The values that an inner graph reads and does not make."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    needed: dict[str, None] = {}
    for node in graph.node:
        needed |= dict.fromkeys(name for name in reads(node) if name not in own)
        own.update(node.output)
    needed |= dict.fromkeys(value.name for value in graph.output if value.name not in own)
    return list(needed)


def rename(node: Node, names: dict[str, str]) -> None:
    """Rename values in place, in inner graphs too where they do not shadow them."""
    for position, name in enumerate(node.input):
        node.input[position] = names.get(name, name)
    for position, name in enumerate(node.output):
        node.output[position] = names.get(name, name)
    for graph in inner_graphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename(inner, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
