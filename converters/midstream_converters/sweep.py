"""Which heads are the best somewhere: minimum cuts over link speeds, boards, gateways, loads and objectives.

Every shipped board is a device in front of each of two gateways, idle or three quarters loaded; the objective is
latency, the device's energy or throughput; the input, and what is linear in it, may leave the device or not. Links go
from 16 kbit/s to 1 Gbit/s, as fast down as up, and for latency and energy not by a grid: `MinCut.sweep` finds every
change of the best head between these two. The round trip is left out. It is the same for every cut, so it decides
between a cut and the whole model on the device, and never between two cuts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from midstream.profiles import Power, Profile, load_profile, profile_names
from midstream_converters.graph import ModelGraph
from midstream_converters.linear import revealing
from midstream_converters.mincut import Carried, Costs, Line, MinCut, Problem

GATEWAYS = ("x86-laptop", "x86-mini")
# A loaded machine takes 1 / (1 − load) times as long.
GATEWAY_LOADS = (0.0, 0.75)
LINK_KBPS = (16.0, 1e6)
# Link speeds at which throughput is compared, evenly in their logarithm; and latency, energy and throughput.
_PACES = 49
_OBJECTIVES = 3


@dataclass(frozen=True, slots=True)
class Network:
    """A model's layers as `MinCut` takes them: ``layers`` are their indices, static and unused ones left out.

    ``revealing`` are the places of those values of the problem that reveal an input of the model.
    """

    layers: tuple[int, ...]
    problem: Problem
    revealing: frozenset[int]

    def keeping_input(self) -> Problem:
        """The same, where no input of the model, and nothing that is linear in one, may leave the device."""
        kept = tuple(
            replace(value, bytes=math.inf) if place in self.revealing else value
            for place, value in enumerate(self.problem.values)
        )
        return replace(self.problem, values=kept)


def network_of(graph: ModelGraph, layers: Sequence[int]) -> Network:
    """The network of these layers of a model, ascending: those that run for some output, or keep a state."""
    place = {layer: number for number, layer in enumerate(layers)}
    readers: dict[str, list[int]] = {}
    for layer in layers:
        for value in dict.fromkeys(graph.nodes[layer].inputs):
            maker = graph.producer.get(value)
            if maker is None or maker in place:
                readers.setdefault(value, []).append(place[layer])
    values = tuple(
        Carried(
            place[graph.producer[key]] if key in graph.producer else None,
            tuple(read_by),
            math.inf if graph.values[key].spec is None else float(graph.values[key].bytes),
        )
        for key, read_by in readers.items()
    )
    replies = [0] * len(layers)
    for key in dict.fromkeys(graph.outputs):
        maker = graph.producer.get(key)
        if maker in place:
            replies[place[maker]] += graph.values[key].bytes
    pinned = frozenset(place[layer] for layer in layers if graph.nodes[layer].stateful)
    reveal = revealing(graph)
    kept = frozenset(place for place, key in enumerate(readers) if key in reveal)
    return Network(tuple(layers), Problem(tuple(replies), values, pinned), kept)


def layer_ms(graph: ModelGraph, layers: Sequence[int], profile: Profile) -> Costs:
    """Milliseconds of each layer on a board, as `Profile.predict_ms` gives them.

    Measured times are not used: with them the same model would not always give the same cuts.
    """
    int8 = any(
        v.spec is not None and v.spec.scale is not None and v.spec.dtype.itemsize == 1 for v in graph.values.values()
    )
    return np.array(
        [
            profile.predict_ms(node.macs, 1, output_bytes=graph.written_bytes(node), int8=int8)
            for node in (graph.nodes[layer] for layer in layers)
        ],
        dtype=np.float64,
    )


def best_heads(
    graph: ModelGraph,
    layers: Sequence[int],
    narrow: Sequence[tuple[int, ...]] = (),
) -> dict[tuple[int, ...], float]:
    """The heads that are the best somewhere in the sweep, as the model's layers, with their share of it.

    For latency and energy they are the best of all heads; for throughput, of the ``narrow`` ones. Each setting of
    machines, objective and constraint counts alike, and in it each tenfold of link speed. The whole model on one side
    is no head. Ties go to the shorter head.
    """
    if not layers:
        return {}
    network = network_of(graph, layers)
    pairs = list(_pairs(graph, layers))
    low, high = (8 / kbps for kbps in reversed(LINK_KBPS))
    won: dict[tuple[int, ...], float] = defaultdict(float)
    problems = (network.problem, network.keeping_input())
    for solver in map(MinCut, problems):
        for found in solver.sweeps((line for pair in pairs for line in pair.lines()), low, high):
            for best in found:
                head = tuple(network.layers[number] for number in np.flatnonzero(best.head))
                won[head] += math.log(best.high / best.low) / math.log(high / low)
        for head, share in _quickest_pace(solver, pairs, layers, sorted(narrow, key=len)).items():
            won[head] += share
    count = len(problems) * len(pairs) * _OBJECTIVES
    return {head: share / count for head, share in won.items() if 0 < len(head) < len(layers)}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A device's and a gateway's times of each layer in ms, and what the device draws."""

    device_ms: Costs
    gateway_ms: Costs
    power: Power

    def lines(self) -> tuple[Line, Line]:
        """Latency in ms, and the device's energy in mJ."""
        power = self.power
        energy = (power.busy_w * self.device_ms, power.idle_w * self.gateway_ms)
        return Line(self.device_ms, self.gateway_ms), Line(*energy, power.idle_w, power.radio_uj_per_byte / 1e3)


def _pairs(graph: ModelGraph, layers: Sequence[int]) -> Iterator[_Pair]:
    boards = {name: load_profile(name) for name in profile_names()}
    times = {name: layer_ms(graph, layers, board) for name, board in boards.items()}
    for device, board in boards.items():
        for gateway in GATEWAYS:
            for load in GATEWAY_LOADS:
                yield _Pair(times[device], times[gateway] / (1 - load), board.power)


def _quickest_pace(
    solver: MinCut, pairs: Sequence[_Pair], layers: Sequence[int], narrow: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], float]:
    """Of the whole model on either side and the narrow heads, those with the least time between two results.

    That time is the longest of the device's, the gateway's and the link's both ways: no sum, so no minimum cut. Each
    head is counted with the part of the link speeds at which it wins.
    """
    heads = [(), *narrow, tuple(layers)]
    inside = np.array([np.isin(layers, head) for head in heads])
    sent = np.array([solver.sent(head) for head in inside])
    possible = [index for index, size in enumerate(sent) if math.isfinite(size[0])]
    inside, sent = inside[possible], sent[possible]
    byte_ms = 8 / np.geomspace(*LINK_KBPS, _PACES)
    link_ms = sent.max(axis=1)[:, None] * byte_ms
    won: dict[tuple[int, ...], float] = defaultdict(float)
    for pair in pairs:
        machine_ms = np.maximum(inside @ pair.device_ms, ~inside @ pair.gateway_ms)
        for winner in np.argmin(np.maximum(machine_ms[:, None], link_ms), axis=0):
            won[heads[possible[winner]]] += 1 / _PACES
    return won
