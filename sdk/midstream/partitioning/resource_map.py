"""The resource map: the model's layers as a graph with time, memory and energy on nodes, bytes on edges."""

from __future__ import annotations

import networkx as nx

from midstream.manifest import Costs, Graph, Layer, Manifest


def resource_map(manifest: Manifest, graph: Graph, costs: Costs, busy_w: float) -> nx.DiGraph:
    """The layers of a model, by index.

    Nodes have ``op``, ``name``, ``macs``, ``static``, ``memory_bytes`` (weights and output), ``cpu_ms`` and
    ``energy_mj`` (cpu_ms · busy_w); edges have ``bytes``. Only the whole model's time is measured:
    ``cpu_ms`` shares it out by macs + output bytes, an estimate that sums to ``costs.whole_ms``. Static
    layers, whose values do not depend on the input, get none of it.
    """
    working = [layer for layer in graph.layers if not layer.static] or list(graph.layers)
    weights = {layer.index: float(_work(layer)) for layer in working}
    total = sum(weights.values())
    if total == 0:
        weights = dict.fromkeys(weights, 1.0)
        total = float(len(weights))
    map_ = nx.DiGraph(name=manifest.name)
    for layer in graph.layers:
        cpu_ms = costs.whole_ms * weights.get(layer.index, 0.0) / total
        map_.add_node(
            layer.index,
            op=layer.op,
            name=layer.name,
            macs=layer.macs,
            static=layer.static,
            memory_bytes=layer.weight_bytes + layer.output_bytes,
            cpu_ms=cpu_ms,
            energy_mj=cpu_ms * busy_w,
        )
    for edge in graph.edges:
        known = map_.get_edge_data(edge.source, edge.target, {"bytes": 0})["bytes"]
        map_.add_edge(edge.source, edge.target, bytes=known + edge.bytes)
    return map_


def _work(layer: Layer) -> int:
    return layer.macs + layer.output_bytes
