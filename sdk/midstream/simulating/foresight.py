"""The best that could have been done, knowing the link, the queues and the chances to come: a search over all requests.

Requests are taken in the order in which they come. What is left of each choice is when every core, slice, wire and
worker is free again. Of two ways to the same request, one that is no worse in any of these and has cost no more so far
makes the other superfluous, so that the search is exact while no more than ``width`` ways are left: but for the order
of requests at a wire or a worker, which is that of their coming here, and in the simulation that of their coming there.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

from midstream.errors import PlanError
from midstream.partitioning import Candidate, LinkState, Objective, SystemState
from midstream.partitioning.table import refusal
from midstream.simulating.draws import Draws, Other, others
from midstream.simulating.policies import Chosen
from midstream.simulating.scenario import Kind, Scenario
from midstream.simulating.world import REPLY_BYTES, REQUEST_BYTES

# What a request that misses its deadline counts as on top, in whatever is minimised.
_MISSED = 1e6
# When everything is up, as far as constraints go.
UP = SystemState(LinkState(1e3, 1e3, 1.0))
Times = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Device:
    """When a device's cores, its slices by name, and its wires are free."""

    cores: Times
    slices: tuple[tuple[object, float], ...] = ()
    up_s: float = 0.0
    up_arrived_s: float = 0.0
    down_s: float = 0.0
    down_arrived_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Gateway:
    """When a gateway's workers are free, and how many of the others' jobs it has taken."""

    workers: Times
    others: int = 0


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to here: what it has cost, and where it leaves everything; ``last`` leads back."""

    cost: float
    devices: tuple[_Device, ...]
    gateways: tuple[_Gateway, ...]
    last: tuple[Chosen, _Way] | None = None


class Foresight:
    """Everything that a scenario has in store, and the search for the best choices."""

    def __init__(self, scenario: Scenario, draws: Sequence[Draws], width: int = 32) -> None:
        self._scenario = scenario
        self._draws = draws
        self._width = width
        self._others = [others(scenario, number) for number in range(scenario.gateways)]
        self._order = sorted(
            (arrives_s, device, number)
            for device, drawn in enumerate(draws)
            for number, arrives_s in enumerate(drawn.arrivals_s)
        )

    def best(self) -> list[list[Chosen]]:
        """The best choice for each request of each device. Raises PlanError where nothing is allowed."""
        candidates = [choices(kind, self._scenario.objective) for kind in self._scenario.kinds]
        ways = [self._start()]
        gateways = range(self._scenario.gateways)
        for place, (arrives_s, device, number) in enumerate(self._order):
            found = [
                self._after(way, arrives_s, device, number, candidate, gateway)
                for way in ways
                for candidate in candidates[device % len(candidates)]
                for gateway in (gateways if candidate.offloads else (0,))
            ]
            next_s = self._order[place + 1][0] if place + 1 < len(self._order) else math.inf
            ways = self._kept(found, next_s)
        return self._traced(ways[0])

    def always(self, candidate: Candidate) -> list[Chosen]:
        """What the first device would come to with the same choice for all, as if it were alone."""
        way = self._start()
        for arrives_s, device, number in self._order:
            if device == 0:
                way = self._after(way, arrives_s, device, number, candidate, 0)
        return self._traced(way)[0]

    def _start(self) -> _Way:
        scenario = self._scenario
        devices = tuple(_Device((0.0,) * scenario.kind_of(number).board.cores) for number in range(len(self._draws)))
        return _Way(0.0, devices, (_Gateway((0.0,) * scenario.workers),) * scenario.gateways)

    def _traced(self, way: _Way) -> list[list[Chosen]]:
        found: list[list[Chosen]] = [[] for _ in self._draws]
        step, at = way.last, len(self._order)
        chain: list[Chosen] = []
        while step is not None:
            chain.append(step[0])
            step = step[1].last
        taken = [each for each in self._order if len(chain) == at or each[1] == 0]
        for (_, device, _), chosen in zip(taken, reversed(chain), strict=True):
            found[device].append(chosen)
        return found

    def _after(self, way: _Way, arrives_s: float, device: int, number: int, candidate: Candidate, gateway: int) -> _Way:
        """The way with one request more. As `World` runs it, without giving up."""
        scenario, drawn, state = self._scenario, self._draws[device], way.devices[device]
        kind = scenario.kind_of(device)
        slower = drawn.device[number] / 1e3
        cores, slices = list(state.cores), dict(state.slices)
        now_s, computed_s, sent, received = arrives_s, 0.0, 0.0, 0.0
        station = way.gateways[gateway]
        begun = candidate.cut if candidate.exit is None else candidate.exit

        def run(name: object, work_s: float) -> float:
            nonlocal computed_s
            start_s = max(now_s, slices.get(name, 0.0), cores[0])
            del cores[0]
            insort(cores, start_s + work_s)
            if name is not None:
                slices[name] = start_s + work_s
            computed_s += work_s
            return start_s + work_s

        exits = False
        if candidate.head and begun is not None:
            now_s = run(begun, candidate.device_ms * slower)
            exits = candidate.exit is not None and drawn.exits[number] < candidate.exit_share
        if not exits and not candidate.offloads:
            now_s = run(("rest", begun), kind.rest_ms(begun) * slower)
        up_s, up_arrived_s, down_s, down_arrived_s = state.up_s, state.up_arrived_s, state.down_s, state.down_arrived_s
        if not exits and candidate.offloads:
            trace, offset_s = scenario.trace, drawn.offset_s
            if candidate.encode_ms:
                now_s = run(None, candidate.encode_ms * slower)
            sent = self._payload(kind, candidate, drawn, number) + REQUEST_BYTES
            up_s = trace.sent_s(max(now_s, up_s) + offset_s, sent) - offset_s
            if up_s < math.inf:
                overhead_s = scenario.overhead_ms / 2e3
                up_arrived_s = max(up_arrived_s, up_s + trace.rtt_at(up_s + offset_s) / 2e3)
                work_s = (candidate.gateway_ms + candidate.decode_ms) * drawn.gateway[number] / 1e3
                station, now_s = _served(station, self._others[gateway], up_arrived_s + overhead_s, work_s)
                received = candidate.reply_bytes + REPLY_BYTES
                down_s = trace.sent_s(max(now_s, down_s) + offset_s, received, down=True) - offset_s
                down_arrived_s = max(down_arrived_s, down_s + trace.rtt_at(down_s + offset_s) / 2e3)
                now_s = down_arrived_s + overhead_s
            else:
                now_s = math.inf
        latency_ms = (now_s - arrives_s) * 1e3 if now_s < math.inf else 1e9
        power, computed_ms = kind.power, computed_s * 1e3
        energy_mj = (
            power.busy_w * computed_ms
            + power.idle_w * max(0.0, latency_ms - computed_ms)
            + power.radio_uj_per_byte * (sent + received) / 1e3
        )
        left = _Device(tuple(cores), tuple(slices.items()), up_s, up_arrived_s, down_s, down_arrived_s)
        devices = (*way.devices[:device], left, *way.devices[device + 1 :])
        gateways = (*way.gateways[:gateway], station, *way.gateways[gateway + 1 :])
        chosen = Chosen(candidate, gateway, latency_ms, energy_mj)
        return _Way(way.cost + cost(chosen, scenario.objective), devices, gateways, (chosen, way))

    @staticmethod
    def _payload(kind: Kind, candidate: Candidate, drawn: Draws, number: int) -> float:
        spread = kind.spread(candidate)
        if not spread:
            return candidate.payload_bytes
        return candidate.payload_bytes * math.exp(spread * drawn.richness[number] - spread**2 / 2)

    def _kept(self, ways: list[_Way], next_s: float) -> list[_Way]:
        """Those that may still be the best, the cheapest first; what is free before the next request comes is free."""
        ways.sort(key=lambda way: way.cost)
        if self._width == 1:
            return ways[:1]
        kept: list[_Way] = []
        lefts: list[dict[object, float]] = []
        for way in ways:
            left = _left(way, next_s)
            if any(_no_worse(other, left) for other in lefts):
                continue
            kept.append(way)
            lefts.append(left)
            if len(kept) == self._width:
                break
        return kept


def cost(chosen: Chosen, objective: Objective) -> float:
    """What a request counts as."""
    value = chosen.energy_mj if objective.kind == "energy" else chosen.latency_ms
    late = objective.deadline_ms is not None and chosen.latency_ms > objective.deadline_ms
    return value + _MISSED * late


def choices(kind: Kind, objective: Objective) -> list[Candidate]:
    """The candidates that an objective allows, without those that are worse than another in everything.

    Raises PlanError where none is left.
    """
    allowed = [each for each in kind.made.table.candidates if refusal(each, UP, objective) is None]
    if not allowed:
        raise PlanError(f"bundle {kind.name!r} has no plan that keeps the constraints; relax one of them")
    figures = {
        id(each): (
            each.device_ms + each.encode_ms,
            each.rest_ms,
            float(each.payload_bytes),
            each.gateway_ms + each.decode_ms,
            float(each.reply_bytes),
        )
        for each in allowed
    }
    found: list[Candidate] = []
    for each in sorted(allowed, key=lambda one: figures[id(one)]):
        if not any(
            other.exit == each.exit
            and other.offloads == each.offloads
            and all(a <= b for a, b in zip(figures[id(other)], figures[id(each)], strict=True))
            for other in found
        ):
            found.append(each)
    return found


def _served(gateway: _Gateway, others: Sequence[Other], arrives_s: float, work_s: float) -> tuple[_Gateway, float]:
    """A gateway that has taken a request, behind all of the others' that came before, and when that is done."""
    workers, taken = list(gateway.workers), gateway.others
    while taken < len(others) and others[taken].arrives_s <= arrives_s:
        start_s = max(others[taken].arrives_s, workers[0])
        del workers[0]
        insort(workers, start_s + others[taken].work_s)
        taken += 1
    end_s = max(arrives_s, workers[0]) + work_s
    del workers[0]
    insort(workers, end_s)
    return replace(gateway, workers=tuple(workers), others=taken), end_s


def _left(way: _Way, now_s: float) -> dict[object, float]:
    """When what is not free at this time will be, by name."""
    found: dict[object, float] = {}
    for number, device in enumerate(way.devices):
        named = [
            *((("core", at), free_s) for at, free_s in enumerate(device.cores)),
            *device.slices,
            ("up", device.up_s),
            ("up arrived", device.up_arrived_s),
            ("down", device.down_s),
            ("down arrived", device.down_arrived_s),
        ]
        found |= {(number, name): free_s for name, free_s in named if free_s > now_s}
    for number, gateway in enumerate(way.gateways):
        found |= {("gateway", number, at): free_s for at, free_s in enumerate(gateway.workers) if free_s > now_s}
    return found


def _no_worse(one: dict[object, float], other: dict[object, float]) -> bool:
    """Whether everything is free at least as early in the one as in the other."""
    return all(free_s <= other.get(name, 0.0) for name, free_s in one.items())
