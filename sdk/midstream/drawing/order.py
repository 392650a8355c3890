"""Sugiyama's method within the rows of a drawing: an order with few crossings, and places that keep lines straight."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from midstream.drawing.ranks import Link

Slot = tuple[Hashable, int]
"""A layer in its row, or its trunk in a later one."""

_SWEEPS = 12
_SLOTS_SWEPT = 200_000


@dataclass(frozen=True, slots=True)
class Rows:
    """The slots of every row from left to right, and the neighbours of each above and below, with their weights."""

    rows: tuple[tuple[Slot, ...], ...]
    above: Mapping[Slot, tuple[tuple[Slot, float], ...]]
    below: Mapping[Slot, tuple[tuple[Slot, float], ...]]


def ends(link: Link, ranks: Mapping[Hashable, int]) -> tuple[Slot, Slot]:
    """The slots that a link joins."""
    target = link.source if link.target is None else link.target
    return (link.source, link.gap), (target, link.gap + 1)


def order_rows(
    ranks: Mapping[Hashable, int],
    links: Sequence[Link],
    spine: Collection[tuple[Hashable, Hashable]],
    light: frozenset[Hashable],
) -> Rows:
    """The order with the fewest crossings that sweeping up and down finds; always the same one.

    Edges of the spine weigh most, what comes from ``light`` nodes, constants say, gives way to the rest.
    """
    above: dict[Slot, list[tuple[Slot, float]]] = {}
    below: dict[Slot, list[tuple[Slot, float]]] = {}
    slots: dict[Slot, None] = dict.fromkeys(ranks.items())
    for link in links:
        upper, lower = ends(link, ranks)
        slots[lower] = None
        weight = _weight(link, ranks, spine, light)
        above.setdefault(lower, []).append((upper, weight))
        below.setdefault(upper, []).append((lower, weight))
    frozen_above = {slot: tuple(near) for slot, near in above.items()}
    frozen_below = {slot: tuple(near) for slot, near in below.items()}
    rows: list[list[Slot]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for slot in _depth_first(slots, frozen_below):
        rows[slot[1]].append(slot)
    best = [tuple(row) for row in rows]
    fewest = _crossings(best, frozen_below)
    for sweep in range(sweeps(len(slots))):
        if fewest == 0:
            break
        _sweep(rows, frozen_below if sweep % 2 else frozen_above, up=bool(sweep % 2))
        crossings = _crossings(rows, frozen_below)
        if crossings < fewest:
            best, fewest = [tuple(row) for row in rows], crossings
    return Rows(tuple(best), frozen_above, frozen_below)


def _weight(
    link: Link,
    ranks: Mapping[Hashable, int],
    spine: Collection[tuple[Hashable, Hashable]],
    light: frozenset[Hashable],
) -> float:
    if link.source in light:
        return 0.25
    if any((link.source, target) in spine for target in link.targets):
        return 32.0
    inside_trunk = link.target is None and ranks[link.source] < link.gap
    return 4.0 if inside_trunk else 1.0


def sweeps(slots: int) -> int:
    """How often to sweep over so many slots: less often over very many."""
    return max(2, min(_SWEEPS, _SLOTS_SWEPT // max(slots, 1)))


def spread(wanted: Sequence[float], apart: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The places nearest to the wanted ones (least weighted squares) that keep order and distance.

    ``apart[i]`` is the least distance between places i and i + 1. Pool adjacent violators (Barlow et al. 1972).
    """
    shifts = np.concatenate([[0.0], np.cumsum(apart, dtype=float)])[: len(wanted)].tolist()
    pools: list[tuple[float, float, int]] = []
    for place, shift, weight in zip(wanted, shifts, weights, strict=True):
        mean, total, count = place - shift, weight, 1
        while pools and pools[-1][0] > mean:
            other, its, its_count = pools.pop()
            mean, total, count = (mean * total + other * its) / (total + its), total + its, count + its_count
        pools.append((mean, total, count))
    flat = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + shift for mean, shift in zip(flat, shifts, strict=True)]


