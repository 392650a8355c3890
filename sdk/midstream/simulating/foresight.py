"""The best that could have been done, knowing the link, the queues and the chances to come: a search over all requests.

Requests are taken in the order in which they come, and each way to here is a simulation of its own: what is under way
goes on, step by step in the order of time, until the next request comes. What is left of each choice is when every
core, slice, wire and worker is free again, and what is still under way. Of two ways to the same request, one that is no
worse in any of these and has cost no more so far makes the other superfluous, so that the search is exact while no more
than ``width`` ways are left. But for one thing: a gateway serves here whoever comes first, and in the simulation who
began first of those that wait.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

from midstream.errors import PlanError
from midstream.partitioning import Candidate, LinkState, Objective, SystemState
from midstream.partitioning.table import refusal
from midstream.simulating.draws import Draws, Other, others
from midstream.simulating.policies import Chosen
from midstream.simulating.scenario import Kind, Scenario
from midstream.simulating.world import REPLY_BYTES, REQUEST_BYTES

# What a request that misses its deadline counts as on top, in whatever is minimised.
_MISSED = 1e6
# What one counts as that is never answered.
_NEVER_MS = 1e9
# When everything is up, as far as constraints go.
UP = SystemState(LinkState(1e3, 1e3, 1.0))
# What may be next of a request that is under way.
_REST, _ENCODE, _SEND, _SERVE, _REPLY = range(5)


class _Device:
    """When a device's cores, ascending, its slices by name and its wires are free, and what these carry has arrived."""

    __slots__ = ("cores", "down_arrived_s", "down_s", "slices", "up_arrived_s", "up_s")

    def __init__(self, cores: list[float]) -> None:
        self.cores = cores
        self.slices: dict[object, float] = {}
        self.up_s = self.up_arrived_s = self.down_s = self.down_arrived_s = 0.0

    def copy(self) -> _Device:
        found = _Device(self.cores.copy())
        found.slices = self.slices.copy()
        found.up_s, found.up_arrived_s = self.up_s, self.up_arrived_s
        found.down_s, found.down_arrived_s = self.down_s, self.down_arrived_s
        return found

    def run(self, now_s: float, name: object, work_s: float) -> float:
        """Run a slice, or what is none (None), as soon as it and a core are free: until when."""
        end_s = max(now_s, self.cores[0]) if name is None else max(now_s, self.slices.get(name, 0.0), self.cores[0])
        end_s += work_s
        del self.cores[0]
        insort(self.cores, end_s)
        if name is not None:
            self.slices[name] = end_s
        return end_s

    def free(self) -> list[tuple[object, float]]:
        """When each of its parts is free, by name."""
        return [
            *enumerate(self.cores),
            *self.slices.items(),
            ("up", self.up_s),
            ("up arrived", self.up_arrived_s),
            ("down", self.down_s),
            ("down arrived", self.down_arrived_s),
        ]


class _Gateway:
    """When a gateway's workers are free, ascending, and how many of the others' jobs it has taken."""

    __slots__ = ("taken", "workers")

    def __init__(self, workers: list[float], taken: int = 0) -> None:
        self.workers = workers
        self.taken = taken

    def copy(self) -> _Gateway:
        return _Gateway(self.workers.copy(), self.taken)

    def serve(self, others: Sequence[Other], now_s: float, work_s: float) -> float:
        """Take a request, behind all of the others' jobs that came before it: until when it runs."""
        while self.taken < len(others) and others[self.taken].arrives_s <= now_s:
            self._take(*others[self.taken])
            self.taken += 1
        return self._take(now_s, work_s)

    def _take(self, now_s: float, work_s: float) -> float:
        end_s = max(now_s, self.workers[0]) + work_s
        del self.workers[0]
        insort(self.workers, end_s)
        return end_s


class _Asked(NamedTuple):
    """A request under way: the seconds that the device has computed for it, and the bytes on its link."""

    device: int
    number: int
    arrives_s: float
    candidate: Candidate
    gateway: int
    computed_s: float = 0.0
    sent_bytes: float = 0.0


