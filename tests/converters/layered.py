"""Graphs to cut, made by hand and at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from midstream.tensors import TensorSpec
from midstream_converters.graph import ModelGraph, Node, Value


def made(outputs: str, *layers: str, sizes: Mapping[str, int] | None = None, unsendable: str = "") -> ModelGraph:
    """A model from layers such as ``"a b = x y"``; a mark such as ``=relu=`` says what each is; all have 10 MACs."""
    nodes = []
    for index, layer in enumerate(layers):
        left, *marks, right = layer.split("=")
        mark, names, reads = "".join(marks), tuple(left.split()), tuple(right.split())
        op = "Op" if mark in ("", "static", "state") else mark
        node = Node(index, f"layer{index}", op, reads, names, macs=10)
        nodes.append(replace(node, static=mark == "static", stateful=mark == "state"))
    produced = {value for node in nodes for value in node.outputs}
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in produced)
    return assembled(nodes, list(inputs), outputs.split(), sizes or {}, unsendable.split())


def assembled(
    nodes: list[Node], inputs: list[str], outputs: list[str], sizes: Mapping[str, int], unsendable: list[str]
) -> ModelGraph:
    values = {}
    for name in [*inputs, *(name for node in nodes for name in node.outputs)]:
        spec = None if name in unsendable else TensorSpec(name, np.dtype(np.float32), (None,))
        values[name] = Value(spec, sizes.get(name, 4))
    return ModelGraph(tuple(nodes), tuple(inputs), tuple(outputs), values)


@st.composite
def graphs(draw: st.DrawFn) -> ModelGraph:
    rarely = st.sampled_from([False] * 7 + [True])
    nodes: list[Node] = []
    known = ["x", "y"]
    static: set[str] = set()
    for index in range(draw(st.integers(2, 9))):
        recent = st.sampled_from(known[-4:]) | st.sampled_from(known)
        reads = () if draw(rarely) else tuple(draw(st.lists(recent, min_size=1, max_size=3)))
        reads += (draw(st.sampled_from(sorted(static))),) if static and draw(st.booleans()) else ()
        names = tuple(f"v{index}{part}" for part in range(draw(st.integers(1, 2))))
        fixed = static.issuperset(reads)
        op = draw(st.sampled_from(["Op", "Relu", "Mul"]))
        nodes.append(Node(index, "", op, reads, names, draw(st.integers(0, 9)), 0, fixed, not fixed and draw(rarely)))
        known += names
        static.update(names if fixed else ())
    outputs = draw(st.lists(st.sampled_from(known[-3:]) | st.sampled_from(known), min_size=1, max_size=3, unique=True))
    unsendable = [draw(st.sampled_from(known))] if draw(rarely) else []
    sizes = {value: draw(st.integers(0, 99)) for value in known}
    return assembled(nodes, ["x", "y"], outputs, sizes, unsendable)
