"""Rows, columns and lines of a drawing."""

from __future__ import annotations

import random
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.drawing.layout import Box, Lanes, Layout, lay_out
from midstream.drawing.order import spread
from midstream.drawing.ranks import find_links, find_ranks, find_spine


def placed(graph: nx.DiGraph, lanes: Lanes | None = None, aspect: float = 1.5) -> Layout:
    return lay_out(graph, find_ranks(graph), dict.fromkeys(graph, (90.0, 34.0)), lanes, aspect=aspect)


def overlap(a: Box, b: Box) -> bool:
    return a.x < b.right and b.x < a.right and a.y < b.bottom and b.y < a.bottom


def check(graph: nx.DiGraph) -> None:
    """No box on another or off the page, every edge drawn from box to box and forward, no line through a box."""
    layout = placed(graph)
    boxes = list(layout.boxes.items())
    assert {node for node, _ in boxes} == set(graph)
    for number, (_, box) in enumerate(boxes):
        assert box.x >= 0 and box.y >= 0 and box.right <= layout.width and box.bottom <= layout.height
        assert not any(overlap(box, other) for _, other in boxes[number + 1 :])
    ranks = find_ranks(graph)
    reached = {(line.link.source, line.link.target) for line in layout.lines if line.link.target is not None}
    assert reached == set(graph.edges)
    for a, b in graph.edges:
        assert ranks[a] < ranks[b]
        column, after = layout.column_of(ranks[a]), layout.column_of(ranks[b])
        assert column.area.x < after.area.x or layout.boxes[a].bottom < layout.boxes[b].y
    for line in layout.lines:
        for (x, y), (next_x, next_y) in pairwise(line.points):
            # An S stays within the rectangle of its ends.
            around = Box(min(x, next_x), min(y, next_y), abs(next_x - x), abs(next_y - y))
            assert around.x >= 0 and around.right <= layout.width and around.bottom <= layout.height
            inner = [Box(box.x, box.y + 0.1, box.width, box.height - 0.2) for _, box in boxes]
            assert not any(overlap(around, box) for box in inner)


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph:
    count = draw(st.integers(1, 24))
    graph = nx.DiGraph()
    graph.add_nodes_from(range(count))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    graph.add_edges_from((min(pair), max(pair)) for pair in draw(st.lists(pairs, max_size=50)) if pair[0] != pair[1])
    return graph


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_any_graph(graph: nx.DiGraph) -> None:
    check(graph)
    assert placed(graph) == placed(graph.copy())


def test_nothing_to_draw() -> None:
    layout = placed(nx.DiGraph())
    assert (layout.boxes, layout.lines, layout.columns) == ({}, (), ())


def test_one_layer() -> None:
    graph = nx.DiGraph()
    graph.add_node(0)
    check(graph)


def test_a_long_chain_becomes_a_page() -> None:
    layout = placed(nx.path_graph(1000, nx.DiGraph))
    assert 1.1 < layout.width / layout.height < 2.0
    # Each column is one straight line.
    for column in layout.columns:
        assert len({box.x for node, box in layout.boxes.items() if column.first <= node <= column.last}) == 1


def test_a_wide_graph_is_broken_into_rows() -> None:
    graph = nx.DiGraph([("start", branch) for branch in range(300)] + [(branch, "end") for branch in range(300)])
    check(graph)
    layout = placed(graph)
    assert layout.width < 20_000


def test_branches_stand_side_by_side() -> None:
    layout = placed(nx.DiGraph([(0, 1), (1, 3), (0, 2), (2, 3)]))
    assert layout.boxes[1].y == layout.boxes[2].y


def test_a_skipped_chain_stays_straight() -> None:
    graph = nx.path_graph(7, nx.DiGraph)
    graph.add_edge(1, 5)
    layout = lay_out(graph, find_ranks(graph), dict.fromkeys(graph, (90.0, 34.0)), aspect=0.2)
    middles = [box.x + box.width / 2 for box in layout.boxes.values()]
    assert max(middles) - min(middles) < 3
    assert find_spine(graph) == set(nx.path_graph(7, nx.DiGraph).edges)


def test_constants_stand_before_what_takes_them() -> None:
    graph = nx.path_graph(9, nx.DiGraph)
    graph.add_edge("constant", "reshaped")
    graph.add_edge("reshaped", 6)
    ranks = find_ranks(graph)
    assert (ranks["constant"], ranks["reshaped"]) == (4, 5)


def test_several_constants_for_one_node_stand_above_each_other() -> None:
    graph = nx.path_graph(4, nx.DiGraph)
    graph.add_nodes_from("abcde", static=True)
    graph.add_edges_from((constant, 3) for constant in "abcde")
    ranks = find_ranks(graph)
    assert sorted(ranks[constant] for constant in "abcde") == [0, 0, 0, 1, 2]
    check(graph)


def test_one_tensor_is_one_trunk() -> None:
    graph = nx.path_graph(6, nx.DiGraph)
    graph.add_edges_from([(0, 3), (0, 5)])
    links = [link for link in find_links(graph, find_ranks(graph)) if link.source == 0]
    assert [(link.gap, link.target, link.targets) for link in links] == [
        (0, 1, (1,)),
        (0, None, (3, 5)),
        (1, None, (3, 5)),
        (2, 3, (3,)),
        (2, None, (5,)),
        (3, None, (5,)),
        (4, 5, (5,)),
    ]


def test_lanes_make_room() -> None:
    graph = nx.path_graph(2, nx.DiGraph)
    narrow, wide = placed(graph), placed(graph, Lanes({0: 10}, {0: 300.0}))
    assert wide.boxes[1].y - narrow.boxes[1].y > 9 * 14
    assert wide.width > wide.words[0] + 300
    assert narrow.boxes[0].bottom < narrow.lane_y(0, 0) < narrow.boxes[1].y
    assert wide.boxes[0].bottom < wide.lane_y(0, 9) < wide.boxes[1].y


def test_small_words_stand_between_the_rows_whatever_the_lanes() -> None:
    layout = placed(nx.path_graph(2, nx.DiGraph), Lanes(height=28.0))
    assert layout.boxes[0].bottom + 5 < layout.beside_y(0) < layout.boxes[1].y - 5


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        find_ranks(nx.DiGraph([(0, 1), (1, 0)]))


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0.1, 10)), min_size=1, max_size=12))
def test_spread_keeps_order_and_distance(wanted: list[tuple[float, float]]) -> None:
    places = [place for place, _ in wanted]
    moved = spread(places, [5.0] * (len(places) - 1), [weight for _, weight in wanted])
    assert all(b - a >= 5 - 1e-9 for a, b in pairwise(moved))
    if all(b - a >= 5 for a, b in pairwise(places)):
        assert moved == pytest.approx(places)


def test_a_large_tangle_is_drawn() -> None:
    chance = random.Random(1)
    graph = nx.path_graph(200, nx.DiGraph)
    graph.add_edges_from((a, min(a + chance.randrange(2, 40), 199)) for a in range(0, 190, 2))
    check(graph)