class _Result(NamedTuple):
    """What became of a request, and of those that were done before it."""

    device: int
    number: int
    latency_ms: float
    energy_mj: float
    before: _Result | None


class _Choice(NamedTuple):
    """What was chosen for a request, and for those before it."""

    candidate: Candidate
    gateway: int
    before: _Choice | None


class _Way:
    """One way to here: what it has cost, what is under way, and when everything is free. As `World` runs it."""

    __slots__ = ("_mine", "_store", "choices", "cost", "devices", "gateways", "pending", "results")

    def __init__(self, store: _Store) -> None:
        self._store = store
        scenario = store.scenario
        self.cost = 0.0
        self.devices = [_Device([0.0] * scenario.kind_of(at).board.cores) for at in range(scenario.devices)]
        self.gateways = [_Gateway([0.0] * scenario.workers) for _ in range(scenario.gateways)]
        self.pending: list[tuple[float, int, int, int, _Asked]] = []
        self.choices: _Choice | None = None
        self.results: _Result | None = None
        # The devices, and the gateways as ~number, that no other way shares.
        self._mine: set[int] = set()

    def copy(self) -> _Way:
        """Another way that goes on from here; parts are shared until one of them changes."""
        found = _Way.__new__(_Way)
        found._store, found.cost, found.choices, found.results = self._store, self.cost, self.choices, self.results
        found.devices, found.gateways, found.pending = self.devices.copy(), self.gateways.copy(), self.pending.copy()
        found._mine = set()
        self._mine = set()
        return found

    def begin(self, asked: _Asked) -> None:
        """A request comes now, for which this was chosen."""
        candidate = asked.candidate
        self.choices = _Choice(candidate, asked.gateway, self.choices)
        begun = candidate.cut if candidate.exit is None else candidate.exit
        now_s = asked.arrives_s
        if candidate.head and begun is not None:
            drawn = self._store.draws[asked.device]
            now_s, asked = self._computed(asked, now_s, begun, candidate.device_ms)
            if candidate.exit is not None and drawn.exits[asked.number] < candidate.exit_share:
                self._finish(asked, now_s)
                return
        if not candidate.offloads:
            self._next(now_s, _REST, asked)
        else:
            self._next(now_s, _ENCODE if candidate.encode_ms else _SEND, asked)

    def until(self, time_s: float) -> None:
        """Let go on what is under way, up to this time."""
        while self.pending and self.pending[0][0] < time_s:
            now_s, *_, step, asked = heapq.heappop(self.pending)
            self._go_on(now_s, step, asked)

    def projected(self) -> float:
        """What it will have cost if no more requests come."""
        if not self.pending:
            return self.cost
        alone = self.copy()
        alone.until(math.inf)
        return alone.cost

    def left(self, now_s: float) -> dict[object, float]:
        """When what is not free at this time will be, and when what is under way goes on, by name."""
        found: dict[object, float] = {}
        for number, device in enumerate(self.devices):
            found |= {(number, name): free_s for name, free_s in device.free() if free_s > now_s}
        for number, gateway in enumerate(self.gateways):
            found |= {(~number, at): free_s for at, free_s in enumerate(gateway.workers) if free_s > now_s}
        for at_s, device_number, number, step, asked in self.pending:
            found[device_number, number, step, id(asked.candidate), asked.gateway] = at_s
        return found

    def _next(self, now_s: float, step: int, asked: _Asked) -> None:
        heapq.heappush(self.pending, (now_s, asked.device, asked.number, step, asked))

    def _go_on(self, now_s: float, step: int, asked: _Asked) -> None:
        scenario, candidate, drawn = self._store.scenario, asked.candidate, self._store.draws[asked.device]
        trace, offset_s, overhead_s = scenario.trace, drawn.offset_s, scenario.overhead_ms / 2e3
        if step == _REST:
            begun = candidate.cut if candidate.exit is None else candidate.exit
            rest_ms = scenario.kind_of(asked.device).rest_ms(begun)
            now_s, asked = self._computed(asked, now_s, ("rest", begun), rest_ms)
            self._finish(asked, now_s)
        elif step == _ENCODE:
            now_s, asked = self._computed(asked, now_s, None, candidate.encode_ms)
            self._next(now_s, _SEND, asked)
        elif step == _SEND:
            device = self._device(asked.device)
            sent = self._store.payload(asked) + REQUEST_BYTES
            device.up_s = trace.sent_s(max(now_s, device.up_s) + offset_s, sent) - offset_s
            if device.up_s == math.inf:
                self._finish(asked._replace(sent_bytes=sent), math.inf)
                return
            device.up_arrived_s = max(device.up_arrived_s, device.up_s + trace.rtt_at(device.up_s + offset_s) / 2e3)
            self._next(device.up_arrived_s + overhead_s, _SERVE, asked._replace(sent_bytes=sent))
        elif step == _SERVE:
            work_s = (candidate.gateway_ms + candidate.decode_ms) * drawn.gateway[asked.number] / 1e3
            there = self._store.others[asked.gateway]
            self._next(self._gateway(asked.gateway).serve(there, now_s, work_s), _REPLY, asked)
        else:
            device = self._device(asked.device)
            received = candidate.reply_bytes + REPLY_BYTES
            device.down_s = trace.sent_s(max(now_s, device.down_s) + offset_s, received, down=True) - offset_s
            if device.down_s < math.inf:
                arrived_s = device.down_s + trace.rtt_at(device.down_s + offset_s) / 2e3
                device.down_arrived_s = max(device.down_arrived_s, arrived_s)
                self._finish(asked, device.down_arrived_s + overhead_s, received)
            else:
                self._finish(asked, math.inf)

    def _computed(self, asked: _Asked, now_s: float, name: object, ms: float) -> tuple[float, _Asked]:
        work_s = ms * self._store.draws[asked.device].device[asked.number] / 1e3
        end_s = self._device(asked.device).run(now_s, name, work_s)
        return end_s, asked._replace(computed_s=asked.computed_s + work_s)

    def _finish(self, asked: _Asked, now_s: float, received_bytes: float = 0.0) -> None:
        latency_ms = (now_s - asked.arrives_s) * 1e3 if now_s < math.inf else _NEVER_MS
        power, computed_ms = self._store.scenario.kind_of(asked.device).power, asked.computed_s * 1e3
        energy_mj = (
            power.busy_w * computed_ms
            + power.idle_w * max(0.0, latency_ms - computed_ms)
            + power.radio_uj_per_byte * (asked.sent_bytes + received_bytes) / 1e3
        )
        self.results = _Result(asked.device, asked.number, latency_ms, energy_mj, self.results)
        self.cost += _cost(latency_ms, energy_mj, self._store.scenario.objective)

    def _device(self, number: int) -> _Device:
        if number not in self._mine:
            self.devices[number] = self.devices[number].copy()
            self._mine.add(number)
        return self.devices[number]

    def _gateway(self, number: int) -> _Gateway:
        if ~number not in self._mine:
            self.gateways[number] = self.gateways[number].copy()
            self._mine.add(~number)
        return self.gateways[number]


