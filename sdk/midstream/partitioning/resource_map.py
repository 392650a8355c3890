"""The resource map: the model's layers as a graph with time, memory and energy on nodes, bytes on edges."""

from __future__ import annotations

import networkx as nx

from midstream.manifest import Costs, Graph, Layer, Manifest


def resource_map(manifest: Manifest, graph: Graph, costs: Costs, busy_w: float) -> nx.DiGraph:
    """The layers of a model, by index.

    Nodes have ``op``, ``name``, ``macs``, ``static``, ``memory_bytes`` (weights and output), ``cpu_ms``,
    ``energy_mj`` (cpu_ms · busy_w) and ``critical``, whether they are on the `critical_path`; edges have
    ``bytes``. Only the whole model's time is measured: ``cpu_ms`` shares it out by macs + output bytes, an
    estimate that sums to ``costs.whole_ms``. Static
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
    path = set(critical_path(map_))
    nx.set_node_attributes(map_, {index: index in path for index in map_}, "critical")
    return map_


def critical_path(map_: nx.DiGraph) -> tuple[int, ...]:
    """The chain of layers with the most ``cpu_ms``: no number of machines runs the model in less.

    Of equal ones the first; static layers are on none. Data flows from lower to higher indices.
    """
    spent: dict[int, tuple[float, int | None]] = {}
    for index in sorted(map_):
        if not map_.nodes[index]["static"]:
            before = [source for source in map_.predecessors(index) if source in spent]
            last = max(before, key=lambda source: (spent[source][0], -source), default=None)
            spent[index] = map_.nodes[index]["cpu_ms"] + (0.0 if last is None else spent[last][0]), last
    path: list[int] = []
    step = max(spent, key=lambda index: (spent[index][0], -index), default=None)
    while step is not None:
        path.append(step)
        step = spent[step][1]
    return tuple(reversed(path))


def _work(layer: Layer) -> int:
    return layer.macs + layer.output_bytes
