"""The resource map: the model's layers as a graph with time, memory and energy on nodes, bytes on edges."""

from __future__ import annotations

from collections.abc import Sequence, Set

import networkx as nx

from midstream.errors import BundleError
from midstream.manifest import Graph, Manifest
from midstream.tensors import nbytes


def resource_map(manifest: Manifest, graph: Graph, layers_ms: Sequence[float], busy_w: float) -> nx.DiGraph:
    """The layers of a model, by index, with their times on some machine and what it draws while it computes.

    Nodes have ``op``, ``name``, ``macs``, ``flops``, ``static``, ``weight_bytes``, ``activation_bytes`` (what it
    writes), ``memory_bytes`` (both), ``live_bytes`` (the activations that are needed while it runs), ``cpu_ms``,
    ``energy_mj`` (cpu_ms · busy_w) and ``critical``, whether they are on the `critical_path`; edges have
    ``bytes``. The graph has ``peak_bytes``: all weights, and the most that is live. Static layers, whose values do not
    depend on the input, take no time.

    Raises BundleError where the times are not of this graph.
    """
    if len(layers_ms) != len(graph.layers):
        raise BundleError(
            f"the costs of bundle {manifest.name!r} are of {len(layers_ms)} layers, its model has "
            f"{len(graph.layers)}; convert the model again"
        )
    live = live_bytes(manifest, graph)
    weights = sum(layer.weight_bytes for layer in graph.layers)
    map_ = nx.DiGraph(name=manifest.name, peak_bytes=weights + max(live, default=0))
    for layer, cpu_ms, live_here in zip(graph.layers, layers_ms, live, strict=True):
        map_.add_node(
            layer.index,
            op=layer.op,
            name=layer.name,
            macs=layer.macs,
            flops=layer.flops,
            static=layer.static,
            weight_bytes=layer.weight_bytes,
            activation_bytes=layer.output_bytes,
            memory_bytes=layer.weight_bytes + layer.output_bytes,
            live_bytes=live_here,
            cpu_ms=cpu_ms,
            energy_mj=cpu_ms * busy_w,
        )
    for edge in graph.edges:
        known = map_.get_edge_data(edge.source, edge.target, {"bytes": 0})["bytes"]
        map_.add_edge(edge.source, edge.target, bytes=known + edge.bytes)
    path = set(critical_path(map_))
    nx.set_node_attributes(map_, {index: index in path for index in map_}, "critical")
    return map_


def live_bytes(manifest: Manifest, graph: Graph, head: Set[int] | None = None) -> list[int]:
    """Bytes of activations that are there while each layer runs, the model's inputs included, which always are.

    A layer's outputs are kept until the last layer that reads them has run, and to the end where none does. Of a
    ``head`` only its layers run, and what others read is kept to its end.
    """
    last = {layer.index: len(graph.layers) for layer in graph.layers}
    for edge in sorted(graph.edges, key=lambda edge: edge.target):
        last[edge.source] = edge.target
    inputs = sum(nbytes(spec.dtype, manifest.sample_shapes[spec.name]) for spec in manifest.free_inputs())
    live, now = [], inputs
    ending: dict[int, int] = {}
    for layer in graph.layers:
        if head is not None and layer.index not in head:
            continue
        now += layer.output_bytes
        ending[last[layer.index]] = ending.get(last[layer.index], 0) + layer.output_bytes
        live.append(now)
        now -= ending.get(layer.index, 0)
    return live


def device_memory(manifest: Manifest, graph: Graph) -> dict[str | None, int]:
    """Bytes of weights and of live activations that a device needs for each cut's head; None: for the whole model.

    What its runtime takes beside these is not counted.
    """
    heads: dict[str | None, frozenset[int]] = {cut.id: frozenset(cut.nodes) for cut in manifest.cuts}
    heads[None] = frozenset(layer.index for layer in graph.layers)
    return {
        cut: sum(layer.weight_bytes for layer in graph.layers if layer.index in head)
        + max(live_bytes(manifest, graph, head), default=0)
        for cut, head in heads.items()
    }


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
