"""One way through a scenario's requests, for the search: a simulation that can be copied at any time, and goes on.

As `World` runs requests, without giving up. What a gateway refuses counts as never answered.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from midstream.allocation.queueing import makes_late, running_s
from midstream.gateway.work import QUEUE_CAPACITY
from midstream.partitioning import Candidate, Objective
from midstream.partitioning.fallback import PATIENCE_MS
from midstream.simulating.draws import Draws, Other, others
from midstream.simulating.machines import Board, Wire, wires
from midstream.simulating.scenario import Scenario
from midstream.simulating.world import REPLY_BYTES, REQUEST_BYTES

# What a request that misses its deadline counts as on top, in whatever is minimised.
_MISSED = 1e6
# What one counts as that is never answered.
_NEVER_MS = 1e9
# What may be next of a request that is under way.
_REST, _ENCODE, _SEND, _SERVE, _REPLY, _TURN = range(6)


class _Device:
    """A device's board and wires."""

    __slots__ = ("board", "down", "up")

    def __init__(self, board: Board, up: Wire, down: Wire) -> None:
        self.board, self.up, self.down = board, up, down

    def copy(self) -> _Device:
        return _Device(self.board.copy(), self.up.copy(), self.down.copy())

    def free(self) -> Iterator[tuple[object, float]]:
        """When each of its parts is free, by name."""
        yield from self.board.free()
        for name, wire in (("up", self.up), ("down", self.down)):
            for place, free_s in enumerate(wire.free()):
                yield (name, place), free_s


class Asked(NamedTuple):
    """A request under way: the seconds that the device has computed for it, and the bytes on its link."""

    device: int
    number: int
    arrives_s: float
    candidate: Candidate
    gateway: int
    computed_s: float = 0.0
    sent_bytes: float = 0.0


class _Job(NamedTuple):
    """What waits at a gateway, who runs first first; without ``asked`` it is somebody else's."""

    deadline_s: float
    order: int
    expected_s: float
    work_s: float
    asked: Asked | None


class _Gateway:
    """When a gateway's workers are free, ascending, what waits there, and how many of the others' jobs have come.

    ``turn_s`` is when it is to be looked at again, as something of ours waits.
    """

    __slots__ = ("order", "taken", "turn_s", "waiting", "workers")

    def __init__(self, workers: list[float]) -> None:
        self.workers = workers
        self.waiting: list[_Job] = []
        self.taken = self.order = 0
        self.turn_s = math.inf

    def copy(self) -> _Gateway:
        found = _Gateway(self.workers.copy())
        found.waiting, found.taken, found.order = self.waiting.copy(), self.taken, self.order
        found.turn_s = self.turn_s
        return found

    def is_due(self, others: Sequence[Other], now_s: float) -> bool:
        """Whether something has happened there by now."""
        return (self.taken < len(others) and others[self.taken].arrives_s <= now_s) or bool(
            self.waiting and self.workers[0] <= now_s
        )

    def until(self, others: Sequence[Other], patience_s: float, now_s: float) -> Iterator[tuple[float, Asked]]:
        """Let what waits begin, and others' jobs come, up to now; gives when each of ours that is settled is done."""
        while self.is_due(others, now_s):
            other_s = others[self.taken].arrives_s if self.taken < len(others) else math.inf
            if self.waiting and self.workers[0] <= other_s:
                job, free_s = heapq.heappop(self.waiting), self.workers[0]
                yield from self._settled(job, self._run(free_s, job.work_s) if free_s <= job.deadline_s else math.inf)
            else:
                work_s = others[self.taken].work_s
                self.taken += 1
                yield from self.offer(other_s, other_s + patience_s, work_s, work_s, None)

    def offer(
        self, now_s: float, deadline_s: float, expected_s: float, work_s: float, asked: Asked | None
    ) -> Iterator[tuple[float, Asked]]:
        """A request comes, after all that was due before; as `EarliestDeadlineFirst` lets it in."""
        late = [job for job in self.waiting if job.deadline_s < now_s]
        if late:
            self.waiting = [job for job in self.waiting if job.deadline_s >= now_s]
            heapq.heapify(self.waiting)
            for gone in late:
                yield from self._settled(gone, math.inf)
        job = _Job(deadline_s, self.order, expected_s, work_s, asked)
        self.order += 1
        count = len(self.workers)
        before_s = sum(other.expected_s for other in self.waiting if other[:2] < job[:2]) / count
        start_s = now_s + running_s(self.workers if self.workers[0] > now_s else (), count, now_s) + before_s
        after = ((other.deadline_s, other.expected_s) for other in sorted(self.waiting) if other[:2] > job[:2])
        if (
            len(self.waiting) >= QUEUE_CAPACITY
            or start_s + expected_s > deadline_s
            or makes_late(after, start_s, expected_s, count)
        ):
            yield from self._settled(job, math.inf)
        elif self.workers[0] <= now_s:
            yield from self._settled(job, self._run(now_s, work_s))
        else:
            heapq.heappush(self.waiting, job)

    def _run(self, now_s: float, work_s: float) -> float:
        del self.workers[0]
        insort(self.workers, now_s + work_s)
        return now_s + work_s

    @staticmethod
    def _settled(job: _Job, end_s: float) -> Iterator[tuple[float, Asked]]:
        if job.asked is not None:
            yield end_s, job.asked