def centres(rows: Rows, first: int, last: int, widths: Mapping[Slot, float], apart: float) -> dict[Slot, float]:
    """The centres of the slots of rows ``first`` to ``last``, which form one column; lines are kept straight."""
    part = rows.rows[first : last + 1]
    inside = {slot for row in part for slot in row}
    above = {slot: [near for near in rows.above.get(slot, ()) if near[0] in inside] for slot in inside}
    below = {slot: [near for near in rows.below.get(slot, ()) if near[0] in inside] for slot in inside}
    distances = [[(widths[a] + widths[b]) / 2 + apart for a, b in pairwise(row)] for row in part]
    x: dict[Slot, float] = {}
    for row, distance in zip(part, distances, strict=True):
        x.update(zip(row, np.concatenate([[0.0], np.cumsum(distance)]).tolist(), strict=False))
    for sweep in range(sweeps(len(inside))):
        up = sweep % 2 == 1
        for number in range(len(part) - 1, -1, -1) if up else range(len(part)):
            wanted, weights = [], []
            for slot in part[number]:
                near = (below if up else above)[slot] or (above if up else below)[slot]
                wanted.append(_weighted_median([(x[other], weight) for other, weight in near]) if near else x[slot])
                weights.append(max((weight for _, weight in near), default=0.1))
            x.update(zip(part[number], spread(wanted, distances[number], weights), strict=True))
    _draw_in(part, x, below, distances)
    return x


def _draw_in(
    part: Sequence[Sequence[Slot]],
    x: dict[Slot, float],
    below: Mapping[Slot, Sequence[tuple[Slot, float]]],
    distances: Sequence[Sequence[float]],
) -> None:
    """Bring trunks that pass the whole column without a branch, which nothing else draws, close to what is beside."""
    left, right = {}, {}
    for row, distance in zip(part, distances, strict=True):
        for a, b, least in zip(row, row[1:], distance, strict=False):
            right[a], left[b] = (b, least), (a, least)
    order = {slot: i for row in part for i, slot in enumerate(row)}
    passing = []
    for slot in part[0]:
        chain = [slot]
        while len(below[chain[-1]]) == 1:
            chain.append(below[chain[-1]][0][0])
        if len(chain) == len(part) and len({node for node, _ in chain}) == 1:
            passing.append(chain)
    middle = sorted(x.values())[len(x) // 2]
    for chain in sorted(passing, key=lambda chain: order[chain[0]]):
        if x[chain[0]] > middle:
            free = min((x[slot] - x[left[slot][0]] - left[slot][1] for slot in chain if slot in left), default=0.0)
            x.update({slot: x[slot] - free for slot in chain})
    for chain in sorted(passing, key=lambda chain: -order[chain[0]]):
        if x[chain[0]] < middle:
            free = min((x[right[slot][0]] - x[slot] - right[slot][1] for slot in chain if slot in right), default=0.0)
            x.update({slot: x[slot] + free for slot in chain})


def _depth_first(slots: Mapping[Slot, None], below: Mapping[Slot, tuple[tuple[Slot, float], ...]]) -> list[Slot]:
    """Slots in the order of a walk along the branches, so that a branch stays together."""
    entered = {lower for near in below.values() for lower, _ in near}
    waiting = [slot for slot in reversed(list(slots)) if slot not in entered]
    seen: dict[Slot, None] = {}
    while waiting:
        slot = waiting.pop()
        if slot not in seen:
            seen[slot] = None
            waiting.extend(lower for lower, _ in reversed(below.get(slot, ())))
    return list(seen)


def _sweep(rows: list[list[Slot]], near: Mapping[Slot, tuple[tuple[Slot, float], ...]], *, up: bool) -> None:
    for number in range(len(rows) - 2, -1, -1) if up else range(1, len(rows)):
        beside = rows[number + 1] if up else rows[number - 1]
        place = {slot: float(i) for i, slot in enumerate(beside)}
        row = rows[number]
        keys = []
        for i, slot in enumerate(row):
            known = near.get(slot, ())
            # A slot without neighbours stays about where it is.
            here = (i + 0.5) * len(beside) / len(row)
            keys.append(sum(place[other] for other, _ in known) / len(known) if known else here)
        rows[number] = [row[i] for i in sorted(range(len(row)), key=lambda i: keys[i])]


def _crossings(rows: Sequence[Sequence[Slot]], below: Mapping[Slot, tuple[tuple[Slot, float], ...]]) -> int:
    crossings = 0
    for upper, lower in pairwise(rows):
        place = {slot: i for i, slot in enumerate(lower)}
        seen: list[int] = []
        for slot in upper:
            reached = sorted(place[other] for other, _ in below.get(slot, ()))
            crossings += sum(len(seen) - bisect_right(seen, target) for target in reached)
            for target in reached:
                insort(seen, target)
    return crossings


def _weighted_median(places: list[tuple[float, float]]) -> float:
    """The middle place; between two of which neither outweighs the other, their mean."""
    if len(places) == 1:
        return places[0][0]
    places = sorted(places)
    half = sum(weight for _, weight in places) / 2
    passed = 0.0
    for number, (place, weight) in enumerate(places):
        passed += weight
        if passed == half:
            return (place + places[number + 1][0]) / 2
        if passed > half:
            return place
    return places[-1][0]
