"""Where cuts are marked."""

from __future__ import annotations

import networkx as nx
import pytest

from midstream.drawing.marks import Mark, abridged, place_marks
from midstream.drawing.ranks import find_links, find_ranks


def marked(graph: nx.DiGraph, heads: dict[str, list[int]], constants: frozenset[int] = frozenset()) -> list[Mark]:
    ranks = find_ranks(graph)
    return place_marks(graph, ranks, find_links(graph, ranks), heads, constants)


def test_a_chain_is_cut_between_its_rows() -> None:
    marks = marked(nx.path_graph(4, nx.DiGraph), {"a": [0], "b": [0, 1, 2]})
    assert [(mark.gap, mark.cuts, mark.main, len(mark.links)) for mark in marks] == [
        (0, ("a",), True, 1),
        (2, ("b",), True, 1),
    ]


def test_a_skipping_tensor_is_cut_beside_its_layers() -> None:
    graph = nx.path_graph(5, nx.DiGraph)
    graph.add_edge(0, 4)
    marks = marked(graph, {f"c{n}": list(range(n)) for n in (2, 3)})
    assert [(mark.gap, mark.cuts, len(mark.links)) for mark in marks] == [(1, ("c2",), 2), (2, ("c3",), 2)]


def test_branches_on_different_sides_are_marked_apart() -> None:
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 8), (0, 4), (4, 5), (5, 6), (6, 8)])
    marks = marked(graph, {"early": [0, 1, 2, 3], "late": [0, 1, 2, 3, 4]})
    assert [(mark.gap, mark.cuts, mark.main) for mark in marks] == [
        (0, ("early",), True),
        (1, ("late",), True),
        (3, ("early", "late"), False),
    ]


@pytest.mark.parametrize("head", [[0], [0, 1], [0, 1, 2], [0, 2], [0, 1, 2, 3]])
def test_every_crossing_edge_and_no_other_is_marked(head: list[int]) -> None:
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4), (2, 4)])
    marks = marked(graph, {"c": head})
    told = {(link.source, target) for mark in marks for link in mark.links for target in link.targets}
    assert told == {(a, b) for a, b in graph.edges if a in head and b not in head}
    assert sum(mark.main for mark in marks) == 1


def test_constants_do_not_cross() -> None:
    graph = nx.DiGraph([(0, 2), (1, 2)])
    (mark,) = marked(graph, {"c": [0, 1]}, frozenset([1]))
    assert [link.source for link in mark.links] == [0]


def test_a_cut_of_the_input_alone_is_still_there() -> None:
    graph = nx.DiGraph()
    graph.add_nodes_from([0, 1])
    (mark,) = marked(graph, {"c": [0]})
    assert (mark.gap, mark.links, mark.main) == (0, (), True)


def test_names_in_few_words() -> None:
    order = {f"c{number}": number for number in range(20)}
    assert abridged(["c3"], order) == "c3"
    assert abridged(["c3", "c4"], order) == "c3, c4"
    assert abridged(["c3", "c4", "c5", "c9"], order) == "c3…c5, c9"
    assert abridged(["c1", "c3", "c5", "c9"], order) == "c1, c3 and 4 in all"
