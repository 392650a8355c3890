"""The sweep of machines and links, against every head there is on random models."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from midstream.profiles import load_profile, profile_names
from midstream_converters.cuts import Cutter
from midstream_converters.graph import ModelGraph
from midstream_converters.mincut import MinCut, Prices
from midstream_converters.sweep import GATEWAY_LOADS, GATEWAYS, LINK_KBPS, best_heads, layer_ms, network_of

from .layered import graphs, made

# Kilobytes and millions of MACs: both the links and the machines matter.
BUSY = {"x": 150_000, "a": 90_000, "b": 40_000, "c": 4000}


def closed(graph: ModelGraph, layers: list[int]) -> list[frozenset[int]]:
    """Every set of these layers that holds, with a layer, all of them that it reads from."""
    found = [frozenset[int]()]
    for layer in layers:
        before = {graph.producer[v] for v in graph.nodes[layer].inputs if v in graph.producer} & set(layers)
        found += [head | {layer} for head in found if before <= head]
    return found


@settings(deadline=None, max_examples=15)
@given(
    graphs(),
    st.integers(10, 10**6),
    st.lists(
        st.tuples(
            st.sampled_from(profile_names()), st.sampled_from(GATEWAYS), st.sampled_from(GATEWAY_LOADS), st.floats(0, 1)
        ),
        min_size=4,
        max_size=4,
    ),
    st.booleans(),
    st.booleans(),
)
def test_what_is_the_best_anywhere_is_found(
    graph: ModelGraph, size: int, places: list[tuple[str, str, float, float]], energy: bool, keep: bool
) -> None:
    graph = heavier(graph, size)
    layers = Cutter(graph).layers
    assume(layers)
    found = best_heads(graph, layers)
    assert all(0 < share <= 1 for share in found.values())
    assert sum(found.values()) <= 1 + 1e-9
    network = network_of(graph, layers)
    solver = MinCut(network.keeping_input() if keep else network.problem)
    for device, gateway, load, place in places:
        board = load_profile(device)
        here, there = layer_ms(graph, layers, board), layer_ms(graph, layers, load_profile(gateway)) / (1 - load)
        byte = 8 / (LINK_KBPS[0] * (LINK_KBPS[1] / LINK_KBPS[0]) ** place)
        if energy:
            here, there = here * board.power.busy_w, there * board.power.idle_w
            byte = byte * board.power.idle_w + board.power.radio_uj_per_byte / 1e3
        prices = Prices(here, there, byte, byte)

        def cost(head: frozenset[int] | tuple[int, ...], prices: Prices = prices) -> float:
            return solver.cost(np.isin(layers, list(head)), prices)

        least = min(map(cost, closed(graph, layers)))
        assert min(map(cost, [*found, (), tuple(layers)])) <= least + 1e-5 * sum(here)


def heavier(graph: ModelGraph, size: int) -> ModelGraph:
    """The same graph with values and layers this many times as large."""
    values = {key: type(value)(value.spec, value.bytes * size) for key, value in graph.values.items()}
    nodes = tuple(replace(node, name="", macs=node.macs * size) for node in graph.nodes)
    return ModelGraph(nodes, graph.inputs, graph.outputs, values)


def test_a_network_has_the_needed_layers_and_what_flows_between_them() -> None:
    graph = made("b d", "k =static=", "a =state= x k", "b =relu= a y", "dead = b", "d = a b k", sizes={"b": 7, "d": 9})
    layers = Cutter(graph).layers
    assert layers == [1, 2, 4]
    network = network_of(graph, layers)
    shown = [(value.maker, value.readers, value.bytes) for value in network.problem.values]
    assert shown == [(None, (0,), 4), (0, (1, 2), 4), (None, (1,), 4), (1, (2,), 7)]
    assert (network.problem.reply_bytes, network.problem.pinned) == ((0, 7, 9), {0})
    kept = network.keeping_input()
    assert [math.isinf(value.bytes) for value in kept.values] == [True, True, True, False]


def test_times_are_the_profile_s() -> None:
    graph = heavier(made("c", "a = x", "b = a", "c = b", sizes=BUSY), 10)
    board = load_profile("pi4")
    predicted = layer_ms(graph, [0, 1, 2], board)
    assert predicted.tolist() == [board.predict_ms(100, 1, output_bytes=10 * BUSY[value]) for value in "abc"]


def test_narrow_heads_can_be_the_best_for_throughput() -> None:
    """A gateway that is the slower one: for latency nothing leaves the device, but two machines take turns."""
    graph = heavier(made("c", "a = x", "b = a", "c = b", sizes={"x": 9, "a": 1, "b": 2, "c": 1}), 10**6)
    layers = [0, 1, 2]
    assert best_heads(graph, layers, [(0, 1)]).get((0, 1), 0.0) > best_heads(graph, layers).get((0, 1), 0.0)


def test_a_model_without_layers_that_run_has_no_heads() -> None:
    assert best_heads(made("a", "a =static="), []) == {}


def test_a_thousand_layers_with_branches() -> None:
    random = np.random.default_rng(0)
    names = ["x"]
    layers, sizes = [], {"x": 600_000}
    for index in range(1000):
        reads = {names[max(0, len(names) - 1 - int(back))] for back in random.integers(0, 4, size=2)}
        names.append(f"v{index}")
        layers.append(f"v{index} = {' '.join(sorted(reads))}")
        sizes[names[-1]] = int(10 ** random.uniform(3, 6) * (1 - index / 1100))
    graph = made(names[-1], *layers, sizes=sizes)
    found = best_heads(graph, Cutter(graph).layers)
    assert found