class Result(NamedTuple):
    """What became of a request, and of those that were done before it."""

    device: int
    number: int
    latency_ms: float
    energy_mj: float
    before: Result | None


class Choice(NamedTuple):
    """What was chosen for a request, and for those before it."""

    candidate: Candidate
    gateway: int
    before: Choice | None


class Way:
    """One way to here: what it has cost, what is under way, and when everything is free. As `World` runs it."""

    __slots__ = ("_mine", "_store", "choices", "cost", "devices", "gateways", "pending", "results")

    def __init__(self, store: Store) -> None:
        self._store = store
        scenario = store.scenario
        self.cost = 0.0
        self.devices = [
            _Device(Board(scenario.kind_of(at).board.cores), *wires(scenario.trace, store.draws[at].offset_s))
            for at in range(scenario.devices)
        ]
        self.gateways = [_Gateway([0.0] * scenario.workers) for _ in range(scenario.gateways)]
        self.pending: list[tuple[float, int, int, int, Asked | None]] = []
        self.choices: Choice | None = None
        self.results: Result | None = None
        # The devices, and the gateways as ~number, that no other way shares.
        self._mine: set[int] = set()

    def copy(self) -> Way:
        """Another way that goes on from here; parts are shared until one of them changes."""
        found = Way.__new__(Way)
        found._store, found.cost, found.choices, found.results = self._store, self.cost, self.choices, self.results
        found.devices, found.gateways, found.pending = self.devices.copy(), self.gateways.copy(), self.pending.copy()
        found._mine = set()
        self._mine = set()
        return found

    def begin(self, asked: Asked) -> None:
        """A request comes now, for which this was chosen."""
        candidate = asked.candidate
        self.choices = Choice(candidate, asked.gateway, self.choices)
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
            now_s, place, _, step, asked = heapq.heappop(self.pending)
            if asked is None:
                self._gateway(~place).turn_s = math.inf
                self._look(~place, now_s)
            else:
                self._go_on(now_s, step, asked)

    def catch_up(self, time_s: float) -> None:
        """Let others' jobs come to all gateways, up to this time."""
        for number, there in enumerate(self._store.others):
            if self.gateways[number].is_due(there, time_s):
                self._look(number, time_s)

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
            for job in gateway.waiting:
                # The same wait everywhere: it is there or not.
                name = job.order if job.asked is None else (*job.asked[:2], id(job.asked.candidate))
                found[~number, "waits", name] = math.inf
        for at_s, device_number, number, step, asked in self.pending:
            if asked is not None:
                found[device_number, number, step, id(asked.candidate), asked.gateway] = at_s
        return found

    def _next(self, now_s: float, step: int, asked: Asked) -> None:
        heapq.heappush(self.pending, (now_s, asked.device, asked.number, step, asked))

    def _go_on(self, now_s: float, step: int, asked: Asked) -> None:
        scenario, candidate, drawn = self._store.scenario, asked.candidate, self._store.draws[asked.device]
        overhead_s = scenario.overhead_ms / 2e3
        if step == _REST:
            begun = candidate.cut if candidate.exit is None else candidate.exit
            rest_ms = scenario.kind_of(asked.device).rest_ms(begun)
            now_s, asked = self._computed(asked, now_s, ("rest", begun), rest_ms)
            self._finish(asked, now_s)
        elif step == _ENCODE:
            now_s, asked = self._computed(asked, now_s, None, candidate.encode_ms)
            self._next(now_s, _SEND, asked)
        elif step == _SEND:
            sent = self._store.payload(asked) + REQUEST_BYTES
            _, arrives_s = self._device(asked.device).up.send(now_s, sent)
            if arrives_s == math.inf:
                self._finish(asked._replace(sent_bytes=sent), math.inf)
                return
            self._next(arrives_s + overhead_s, _SERVE, asked._replace(sent_bytes=sent))
        elif step == _SERVE:
            expected_s = (candidate.gateway_ms + candidate.decode_ms) / 1e3
            deadline_s = asked.arrives_s + PATIENCE_MS / 1e3
            self._look(asked.gateway, now_s)
            gateway, work_s = self._gateway(asked.gateway), expected_s * drawn.gateway[asked.number]
            self._settle(asked.gateway, gateway.offer(now_s, deadline_s, expected_s, work_s, asked))
        else:
            received = candidate.reply_bytes + REPLY_BYTES
            _, arrives_s = self._device(asked.device).down.send(now_s, received)
            if arrives_s < math.inf:
                self._finish(asked, arrives_s + overhead_s, received)
            else:
                self._finish(asked, math.inf)

    def _look(self, number: int, now_s: float) -> None:
        """What has happened at a gateway by now."""
        store = self._store
        self._settle(number, self._gateway(number).until(store.others[number], store.patience_s, now_s))

    def _settle(self, number: int, settled: Iterator[tuple[float, Asked]]) -> None:
        for end_s, asked in settled:
            if end_s < math.inf:
                self._next(end_s, _REPLY, asked)
            else:
                self._finish(asked, math.inf)
        gateway = self._gateway(number)
        if gateway.turn_s > gateway.workers[0] and any(job.asked is not None for job in gateway.waiting):
            gateway.turn_s = gateway.workers[0]
            heapq.heappush(self.pending, (gateway.turn_s, ~number, gateway.order, _TURN, None))

    def _computed(self, asked: Asked, now_s: float, name: object, ms: float) -> tuple[float, Asked]:
        work_s = ms * self._store.draws[asked.device].device[asked.number] / 1e3
        _, end_s = self._device(asked.device).board.run(now_s, name, work_s)
        return end_s, asked._replace(computed_s=asked.computed_s + work_s)

    def _finish(self, asked: Asked, now_s: float, received_bytes: float = 0.0) -> None:
        latency_ms = (now_s - asked.arrives_s) * 1e3 if now_s < math.inf else _NEVER_MS
        power, link_bytes = self._store.scenario.kind_of(asked.device).power, asked.sent_bytes + received_bytes
        energy_mj = power.drawn_mj(asked.computed_s * 1e3, latency_ms, link_bytes)
        self.results = Result(asked.device, asked.number, latency_ms, energy_mj, self.results)
        self.cost += counted(latency_ms, energy_mj, self._store.scenario.objective)

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


class Store:
    """Everything that a scenario has in store."""

    def __init__(self, scenario: Scenario, draws: Sequence[Draws]) -> None:
        self.scenario = scenario
        self.draws = draws
        self.others = [others(scenario, number) for number in range(scenario.gateways)]
        # As long the others' jobs may take at a gateway.
        self.patience_s = (scenario.objective.deadline_ms or PATIENCE_MS) / 1e3

    def payload(self, asked: Asked) -> float:
        """Bytes that a request sends, as `World` has them."""
        richness = self.draws[asked.device].richness[asked.number]
        return self.scenario.kind_of(asked.device).payload(asked.candidate, richness)


def counted(latency_ms: float, energy_mj: float, objective: Objective) -> float:
    """What a request counts as."""
    late = objective.deadline_ms is not None and latency_ms > objective.deadline_ms
    return (energy_mj if objective.kind == "energy" else latency_ms) + _MISSED * late
