"""Where in a drawing each cut is marked: on which links, in which gap, one line a cut or a group of cuts.

A cut is a set of layers, the head, so it need not run straight across the page: with two branches side by side it may
be far down the one and far up the other. Each cut gets one line of its own in the gap that tells it apart best. What it
cuts elsewhere is marked there, on a line shared by all cuts that cut the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from midstream.drawing.ranks import Link


@dataclass(frozen=True, slots=True)
class Mark:
    """One line across the links of one gap: of one cut, or (``main`` is False) what several cut besides."""

    gap: int
    lane: int
    cuts: tuple[str, ...]
    links: tuple[Link, ...]
    main: bool


def place_marks(
    graph: nx.DiGraph,
    ranks: Mapping[Hashable, int],
    links: Sequence[Link],
    heads: Mapping[str, Collection[Hashable]],
    constants: Collection[Hashable] = (),
) -> list[Mark]:
    """The marks of the cuts with these heads, by gap and lane; every cut has exactly one main mark.

    ``constants`` are nodes whose values need not cross: both sides have them. A cut that crosses no edge (what it sends
    on is an input of the model) has a main mark without links, under its deepest layer.
    """
    routes = _routes(graph, ranks, links)
    edges = [(a, b) for a, b in graph.edges if a not in constants and b not in constants]
    crossed = {
        cut: [(a, b) for a, b in edges if a in head and b not in head]
        for cut, head in ((cut, frozenset(head)) for cut, head in heads.items())
    }
    shared = Counter(edge for cut in crossed.values() for edge in cut)
    load: Counter[int] = Counter()
    main: list[tuple[str, int, tuple[Link, ...]]] = []
    besides: dict[tuple[int, tuple[Link, ...]], list[str]] = {}
    for cut, across in crossed.items():
        head = frozenset(heads[cut])
        # Only where a trunk leads to nothing in the head is all of it cut.
        open_links = {edge: [link for link in routes[edge] if head.isdisjoint(link.targets)] for edge in across}
        if not across:
            deepest = max((ranks[node] for node in head if node in ranks), default=0)
            main.append((cut, deepest, ()))
            load[deepest] += 1
            continue
        own = min(across, key=lambda edge: (shared[edge], -ranks[edge[0]]))
        covers = Counter(gap for found in open_links.values() for gap in {link.gap for link in found})
        home = max((link.gap for link in open_links[own]), key=lambda gap: (covers[gap], -load[gap], -gap))
        load[home] += 1
        here: dict[Link, None] = {}
        there: dict[int, dict[Link, None]] = {}
        for edge in across:
            link = min(open_links[edge], key=lambda link: (abs(link.gap - home), link.gap))
            (here if link.gap == home else there.setdefault(link.gap, {}))[link] = None
        main.append((cut, home, tuple(here)))
        for gap, found in there.items():
            besides.setdefault((gap, tuple(found)), []).append(cut)
    return _in_lanes(main, besides)


def abridged(cuts: Sequence[str], order: Mapping[str, int]) -> str:
    """The names of some cuts in a few words: a run of three and more by its ends (``order`` numbers all cuts)."""
    runs: list[list[str]] = []
    for cut in cuts:
        if runs and order[cut] == order[runs[-1][-1]] + 1:
            runs[-1].append(cut)
        else:
            runs.append([cut])
    parts = [f"{run[0]}…{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs]
    return ", ".join(parts) if len(parts) <= 2 else f"{parts[0]}, {parts[1]} and {len(cuts)} in all"


def _routes(
    graph: nx.DiGraph, ranks: Mapping[Hashable, int], links: Sequence[Link]
) -> dict[tuple[Hashable, Hashable], list[Link]]:
    """The links that each edge runs along."""
    routes: dict[tuple[Hashable, Hashable], list[Link]] = {edge: [] for edge in graph.edges}
    for link in links:
        for target in link.targets:
            routes[link.source, target].append(link)
    return routes


def _in_lanes(
    main: Sequence[tuple[str, int, tuple[Link, ...]]], besides: Mapping[tuple[int, tuple[Link, ...]], Sequence[str]]
) -> list[Mark]:
    lanes: Counter[int] = Counter()
    marks = []
    for cut, gap, links in main:
        marks.append(Mark(gap, lanes[gap], (cut,), links, main=True))
        lanes[gap] += 1
    for (gap, links), cuts in besides.items():
        marks.append(Mark(gap, lanes[gap], tuple(cuts), links, main=False))
        lanes[gap] += 1
    return sorted(marks, key=lambda mark: (mark.gap, mark.lane))
