"""The minimum cut: which layers belong on the device at given speeds of machines and link, and the sweep over links.

A head is any set of layers that holds, with a layer, all that it reads from. Its cost is the device's for the head,
the gateway's for the tail, and the link's for every value that crosses, once however many layers read it. That is an
s-t cut of this network, s being the device's side (Hu et al., *Dynamic adaptive DNN surgery for inference acceleration
on the edge*, INFOCOM 2019):

    s → layer       the gateway's cost of the layer and of its reply; without limit where it is pinned to the device
    layer → t       the device's cost of the layer
    maker → value   bytes · cost of a byte up; the maker of a model input is s
    value → reader  without limit: who reads here has the value here
    reader → maker  without limit: nothing flows back

The cost is linear in what a byte costs, so the best heads over a range of links are the lower envelope of lines, which
`sweep` finds whole by cutting where two known lines meet (Eisner and Severance, J. ACM 23, 1976). Where the device is
nowhere faster than the gateway, growing byte costs only lower a capacity at t against the others, so the smallest
minimum cuts grow with them (Gallo, Grigoriadis and Tarjan, SIAM J. Comput. 18, 1989): between two known heads only the
layers in which they differ are still open.

Most layers of a model stay beside another whatever the link, and are drawn together with it before anything is solved
(`joined`). Networks that share s and t alone are one network to a solver of flows, so several sweeps go forward
together: for a small model most of a call is what scipy does around the flow.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Head = NDArray[np.bool_]
Costs = NDArray[np.float64]

# Integer capacities: the flow is at most about the first, and an edge of the second is in no minimum cut. Both leave
# room in int32 for what the residual network adds. Rounding is half a unit an edge: 1e-6 of the total at 1,000 layers.
_FLOW_LIMIT = 1 << 29
_NO_LIMIT = 1 << 30
# A bound of nothing is taken for this: then whatever costs anything is in no minimum cut.
_LEAST = 1e-200
# Two lines this close are one: the cost is a sum of thousands of floats.
_SAME = 1e-9
# Edges of the networks that are solved in one call; one network may have more.
_TOGETHER = 30_000


@dataclass(frozen=True, slots=True)
class Carried:
    """A value that layers read: who makes it (None: an input of the model), who reads it, and its bytes.

    ``bytes`` is infinite where the value cannot travel.
    """

    maker: int | None
    readers: tuple[int, ...]
    bytes: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Layers 0 to n − 1 in running order, without those that are free on both sides.

    ``reply_bytes`` are those of the model's outputs that each layer makes: the gateway sends them back. Layers of
    ``pinned`` run on the device.
    """

    reply_bytes: tuple[int, ...]
    values: tuple[Carried, ...]
    pinned: frozenset[int]


@dataclass(frozen=True, slots=True)
class Prices:
    """What each layer costs on the device and on the gateway, and a byte up and down: in ms, or in any one unit."""

    device: Costs
    gateway: Costs
    up: float
    down: float


@dataclass(frozen=True, slots=True)
class Best:
    """A head that is the best where a byte takes between ``low`` and ``high`` ms."""

    head: Head
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """A sweep's costs: ``device`` and ``gateway`` a layer, and ``waiting`` · ms of a byte + ``radio`` a byte."""

    device: Costs
    gateway: Costs
    waiting: float = 1.0
    radio: float = 0.0

    def prices(self, byte_ms: float) -> Prices:
        """The costs on a link where a byte takes this long, in both directions."""
        byte = self.waiting * byte_ms + self.radio
        return Prices(self.device, self.gateway, byte, byte)


@dataclass(frozen=True, slots=True)
class _Question:
    """What `MinCut.solve` is asked."""

    prices: Prices
    inside: Head | None = None
    outside: Head | None = None


def joined(problem: Problem, slower: Head) -> NDArray[np.intp]:
    """For each layer, the last of those with which it is on the same side in every smallest minimum cut.

    ``slower`` layers take at least as long on the device as on the gateway. Where all that some of them write goes to
    one other layer, and is no less than what they read and this layer does not, a head that ends between is never
    worse without them: more of the work is at the gateway and no more bytes cross. So they go where that layer goes,
    and the same holds of those before, with both as one.
    """
    layers = len(problem.reply_bytes)
    sizes = [value.bytes for value in problem.values]
    readers = [set(value.readers) for value in problem.values]
    reads, writes = [[set[int]() for _ in range(layers)] for _ in range(2)]
    for index, value in enumerate(problem.values):
        for reader in value.readers:
            reads[reader].add(index)
        if value.maker is not None and value.readers:
            writes[value.maker].add(index)
    found = np.arange(layers)
    open_ = [i for i in np.flatnonzero(slower).tolist() if not problem.reply_bytes[i] and i not in problem.pinned]
    while True:
        left = []
        for layer in reversed(open_):
            into = set[int]().union(*(readers[index] for index in writes[layer]))
            last = next(iter(into), layer)
            more = sum(sizes[index] for index in reads[layer] - reads[last])
            if len(into) != 1 or more > sum(sizes[index] for index in writes[layer]):
                left.append(layer)
                continue
            found[layer] = last
            for index in reads[layer]:
                readers[index] = readers[index] - {layer} | into
            reads[last] = (reads[last] | reads[layer]) - writes[layer]
        if len(left) == len(open_):
            break
        open_ = left[::-1]
    for layer in reversed(range(layers)):
        found[layer] = found[found[layer]]
    return found


