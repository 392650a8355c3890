"""Where a model can be cut, and which of these places are worth keeping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from midstream_converters.graph import ModelGraph


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cut that may be kept: the layers of its head and the values that cross."""

    id: str
    head: tuple[int, ...]
    tail: tuple[int, ...]
    crossing: tuple[str, ...]
    payload_bytes: int
    head_macs: int


class Cutter:
    """Makes candidates of a graph."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._dynamic = [node.index for node in graph.nodes if not node.static]
        self._stateful = {node.index for node in graph.nodes if node.stateful}
        self._reach = _reaching(graph, set(graph.outputs), self._stateful)
        self._fixed_outputs = [
            graph.producer[v] for v in graph.outputs if v in graph.producer and graph.nodes[graph.producer[v]].static
        ]

    def candidates(self) -> list[Candidate]:
        """Every cut between two layers of the running order, several crossing values included, shortest head first.

        What layers with hidden state need comes first in this order, so that most cuts have all of them in the head.
        Left out are cuts at which a value cannot travel, at which nothing that depends on the input crosses, and those
        that would leave a layer with hidden state off the device.
        """
        first = _reaching(self._graph, set(), self._stateful)
        order = sorted(self._dynamic, key=lambda index: (index not in first, index))
        made = (self.candidate(f"c{length}", order[:length]) for length in range(1, len(order)))
        return [candidate for candidate in made if candidate is not None]

    def candidate(self, cut_id: str, head: Sequence[int]) -> Candidate | None:
        """The cut whose head runs these layers, static ones apart; None where it cannot be made."""
        graph, inside = self._graph, set(head)
        after = [index for index in self._dynamic if index not in inside and index in self._reach]
        if not after or not head or not self._stateful <= inside:
            return None
        tail = graph.with_static(after + self._fixed_outputs)
        crossing = graph.crossing(tail)
        values = [graph.values[value] for value in crossing]
        if all(value not in graph.producer for value in crossing) or any(value.spec is None for value in values):
            return None
        return Candidate(
            cut_id,
            graph.with_static(head),
            tail,
            crossing,
            sum(value.bytes for value in values),
            sum(graph.nodes[index].macs for index in head),
        )

    def moved_before(self, candidate: Candidate) -> Iterator[Candidate]:
        """The same cut with one crossing value not made yet: what makes it, and what follows, is in the tail."""
        graph = self._graph
        head = [index for index in candidate.head if not graph.nodes[index].static]
        for value in candidate.crossing:
            source = graph.producer.get(value)
            if source is None:
                continue
            left = {source}
            for index in head:
                if any(graph.producer.get(read) in left for read in graph.nodes[index].inputs):
                    left.add(index)
            moved = self.candidate(candidate.id, [index for index in head if index not in left])
            if moved is not None:
                yield moved


def rank_cuts(cuts: Sequence[Candidate]) -> list[Candidate]:
    """The most useful cuts first.

    First those that are the best for some ratio of compute to link speed (head work + ratio × payload is smallest),
    then those whose payload no shorter head undercuts, then the narrow places that lie furthest from the ones ranked
    before them.
    """
    if not cuts:
        return []
    work = np.array([cut.head_macs for cut in cuts], dtype=np.float64)
    size = np.array([cut.payload_bytes for cut in cuts], dtype=np.float64)
    work /= max(work.max(), 1.0)
    size /= max(size.max(), 1.0)
    ranked = dict.fromkeys(int(np.argmin(work + ratio * size)) for ratio in np.logspace(-3, 3, 49))
    best = np.inf
    for index, payload in enumerate(size):
        if payload < best:
            best = payload
            ranked.setdefault(index, None)
    order = list(ranked)
    rest = [index for index in range(len(cuts)) if index not in ranked]
    positions = np.arange(len(cuts)) / len(cuts)
    while rest:
        distance = np.min(np.abs(positions[rest][:, None] - positions[order][None, :]), axis=1)
        chosen = rest[int(np.argmax(distance - size[rest]))]
        order.append(chosen)
        rest.remove(chosen)
    return [cuts[index] for index in order]


def _reaching(graph: ModelGraph, values: set[str], layers: set[int]) -> set[int]:
    """Layers whose work ends in one of these values, or in one of these layers."""
    reaching: set[int] = set()
    wanted = set(values)
    for node in reversed(graph.nodes):
        if node.index in layers or not wanted.isdisjoint(node.outputs):
            reaching.add(node.index)
            wanted.update(node.inputs)
    return reaching
