from __future__ import annotations

from dataclasses import replace

import pytest

from midstream.errors import BundleError
from midstream.manifest import Costs, Edge, Graph, Manifest
from midstream.partitioning import resource_map


def test_times_are_the_measured_ones(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs, busy_w=5.0)
    assert [found.nodes[index]["cpu_ms"] for index in range(5)] == list(costs.layers_ms)
    assert found.nodes[0]["energy_mj"] == pytest.approx(30.0)


def test_costs_of_another_graph_are_refused(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    with pytest.raises(BundleError, match="costs of bundle 'hand' are of 4 layers, its model has 5"):
        resource_map(manifest, graph, replace(costs, layers_ms=costs.layers_ms[1:]), 5.0)


def test_activations_live_until_their_last_reader_has_run(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs, busy_w=5.0)
    # The input's 4800 bytes stay. Layers write 1000, 8, 500, 60 and 40; 0 is read by 2, 1 and 2 by 3, 3 by 4.
    assert [found.nodes[index]["live_bytes"] for index in range(5)] == [5800, 5808, 6308, 5368, 4900]
    weights = sum(layer.weight_bytes for layer in graph.layers)
    assert found.graph["peak_bytes"] == weights + 6308


def test_nodes_and_edges_carry_what_the_contract_names(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs, busy_w=5.0)
    assert list(found.nodes) == [0, 1, 2, 3, 4]
    assert {key: found.nodes[3][key] for key in ("op", "name", "macs", "static", "memory_bytes")} == {
        "op": "Gemm",
        "name": "dense",
        "macs": 2400,
        "static": False,
        "memory_bytes": 960,
    }
    assert found.nodes[1]["static"] is True
    assert {(a, b): size for a, b, size in found.edges(data="bytes")} == {
        (0, 2): 1000,
        (1, 3): 8,
        (2, 3): 500,
        (3, 4): 60,
    }


def test_two_tensors_between_the_same_layers_add_up(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    doubled = replace(graph, edges=(*graph.edges, Edge(0, 2, 24)))
    assert resource_map(manifest, doubled, costs, 5.0).edges[0, 2]["bytes"] == 1024
