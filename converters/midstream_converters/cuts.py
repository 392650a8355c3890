"""Where a model can be cut, and which of these places are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
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


def enumerate_cuts(graph: ModelGraph) -> list[Candidate]:
    """Every cut between two layers of the running order, several crossing values included, shortest head first.

    Left out are cuts at which a value cannot travel, at which nothing that depends on the input crosses, and those
    that would leave a layer with hidden state off the device.
    """
    dynamic = [node for node in graph.nodes if not node.static]
    fixed_outputs = [
        graph.producer[v] for v in graph.outputs if v in graph.producer and graph.nodes[graph.producer[v]].static
    ]
    last_stateful = max((i for i, node in enumerate(dynamic) if node.stateful), default=-1)
    reach = _reaching_outputs(graph)
    found = []
    head_macs = 0
    for position, node in enumerate(dynamic[:-1]):
        head_macs += node.macs
        if position < last_stateful:
            continue
        head = graph.with_static(node.index for node in dynamic[: position + 1])
        after = [node.index for node in dynamic[position + 1 :] if node.index in reach]
        if not after:
            break
        tail = graph.with_static(after + fixed_outputs)
        crossing = graph.crossing(tail)
        values = [graph.values[value] for value in crossing]
        made_here = any(value in graph.producer for value in crossing)
        if not made_here or any(value.spec is None for value in values):
            continue
        payload = sum(value.bytes for value in values)
        found.append(Candidate(f"c{position + 1}", head, tail, crossing, payload, head_macs))
    return found


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


def _reaching_outputs(graph: ModelGraph) -> set[int]:
    """Layers whose work ends in an output of the model."""
    reaching: set[int] = set()
    wanted = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.stateful or not wanted.isdisjoint(node.outputs):
            reaching.add(node.index)
            wanted.update(node.inputs)
    return reaching
