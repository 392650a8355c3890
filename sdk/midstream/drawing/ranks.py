"""The rows of a drawing: which layer stands in which, and what runs from each row to the next.

A layer's values go down one trunk however many layers take them, so that a tensor is one line with branches. Row
``r`` and what lies under it, gap ``r``, share their number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import networkx as nx


@dataclass(frozen=True, slots=True)
class Link:
    """What crosses one gap: from ``source``, or the trunk that began there, to ``target``, or on down the trunk (None).

    ``targets`` are all layers that this link leads to, at once or further down.
    """

    source: Hashable
    gap: int
    target: Hashable | None
    targets: tuple[Hashable, ...]


def find_ranks(graph: nx.DiGraph) -> dict[Hashable, int]:
    """The row of every node, from 0 without a row left out, so that every edge leads to a later row.

    Nodes stand as early as possible, but constants and side inputs right before what takes them, several ``static``
    ones for the same node above each other, and no row holds more than about 1.5·√nodes of them. Raises ValueError
    where the graph has a cycle.
    """
    if not nx.is_directed_acyclic_graph(graph):
        raise ValueError("a graph with a cycle has no order to draw it in")
    order = list(nx.topological_sort(graph))
    late = _as_late_as_useful(graph, order)
    # Sorted by row, every node still comes after those before it.
    most = max(8, math.ceil(1.5 * math.sqrt(len(order))))
    ranks: dict[Hashable, int] = {}
    filled: Counter[int] = Counter()
    for node in sorted(graph, key=lambda node: late[node]):
        rank = max([late[node], *(ranks[before] + 1 for before in graph.predecessors(node))])
        while filled[rank] >= most:
            rank += 1
        ranks[node] = rank
        filled[rank] += 1
    used = {rank: row for row, rank in enumerate(sorted(filled))}
    return {node: used[ranks[node]] for node in graph}


def _as_late_as_useful(graph: nx.DiGraph, order: Sequence[Hashable]) -> dict[Hashable, int]:
    early: dict[Hashable, int] = {}
    loose: dict[Hashable, bool] = {}
    for node in order:
        before = list(graph.predecessors(node))
        early[node] = max((early[other] + 1 for other in before), default=0)
        loose[node] = all(loose[other] and graph.out_degree(other) == 1 for other in before)
    late = dict(early)
    beside: Counter[Hashable] = Counter()
    for node in reversed(order):
        if loose[node] and graph.out_degree(node):
            first = min(graph.successors(node), key=lambda after: late[after])
            late[node] = late[first] - 1
            if graph.nodes[node].get("static") and not graph.in_degree(node):
                late[node] = max(0, late[node] - beside[first])
                beside[first] += 1
    return late


def find_links(graph: nx.DiGraph, ranks: dict[Hashable, int]) -> list[Link]:
    """All links of all trunks, by gap."""
    links = []
    place = {node: number for number, node in enumerate(graph)}
    for source in graph:
        ahead = sorted(graph.successors(source), key=lambda target: (ranks[target], place[target]))
        gap = ranks[source]
        while ahead:
            here = [target for target in ahead if ranks[target] == gap + 1]
            ahead = ahead[len(here) :]
            links += [Link(source, gap, target, (target,)) for target in here]
            onward = tuple(ahead)
            until = ranks[ahead[0]] if ahead else 0
            # Between two branches the trunk leads to the same layers.
            while ahead and gap + 1 < until:
                links.append(Link(source, gap, None, onward))
                gap += 1
    return sorted(links, key=lambda link: link.gap)


def find_spine(graph: nx.DiGraph) -> set[tuple[Hashable, Hashable]]:
    """The edges that are to be drawn straight: on the longest way to their end and from their beginning.

    They form paths without a common node.
    """
    order = list(nx.topological_sort(graph))
    depth: dict[Hashable, int] = {}
    height: dict[Hashable, int] = {}
    for node in order:
        depth[node] = 1 + max((depth[other] for other in graph.predecessors(node)), default=0)
    for node in reversed(order):
        height[node] = 1 + max((height[other] for other in graph.successors(node)), default=0)
    place = {node: number for number, node in enumerate(graph)}
    before, after = {}, {}
    for node in graph:
        before[node] = max(graph.predecessors(node), key=lambda other: (depth[other], -place[other]), default=None)
        after[node] = max(graph.successors(node), key=lambda other: (height[other], -place[other]), default=None)
    return {(a, b) for a, b in graph.edges if after[a] == b and before[b] == a}