class _Store:
    """Everything that a scenario has in store."""

    def __init__(self, scenario: Scenario, draws: Sequence[Draws]) -> None:
        self.scenario = scenario
        self.draws = draws
        self.others = [others(scenario, number) for number in range(scenario.gateways)]

    def payload(self, asked: _Asked) -> float:
        """Bytes that a request sends, as `World` has them."""
        candidate = asked.candidate
        spread = self.scenario.kind_of(asked.device).spread(candidate)
        if not spread:
            return candidate.payload_bytes
        return candidate.payload_bytes * math.exp(
            spread * self.draws[asked.device].richness[asked.number] - spread**2 / 2
        )


class Foresight:
    """The search for the best choices of a scenario."""

    def __init__(self, scenario: Scenario, draws: Sequence[Draws], width: int = 32) -> None:
        self._scenario = scenario
        self._store = _Store(scenario, draws)
        self._width = width
        self._order = sorted(
            (arrives_s, device, number)
            for device, drawn in enumerate(draws)
            for number, arrives_s in enumerate(drawn.arrivals_s)
        )

    def best(self) -> list[list[Chosen]]:
        """The best choice for each request of each device. Raises PlanError where nothing is allowed."""
        candidates = [choices(kind, self._scenario.objective) for kind in self._scenario.kinds]
        ways = [_Way(self._store)]
        gateways = range(self._scenario.gateways)
        for place, (arrives_s, device, number) in enumerate(self._order):
            next_s = self._order[place + 1][0] if place + 1 < len(self._order) else math.inf
            found = []
            for way in ways:
                for candidate in candidates[device % len(candidates)]:
                    for gateway in gateways if candidate.offloads else (0,):
                        found.append(after := way.copy())
                        after.begin(_Asked(device, number, arrives_s, candidate, gateway))
                        after.until(next_s)
            ways = self._kept(found, next_s)
        return self._traced(ways[0], self._order)

    def always(self, candidate: Candidate) -> list[Chosen]:
        """What the first device would come to with the same choice for all, as if it were alone."""
        way, alone = _Way(self._store), [each for each in self._order if each[1] == 0]
        for arrives_s, device, number in alone:
            way.until(arrives_s)
            way.begin(_Asked(device, number, arrives_s, candidate, 0))
        way.until(math.inf)
        return self._traced(way, alone)[0]

    def _traced(self, way: _Way, order: Sequence[tuple[float, int, int]]) -> list[list[Chosen]]:
        came: dict[tuple[int, int], tuple[float, float]] = {}
        result, choice = way.results, way.choices
        while result is not None:
            came[result.device, result.number] = result.latency_ms, result.energy_mj
            result = result.before
        found: list[list[Chosen]] = [[] for _ in self._store.draws]
        for _, device, number in reversed(order):
            assert choice is not None
            found[device].append(Chosen(choice.candidate, choice.gateway, *came[device, number]))
            choice = choice.before
        return [each[::-1] for each in found]

    def _kept(self, ways: list[_Way], next_s: float) -> list[_Way]:
        """Those that may still be the best, the cheapest first; what is free before the next request comes is free."""
        ranked = sorted(((way.projected(), at) for at, way in enumerate(ways)))
        if self._width == 1:
            return [ways[ranked[0][1]]]
        kept: list[_Way] = []
        lefts: list[dict[object, float]] = []
        for _, at in ranked:
            left = ways[at].left(next_s)
            if any(_no_worse(other, left) for other in lefts):
                continue
            kept.append(ways[at])
            lefts.append(left)
            if len(kept) == self._width:
                break
        return kept


def cost(chosen: Chosen, objective: Objective) -> float:
    """What a request counts as."""
    return _cost(chosen.latency_ms, chosen.energy_mj, objective)


def _cost(latency_ms: float, energy_mj: float, objective: Objective) -> float:
    late = objective.deadline_ms is not None and latency_ms > objective.deadline_ms
    return (energy_mj if objective.kind == "energy" else latency_ms) + _MISSED * late


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
            # Another head can run beside the one that this would wait for.
            and (other.cut == each.cut or not other.head)
            and kind.spread(other) == kind.spread(each)
            and all(a <= b for a, b in zip(figures[id(other)], figures[id(each)], strict=True))
            for other in found
        ):
            found.append(each)
    return found


def _no_worse(one: dict[object, float], other: dict[object, float]) -> bool:
    """Whether everything is free at least as early in the one as in the other."""
    return all(free_s <= other.get(name, 0.0) for name, free_s in one.items())
