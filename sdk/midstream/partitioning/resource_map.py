"""The resource map: the model's layers as a graph with time, memory and energy on nodes, bytes on edges."""

from __future__ import annotations

import networkx as nx

from midstream.errors import BundleError
from midstream.manifest import Costs, Graph, Manifest
from midstream.tensors import nbytes


def resource_map(manifest: Manifest, graph: Graph, costs: Costs, busy_w: float) -> nx.DiGraph:
    """The layers of a model, by index.

    Nodes have ``op``, ``name``, ``macs``, ``flops``, ``static``, ``weight_bytes``, ``activation_bytes`` (what it
    writes), ``memory_bytes`` (both), ``live_bytes`` (the activations that are needed while it runs), ``cpu_ms`` as
    measured and ``energy_mj`` (cpu_ms · busy_w); edges have ``bytes``. The graph has ``peak_bytes``: all weights, and
    the most that is live. Static layers, whose values do not depend on the input, take no time.

    Raises BundleError where the costs are not of this graph.
    """
    if len(costs.layers_ms) != len(graph.layers):
        raise BundleError(
            f"the costs of bundle {manifest.name!r} are of {len(costs.layers_ms)} layers, its model has "
            f"{len(graph.layers)}; convert the model again"
        )
    live = live_bytes(manifest, graph)
    weights = sum(layer.weight_bytes for layer in graph.layers)
    map_ = nx.DiGraph(name=manifest.name, peak_bytes=weights + max(live, default=0))
    for layer, cpu_ms, live_here in zip(graph.layers, costs.layers_ms, live, strict=True):
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
    return map_


def live_bytes(manifest: Manifest, graph: Graph) -> list[int]:
    """Bytes of activations that are there while each layer runs, the model's inputs included, which always are.

    A layer's outputs are kept until the last layer that reads them has run, and to the end where none does.
    """
    last = {layer.index: len(graph.layers) for layer in graph.layers}
    for edge in sorted(graph.edges, key=lambda edge: edge.target):
        last[edge.source] = edge.target
    inputs = sum(nbytes(spec.dtype, manifest.sample_shapes[spec.name]) for spec in manifest.free_inputs())
    live, now = [], inputs
    ending: dict[int, int] = {}
    for layer in graph.layers:
        now += layer.output_bytes
        ending[last[layer.index]] = ending.get(last[layer.index], 0) + layer.output_bytes
        live.append(now)
        now -= ending.get(layer.index, 0)
    return live
