from __future__ import annotations

from dataclasses import replace

import pytest

from midstream.manifest import Costs, Edge, Graph, Layer, Manifest
from midstream.partitioning import resource_map


def test_time_is_shared_by_work(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs, busy_w=5.0)
    # Work is 5000, none, 500, 2460 and 40: together 8000, for 10 ms.
    assert [found.nodes[index]["cpu_ms"] for index in range(5)] == pytest.approx([6.25, 0, 0.625, 3.075, 0.05])
    assert sum(node["cpu_ms"] for node in found.nodes.values()) == pytest.approx(costs.whole_ms)
    assert found.nodes[0]["energy_mj"] == pytest.approx(31.25)


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


@pytest.mark.parametrize("static", [False, True])
def test_layers_without_any_work_share_equally(manifest: Manifest, costs: Costs, static: bool) -> None:
    idle = Graph(tuple(Layer(index, "", "Identity", 0, 0, 0, static) for index in range(4)), ())
    found = resource_map(manifest, idle, costs, 5.0)
    assert [node["cpu_ms"] for node in found.nodes.values()] == [2.5] * 4
