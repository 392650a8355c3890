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
"""

from __future__ import annotations

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


class MinCut:
    """Minimum cuts of one problem."""

    def __init__(self, problem: Problem) -> None:
        values, self.layers = problem.values, len(problem.reply_bytes)
        self._replies = np.array(problem.reply_bytes, dtype=np.float64)
        self._pinned = np.zeros(self.layers, dtype=np.bool_)
        self._pinned[list(problem.pinned)] = True
        self._makers = np.array([-1 if value.maker is None else value.maker for value in values], dtype=np.intp)
        self._bytes = np.array([value.bytes for value in values], dtype=np.float64)
        pairs = [(index, reader) for index, value in enumerate(values) for reader in value.readers]
        self._read, self._readers = np.array(pairs, dtype=np.intp).reshape(-1, 2).T

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
        inside = self._pinned if inside is None else inside | self._pinned
        outside = np.zeros_like(inside) if outside is None else outside & ~inside
        labels = self._labels(inside, outside)
        starts, ends, costs = self._edges(prices, labels)
        size = max(2, int(labels.max(initial=1)) + 1)
        bound = min(costs[ends == 1].sum(), costs[starts == 0].sum(), costs[np.isfinite(costs)].sum())
        scale = _FLOW_LIMIT / max(bound, _LEAST)
        network = csr_matrix(coo_array((costs, (starts, ends)), shape=(size, size)))
        network.data = np.minimum(np.rint(network.data * scale), _NO_LIMIT).astype(np.int32)
        network.eliminate_zeros()
        residual = network - maximum_flow(network, 0, 1).flow
        residual.eliminate_zeros()
        reached = np.zeros(size, dtype=np.bool_)
        reached[breadth_first_order(residual, 0, return_predecessors=False)] = True
        return np.asarray(reached[labels[: self.layers]])

    def sweep(self, line: Line, low: float, high: float) -> list[Best]:
        """Every head that is the best for some time of a byte from ``low`` to ``high`` ms, in this order."""
        nested = bool(np.all(line.device >= line.gateway))
        found = [(low, self.solve(line.prices(low)))]
        pending = [(high, self.solve(line.prices(high)))]
        while pending:
            (start, first), (end, second) = found[-1], pending[-1]
            meet = self._meet(line, first, second)
            between = None
            if meet is not None and start < meet < end:
                known = (first & second, ~(first | second)) if nested else (None, None)
                between = self.solve(line.prices(meet), *known)
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

    def _labels(self, inside: Head, outside: Head) -> NDArray[np.intp]:
        """The node of each layer, then of each value: 0 is the device's side, 1 the gateway's, others are open."""
        values = len(self._makers)
        gone = np.zeros(values, dtype=np.bool_)
        gone[self._read[outside[self._readers]]] = True
        still_read = np.zeros(values, dtype=np.bool_)
        still_read[self._read[~inside[self._readers]]] = True
        labels = np.full(self.layers + values, -1, dtype=np.intp)
        labels[: self.layers][inside] = 0
        labels[: self.layers][outside] = 1
        labels[self.layers :][~still_read] = 0
        labels[self.layers :][gone] = 1
        open_ = labels < 0
        labels[open_] = np.arange(2, 2 + np.count_nonzero(open_))
        return labels

    def _edges(self, prices: Prices, labels: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], Costs]:
        """The network's edges, known layers drawn together, a layer's two edges less what both have in common."""
        layers, values = labels[: self.layers], labels[self.layers :]
        source, sink = np.zeros_like(layers), np.ones_like(layers)
        gain = prices.device - prices.gateway - prices.down * self._replies
        made = self._makers >= 0
        makers = np.where(made, layers[self._makers], 0)
        unlimited = np.full(len(self._read), np.inf)
        back = made[self._read]
        starts = (source, layers, makers, values[self._read], layers[self._readers][back])
        ends = (layers, sink, values, layers[self._readers], makers[self._read][back])
        sent = np.where(np.isinf(self._bytes), np.inf, prices.up * np.where(np.isinf(self._bytes), 0.0, self._bytes))
        costs = (np.maximum(-gain, 0.0), np.maximum(gain, 0.0), sent, unlimited, unlimited[back])
        start, end, cost = np.concatenate(starts), np.concatenate(ends), np.concatenate(costs)
        kept = (start != end) & (start != 1) & (end != 0) & (cost > 0) & ~((start == 0) & (end == 1))
        return start[kept], end[kept], cost[kept]
