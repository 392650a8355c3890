from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.errors import BundleError
from midstream.manifest import Costs, Edge, Graph, Manifest
from midstream.partitioning import critical_path, resource_map


def test_times_are_the_measured_ones(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs.layers_ms, busy_w=5.0)
    assert [found.nodes[index]["cpu_ms"] for index in range(5)] == list(costs.layers_ms)
    assert found.nodes[0]["energy_mj"] == pytest.approx(30.0)


def test_costs_of_another_graph_are_refused(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    with pytest.raises(BundleError, match="costs of bundle 'hand' are of 4 layers, its model has 5"):
        resource_map(manifest, graph, costs.layers_ms[1:], 5.0)


def test_activations_live_until_their_last_reader_has_run(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs.layers_ms, busy_w=5.0)
    # The input's 4800 bytes stay. Layers write 1000, 8, 500, 60 and 40; 0 is read by 2, 1 and 2 by 3, 3 by 4.
    assert [found.nodes[index]["live_bytes"] for index in range(5)] == [5800, 5808, 6308, 5368, 4900]
    weights = sum(layer.weight_bytes for layer in graph.layers)
    assert found.graph["peak_bytes"] == weights + 6308


def test_nodes_and_edges_carry_what_the_contract_names(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs.layers_ms, busy_w=5.0)
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
    assert resource_map(manifest, doubled, costs.layers_ms, 5.0).edges[0, 2]["bytes"] == 1024


def test_the_critical_path_is_marked(manifest: Manifest, graph: Graph, costs: Costs) -> None:
    found = resource_map(manifest, graph, costs.layers_ms, 5.0)
    assert critical_path(found) == (0, 2, 3, 4)
    assert [data["critical"] for _, data in found.nodes(data=True)] == [True, False, True, True, True]


@st.composite
def maps(draw: st.DrawFn) -> nx.DiGraph:
    map_ = nx.DiGraph()
    for index in range(draw(st.integers(0, 8))):
        static = draw(st.sampled_from([False, False, False, True]))
        map_.add_node(index, cpu_ms=float(draw(st.integers(0, 9))), static=static)
        map_.add_edges_from((source, index) for source in draw(st.sets(st.integers(0, index), max_size=3)) - {index})
    return map_


@settings(deadline=None)
@given(maps())
def test_no_chain_takes_longer_than_the_critical_path(map_: nx.DiGraph) -> None:
    path = critical_path(map_)
    assert all(map_.has_edge(a, b) for a, b in pairwise(path))
    working = map_.subgraph([index for index in map_ if not map_.nodes[index]["static"]])
    assert set(path) <= set(working)
    chains = [chain for a in working for b in working if a != b for chain in nx.all_simple_paths(working, a, b)]
    times = [
        sum(map_.nodes[index]["cpu_ms"] for index in chain) for chain in [*chains, *([index] for index in working)]
    ]
    assert sum(map_.nodes[index]["cpu_ms"] for index in path) == max(times, default=0)


def test_without_layers_there_is_no_critical_path() -> None:
    assert critical_path(nx.DiGraph()) == ()
