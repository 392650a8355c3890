"""Each layer's time from onnxruntime's profiler.

It shows the nodes that the runtime has made of the layers: several as one, and some that only change a layout. The
runtime keeps the names of the values that lie between what it makes, and by these its nodes are found among the layers:
a node took the layers that lead to its values, back to where another node's values begin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from midstream_converters.graph import Floats, ModelGraph, Node
from midstream_converters.onnx.proto import onnx

# What onnxruntime appends to the name of a value in its processor's own layout.
_BLOCKED = "_nchwc"


def layer_times(graph: ModelGraph, made: Iterable[onnx.NodeProto], node_ms: Mapping[str, float]) -> Floats:
    """Milliseconds of each layer by index. ``made`` are the runtime's nodes, ``node_ms`` their times by name."""
    times = anchored(graph, list(made), node_ms)
    covered: defaultdict[int, list[Node]] = defaultdict(list)
    owner: dict[int, int] = {}
    readers = _readers(graph)
    for node in reversed(graph.nodes):
        anchor = next((graph.producer[value] for value in node.outputs if value in times), None)
        if anchor is None:
            anchor = next((owner[reader] for reader in readers[node.index] if reader in owner), None)
        if anchor is not None:
            owner[node.index] = anchor
            covered[anchor].append(node)
    found = np.zeros(len(graph.nodes))
    for value, ms in times.items():
        layers = [node for node in covered[graph.producer[value]] if not node.static]
        work = np.array([_work(graph, node) for node in layers], dtype=np.float64)
        for node, part in zip(layers, work, strict=True):
            found[node.index] += ms * part / work.sum()
    return found


def anchored(graph: ModelGraph, made: list[onnx.NodeProto], node_ms: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds by the value of the model that they lead to; those of nodes that lead to none go to the next."""
    times: defaultdict[str, float] = defaultdict(float)
    waiting: defaultdict[str, float] = defaultdict(float)
    last = ""
    for node in made:
        ms = node_ms.get(node.name, 0.0) + sum(waiting.pop(value, 0.0) for value in node.input)
        names = [*node.output, node.name.removesuffix(_BLOCKED)]
        value = next((name for name in names if name in graph.producer), None)
        if value is not None:
            times[value] += ms
            last = value
        elif node.output:
            waiting[node.output[0]] += ms
    if last:
        times[last] += sum(waiting.values())
    return dict(times)


def _readers(graph: ModelGraph) -> defaultdict[int, list[int]]:
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for node in graph.nodes:
        for value in node.inputs:
            if value in graph.producer:
                readers[graph.producer[value]].append(node.index)
    return readers


def _work(graph: ModelGraph, node: Node) -> int:
    return 1 + node.macs + graph.written_bytes(node)