class MinCut:
    """Minimum cuts of one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known_joined: dict[bytes, NDArray[np.intp]] = {}
        values, self.layers = [value for value in problem.values if value.readers], len(problem.reply_bytes)
        self._replies = np.array(problem.reply_bytes, dtype=np.float64)
        self._pinned = np.zeros(self.layers, dtype=np.bool_)
        self._pinned[list(problem.pinned)] = True
        self._makers = np.array([-1 if value.maker is None else value.maker for value in values], dtype=np.intp)
        self._bytes = np.array([value.bytes for value in values], dtype=np.float64)
        pairs = [(index, reader) for index, value in enumerate(values) for reader in value.readers]
        self._read, self._readers = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        self._first = np.array([value.readers[0] for value in values], dtype=np.intp)

    def cost(self, head: Head, prices: Prices) -> float:
        """What this head and its tail cost together; infinite where it cannot be."""
        up, down = self.sent(head)
        if np.isinf(up):
            return up
        work = prices.device[head].sum() + prices.gateway[~head].sum()
        return float(work + prices.up * up + prices.down * down)

    def sent(self, head: Head) -> tuple[float, float]:
        """The bytes that go up and come back with this head; infinite up where it cannot be."""
        up = np.inf if np.any(self._pinned & ~head) else self._bytes[self._crosses(head)].sum()
        return float(up), float(self._replies[~head].sum())

    def solve(self, prices: Prices, inside: Head | None = None, outside: Head | None = None) -> Head:
        """The smallest head of the least cost; all layers on the device where nothing else can be.

        ``inside`` layers are known to be in it and ``outside`` ones are not; both as they can be in a head and a tail.
        """
        return self._solve([_Question(prices, inside, outside)])[0]

    def sweep(self, line: Line, low: float, high: float) -> list[Best]:
        """Every head that is the best for some time of a byte from ``low`` to ``high`` ms, in this order."""
        return self.sweeps([line], low, high)[0]

    def sweeps(self, lines: Iterable[Line], low: float, high: float) -> list[list[Best]]:
        """`sweep` of each line."""
        running = [self._sweep(line, low, high) for line in lines]
        found: list[list[Best]] = [[] for _ in running]
        asked = {number: next(sweep) for number, sweep in enumerate(running)}
        while asked:
            heads = self._solve(list(asked.values()))
            for number, head in zip(list(asked), heads, strict=True):
                try:
                    asked[number] = running[number].send(head)
                except StopIteration as ended:
                    found[number] = ended.value
                    del asked[number]
        return found

    def _sweep(self, line: Line, low: float, high: float) -> Generator[_Question, Head, list[Best]]:
        """Yields what is to be solved next, and is sent the head."""
        nested = bool(np.all(line.device >= line.gateway))
        found = [(low, (yield _Question(line.prices(low))))]
        pending = [(high, (yield _Question(line.prices(high))))]
        while pending:
            (start, first), (end, second) = found[-1], pending[-1]
            meet = self._meet(line, first, second)
            between = None
            if meet is not None and start < meet < end:
                known = (first & second, ~(first | second)) if nested else (None, None)
                between = yield _Question(line.prices(meet), *known)
                reached = self.cost(first, line.prices(meet))
                if self.cost(between, line.prices(meet)) >= reached * (1 - _SAME):
                    between = None
            if between is not None and meet is not None:
                pending.append((meet, between))
                continue
            pending.pop()
            if meet is not None:
                found.append((min(max(meet, start), end), second))
        bounds = [start for start, _ in found] + [high]
        return [Best(head, bounds[index], bounds[index + 1]) for index, (_, head) in enumerate(found)]

    def _meet(self, line: Line, first: Head, second: Head) -> float | None:
        """The ms of a byte at which two heads cost the same; None where more bytes do not cross the first."""
        base = [self.cost(head, line.prices(0.0)) for head in (first, second)]
        slope = [
            self.cost(head, line.prices(1.0)) - at_zero for head, at_zero in zip((first, second), base, strict=True)
        ]
        return (base[1] - base[0]) / (slope[0] - slope[1]) if slope[0] > slope[1] else None

    def _crosses(self, head: Head) -> Head:
        """Which values the tail reads and does not make."""
        crosses = np.zeros(len(self._makers), dtype=np.bool_)
        crosses[self._read[~head[self._readers]]] = True
        made_here = (self._makers < 0) | head[self._makers]
        return np.asarray(crosses & made_here)

    def _solve(self, questions: Sequence[_Question]) -> list[Head]:
        """The answer to each question."""
        edges = 2 * self.layers + len(self._makers) + 2 * len(self._read)
        count = max(1, _TOGETHER // max(1, edges))
        parts = (questions[first : first + count] for first in range(0, len(questions), count))
        return [head for part in parts for head in self._solve_together(part)]

    def _solve_together(self, questions: Sequence[_Question]) -> Head:
        """The answers, one a row, from one network in which those of the questions lie beside each other."""
        labels = self._labels(questions)
        starts, ends, costs = self._edges(questions, labels)
        size = max(2, int(labels.max(initial=1)) + 1)
        network = csr_matrix(coo_array((costs, (starts, ends)), shape=(size, size)))
        network.data = np.minimum(np.rint(network.data), _NO_LIMIT).astype(np.int32)
        network.eliminate_zeros()
        residual = network - maximum_flow(network, 0, 1).flow
        residual.eliminate_zeros()
        reached = np.zeros(size, dtype=np.bool_)
        reached[breadth_first_order(residual, 0, return_predecessors=False)] = True
        return np.asarray(reached[labels[:, : self.layers]])

    def _labels(self, questions: Sequence[_Question]) -> NDArray[np.intp]:
        """A row a question: the node of each layer, then of each value.

        0 is the device's side and 1 the gateway's of every question; the others are open, and no other question's.
        Joined layers are one node, and a value that one node reads is that node.
        """
        joined_ = np.array([self._joined(one.prices) for one in questions])
        nowhere = np.zeros(self.layers, dtype=np.bool_)
        inside = np.array([nowhere if one.inside is None else one.inside for one in questions]) | self._pinned
        outside = np.array([nowhere if one.outside is None else one.outside for one in questions]) & ~inside
        inside, outside = _spread(inside, joined_), _spread(outside, joined_)
        shared = self._read_by(joined_[:, self._readers] != joined_[:, self._first[self._read]])
        labels = np.full((len(questions), self.layers + len(self._makers)), -1, dtype=np.intp)
        layers, values = labels[:, : self.layers], labels[:, self.layers :]
        layers[inside] = 0
        layers[outside] = 1
        values[~self._read_by(~inside[:, self._readers])] = 0
        values[self._read_by(outside[:, self._readers])] = 1
        open_ = labels < 0
        open_[:, : self.layers] &= joined_ == np.arange(self.layers)
        open_[:, self.layers :] &= shared
        labels[open_] = np.arange(2, 2 + np.count_nonzero(open_))
        layers[:] = np.take_along_axis(layers, joined_, axis=1)
        values[:] = np.where(shared, values, layers[:, self._first])
        return labels

    def _joined(self, prices: Prices) -> NDArray[np.intp]:
        slower = prices.device >= prices.gateway
        key = slower.tobytes()
        if key not in self._known_joined:
            self._known_joined[key] = joined(self._problem, slower)
        return self._known_joined[key]

    def _read_by(self, pairs: Head) -> Head:
        """Which values are read in some of these pairs of value and reader, row by row."""
        found = np.zeros((len(pairs), len(self._makers)), dtype=np.bool_)
        row, pair = np.nonzero(pairs)
        found[row, self._read[pair]] = True
        return found

    def _edges(
        self, questions: Sequence[_Question], labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Costs]:
        """The edges of all networks, a layer's two less what both have in common; none within a node.

        Costs are in units of each network's own, in which its flow is at most about `_FLOW_LIMIT`.
        """
        layers, values = labels[:, : self.layers], labels[:, self.layers :]
        prices = [one.prices for one in questions]
        up, down = (np.array([[getattr(one, way)] for one in prices]) for way in ("up", "down"))
        gain = np.array([one.device - one.gateway for one in prices]) - down * self._replies
        source, sink = np.zeros_like(layers), np.ones_like(layers)
        made = self._makers >= 0
        makers = np.where(made, layers[:, self._makers], 0)
        back = made[self._read]
        unlimited = np.full((len(prices), len(self._read)), np.inf)
        starts = (source, layers, makers, values[:, self._read], layers[:, self._readers[back]])
        ends = (layers, sink, values, layers[:, self._readers], makers[:, self._read[back]])
        sent = np.where(np.isinf(self._bytes), np.inf, up * np.where(np.isinf(self._bytes), 0.0, self._bytes))
        costs = (np.maximum(-gain, 0.0), np.maximum(gain, 0.0), sent, unlimited, unlimited[:, back])
        start, end, cost = (np.concatenate(parts, axis=1) for parts in (starts, ends, costs))
        kept = (start != end) & (start != 1) & (end != 0) & (cost > 0) & ~((start == 0) & (end == 1))
        bounds = [np.where(kept & some, cost, 0.0).sum(axis=1) for some in (end == 1, start == 0, np.isfinite(cost))]
        scaled = cost * (_FLOW_LIMIT / np.maximum(np.min(bounds, axis=0), _LEAST))[:, None]
        return start[kept], end[kept], scaled[kept]


def _spread(some: Head, joined_: NDArray[np.intp]) -> Head:
    """All layers that are joined with some of these, row by row."""
    found = np.zeros_like(some)
    row, layer = np.nonzero(some)
    found[row, joined_[row, layer]] = True
    return np.take_along_axis(found, joined_, axis=1)
