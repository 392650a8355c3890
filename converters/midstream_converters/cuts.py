"""Where a model can be cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from midstream_converters.graph import ModelGraph


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cut that may be kept: the layers of its head and the values that cross.

    ``reply_bytes`` are those of the model's outputs that its tail makes. ``share`` is how much of
    the sweep of machines and links it is the best in.
    """

    id: str
    head: tuple[int, ...]
    tail: tuple[int, ...]
    crossing: tuple[str, ...]
    payload_bytes: int
    reply_bytes: int
    share: float = 0.0


class Cutter:
    """Makes candidates of a graph. ``layers`` are those that it needs, static ones apart.

    ``order`` is the running order, static layers apart, where what layers with hidden state need comes first, so that
    most cuts have all of them in the head.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self._dynamic = [node.index for node in graph.nodes if not node.static]
        self._stateful = {node.index for node in graph.nodes if node.stateful}
        self._reach = _reaching(graph, set(graph.outputs), self._stateful)
        self._fixed_outputs = [
            graph.producer[v] for v in graph.outputs if v in graph.producer and graph.nodes[graph.producer[v]].static
        ]
        self.layers = [index for index in self._dynamic if index in self._reach]
        first = _reaching(graph, set(), self._stateful)
        self.order = sorted(self._dynamic, key=lambda index: (index not in first, index))

    def candidates(self) -> list[Candidate]:
        """Every cut between two layers of `order`, several crossing values included, shortest head first.

        Left out are cuts at which a value cannot travel, at which nothing that depends on the input crosses, and those
        that would leave a layer with hidden state off the device.
        """
        made = (self.after(length) for length in range(1, len(self.order)))
        return [candidate for candidate in made if candidate is not None]

    def after(self, length: int) -> Candidate | None:
        """The cut whose head runs so many layers of `order`; None where it cannot be made."""
        return self.candidate(f"c{length}", self.order[:length])

    def candidate(self, cut_id: str, head: Sequence[int]) -> Candidate | None:
        """The cut whose head runs these layers, static ones apart; None where it cannot be made."""
        graph, inside = self.graph, set(head)
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
            sum(
                graph.values[value].bytes for value in dict.fromkeys(graph.outputs) if graph.producer.get(value) in tail
            ),
        )

    def needed(self, head: Sequence[int]) -> tuple[int, ...]:
        """The layers of a head that the model needs, static ones apart."""
        inside = set(head)
        return tuple(index for index in self.layers if index in inside)

    def moved_after(self, candidate: Candidate, layers: int) -> Candidate | None:
        """The same cut some layers further on in the running order; None where there is none."""
        inside = set(candidate.head)
        following = [index for index in self.layers if index not in inside]
        head = [index for index in candidate.head if not self.graph.nodes[index].static]
        return self.candidate(candidate.id, head + following[:layers])

    def moved_before(self, candidate: Candidate) -> Iterator[Candidate]:
        """The same cut with one crossing value not made yet: what makes it, and what follows, is in the tail."""
        graph = self.graph
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


def _reaching(graph: ModelGraph, values: set[str], layers: set[int]) -> set[int]:
    """Layers whose work ends in one of these values, or in one of these layers."""
    reaching: set[int] = set()
    wanted = set(values)
    for node in reversed(graph.nodes):
        if node.index in layers or not wanted.isdisjoint(node.outputs):
            reaching.add(node.index)
            wanted.update(node.inputs)
    return reaching
