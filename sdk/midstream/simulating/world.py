"""One run of a scenario under one policy: devices, wires and gateways as processes of a discrete-event simulation.

A request does what it does in `Device`: it is planned, its head is run, what crosses is encoded, it is decided again,
sent, queued and run at the gateway, and answered; where no answer comes in time the device finishes by itself. Links
lose nothing; what has not left the device when a request is given up is not sent any more.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import simpy

from midstream.communication.choosing import Gateways, Route
from midstream.communication.presence import Presence
from midstream.communication.wire import Reply, Status
from midstream.errors import PlanError
from midstream.link_watch import ECHO_BYTES, LinkWatch, Transfer
from midstream.options import option_of
from midstream.partitioning import Candidate
from midstream.partitioning.fallback import PATIENCE_MS, give_up_ms
from midstream.partitioning.table import option
from midstream.planning import Planning
from midstream.simulating.draws import Draws, others
from midstream.simulating.gateway import Served, SimulatedGateway
from midstream.simulating.machines import Board, wires
from midstream.simulating.policies import Choice, Known, Policy, state_of
from midstream.simulating.results import Outcome, Way
from midstream.simulating.scenario import Kind, Scenario
from midstream.traces import Trace

# What a message has beside its tensors' data: topic, header, the input's features.
REQUEST_BYTES, REPLY_BYTES = 400, 150
Steps = Generator[Any, Any, None]
PolicyOf = Callable[[int, Kind, "World"], Policy]
"""Makes the policy of a device, by its number and kind."""


@dataclass(slots=True)
class _Asked:
    """One input on its way: the seconds that the device has computed for it, and what it has sent."""

    number: int
    began_s: float
    choice: Choice
    computed_s: float = 0.0
    sent_bytes: float = 0.0
    received_bytes: float = 0.0


class World:
    """One run. ``policy_of`` makes each device's policy."""

    def __init__(self, scenario: Scenario, draws: Sequence[Draws], policy_of: PolicyOf) -> None:
        self.scenario = scenario
        self.environment = simpy.Environment()
        self.outcome = Outcome()
        limit_ms = scenario.objective.deadline_ms
        self.gateways: Mapping[str, SimulatedGateway] = {
            presence.gateway_id: SimulatedGateway(self.environment, presence.gateway_id, scenario.workers)
            for presence in scenario.kinds[0].presences
        }
        for number, gateway in enumerate(self.gateways.values()):
            if jobs := others(scenario, number):
                left_s = (PATIENCE_MS if limit_ms is None else limit_ms) / 1e3
                self.environment.process(gateway.others(jobs, left_s))
        for number, drawn in enumerate(draws):
            kind = scenario.kind_of(number)
            device = SimulatedDevice(self, number, kind, drawn, policy_of(number, kind, self))
            self.environment.process(device.live())

    def now_s(self) -> float:
        """The simulation's time."""
        return float(self.environment.now)

    def run(self) -> Outcome:
        """Until the last input is answered."""
        collects = gc.isenabled()
        # Looking for cycles among all devices again and again takes a third of the time, and there are hardly any.
        gc.disable()
        try:
            self.environment.run()
        finally:
            if collects:
                gc.enable()
        return self.outcome


def _go_on(steps: Steps, event: simpy.Event | None) -> None:
    """Take steps up to the next event that they wait for, and go on once that has come.

    As a process would, for which nobody waits: without the two events by which one begins and ends, which take as long
    as what there is to wait for.
    """
    try:
        awaited = steps.send(None if event is None else event.value)
    except StopIteration:
        return
    assert awaited.callbacks is not None
    awaited.callbacks.append(partial(_go_on, steps))


class SimulatedDevice:
    """A board with its link, and what it knows of both."""

    def __init__(self, world: World, number: int, kind: Kind, draws: Draws, policy: Policy) -> None:
        self._world = world
        self._environment = world.environment
        self._number = number
        self._kind = kind
        self._draws = draws
        self._policy = policy
        self._objective = world.scenario.objective
        self._overhead_s = world.scenario.overhead_ms / 2e3
        self._board = Board(kind.board.cores)
        self._up, self._down = wires(world.scenario.trace, draws.offset_s)
        self._watch = LinkWatch()
        self._connected(world.scenario.trace)
        self._gateways = Gateways(kind.bundle.digest)
        for presence in kind.presences:
            self._gateways.gateways[presence.gateway_id] = presence
        # What the device will have heard by then: an acknowledgement, an answer to a probe.
        self._news: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._probes_bytes = 0.0

    def _connected(self, trace: Trace) -> None:
        """What a device learns of its link as it connects, a second before: an echo, and how long a probe takes."""
        offset_s = self._draws.offset_s
        kbps, rtt_ms = trace.kbps_at(offset_s), trace.rtt_at(offset_s)
        self._watch.after_echo(rtt_ms, self._watch.begins(ECHO_BYTES, -1.0), rtt_ms / 1e3 - 1.0)
        size = self._watch.probe_bytes(-1.0)
        if kbps > 0 and size is not None:
            probe = self._watch.begins(size, -1.0)
            self._watch.ends(probe, (size * 8 / kbps + rtt_ms) / 1e3 - 1.0)

    def live(self) -> Steps:
        """A process: all inputs of this device, each as good as a process of its own."""
        environment = self._environment
        for number, arrives_s in enumerate(self._draws.arrivals_s):
            yield environment.timeout(arrives_s - environment.now)
            _go_on(self._serve(number), None)

    def _serve(self, number: int) -> Steps:
        now_s = self._environment.now
        self._hear(now_s)
        try:
            choice = self._policy.choose(number, self._known(number))
        except PlanError:
            # Nothing is allowed without a gateway, and none can be asked.
            yield from self._unanswered(number)
            return
        asked = _Asked(number, now_s, choice)
        if not choice.candidate.offloads:
            self._probe(now_s, choice)
        asked.sent_bytes, self._probes_bytes = self._probes_bytes, 0.0
        candidate, planning = choice.candidate, self._policy.planning
        begun = candidate.cut if candidate.exit is None else candidate.exit
        if candidate.head and begun is not None:
            yield from self._computed(asked, begun, candidate.device_ms, planning)
            if candidate.exit is not None and self._draws.exits[number] < candidate.exit_share:
                self._finish(asked, "exit")
                return
        if not candidate.offloads:
            yield from self._rest(asked, begun, planning)
            self._finish(asked, "local")
            return
        yield from self._offloaded(asked, begun if candidate.head else None, planning)
        # Before, it would hold the request up.
        self._probe(self._environment.now, choice)

    def _unanswered(self, number: int) -> Steps:
        """An input for which there is no plan: it counts as long as others do that nobody answers."""
        asked = _Asked(number, self._environment.now, Choice(self._kind.made.table.candidates[0], Route(())))
        self._probe(asked.began_s, asked.choice)
        asked.sent_bytes, self._probes_bytes = self._probes_bytes, 0.0
        yield self._environment.timeout(give_up_ms(self._objective.deadline_ms, 0.0) / 1e3)
        self._finish(asked, "local", answered=False)

    def _offloaded(self, asked: _Asked, begun: str | None, planning: Planning | None) -> Steps:
        """What follows the head elsewhere, as planned or as is better now that the payload is known."""
        choice = asked.choice
        candidate = choice.candidate
        yield from self._encoded(asked, candidate)
        payload = self._payload(candidate, asked.number)
        if planning is not None and choice.plan is not None:
            self._hear(self._environment.now)
            state = state_of(choice.route, self._known(asked.number, choice.route.first))
            plan = planning.again(
                choice.plan, choice.route, state, self._objective, None, int(payload), self._elapsed_ms(asked)
            )
            if plan is not choice.plan:
                other = self._kind.candidate(option_of(plan))
                assert other is not None
                choice = asked.choice = Choice(other, choice.route, plan)
                if not other.offloads:
                    yield from self._rest(asked, begun, planning)
                    self._finish(asked, "local")
                    return
                if other.cut is not None and other.cut != begun:
                    heads = self._kind.device.head_ms
                    more_ms = heads[other.cut] - (0.0 if begun is None else heads[begun])
                    yield from self._computed(asked, other.cut, max(0.0, more_ms), None)
                    begun = other.cut
                candidate = other
                yield from self._encoded(asked, candidate)
                payload = self._payload(candidate, asked.number)
        yield from self._sent(asked, candidate, begun, payload, planning)

    def _sent(
        self, asked: _Asked, candidate: Candidate, begun: str | None, payload: float, planning: Planning | None
    ) -> Steps:
        environment, choice = self._environment, asked.choice
        presence = choice.route.first
        until_s = asked.began_s + self._until_ms(asked, begun, planning) / 1e3
        now_s = environment.now
        way = option(candidate)
        size = payload + REQUEST_BYTES
        _, arrives_s = self._up.send(now_s, size, until_s)
        transfer = self._watch.begins(int(size), now_s)
        awaited = candidate.reply_bytes + REPLY_BYTES
        self._watch.awaits(awaited)
        asked.sent_bytes += size if arrives_s < math.inf else 0.0
        served: Served | None = None
        if presence is not None and arrives_s < until_s:
            self._acknowledged(transfer, arrives_s)
            yield environment.timeout(arrives_s - now_s + self._overhead_s)
            served = yield self._asking(candidate, presence.gateway_id, asked.number, until_s)
        if served is not None and served.refusal is None:
            reply_bytes = candidate.reply_bytes + REPLY_BYTES
            _, back_s = self._down.send(environment.now, reply_bytes, until_s)
            back_s += self._overhead_s
            if back_s <= until_s:
                yield environment.timeout(back_s - environment.now)
                self._watch.awaits(-awaited)
                asked.received_bytes += reply_bytes
                reply = Reply(b"", Status.OK, (), "raw", served.queue_s * 1e3, served.work_s * 1e3)
                self._hear(environment.now)
                gateway_ms = reply.queue_ms + reply.compute_ms
                self._watch.came_back(transfer, reply_bytes, gateway_ms, environment.now)
                if planning is not None:
                    self._learn(asked, planning, reply, int(payload))
                self._finish(asked, way)
                return
        if served is None or served.refusal is None:
            yield environment.timeout(max(0.0, until_s - environment.now))
        else:
            # A refusal comes back at once.
            _, back_s = self._down.send(environment.now, REPLY_BYTES)
            back_s = min(until_s, back_s + self._overhead_s)
            yield environment.timeout(max(0.0, back_s - environment.now))
        self._watch.awaits(-awaited)
        self._watch.ends(transfer, environment.now, acknowledged=False)
        if planning is not None and presence is not None:
            if served is not None and served.refusal is not None:
                self._gateways.answered(presence.gateway_id)
            else:
                self._gateways.failed(presence.gateway_id, environment.now)
        if not self._fits_device():
            self._finish(asked, way, answered=False)
            return
        yield from self._rest(asked, begun, planning)
        self._finish(asked, way, fallback=True)

    def _until_ms(self, asked: _Asked, begun: str | None, planning: Planning | None) -> float:
        """When to stop waiting, as in `Device`."""
        limit_ms, plan = self._objective.deadline_ms, asked.choice.plan
        if self._policy.patient or (limit_ms is None and (planning is None or plan is None or not self._fits_device())):
            return PATIENCE_MS
        if limit_ms is None and planning is not None and plan is not None:
            return self._elapsed_ms(asked) + planning.patience_ms(plan, begun, self._objective)
        return give_up_ms(limit_ms, self._kind.rest_ms(begun) if planning is None else planning.rest_ms(begun))

    def _asking(self, candidate: Candidate, gateway_id: str, number: int, until_s: float) -> simpy.Event:
        """What becomes of a request that is now at the gateway; None where the device has given up before."""
        environment = self._environment
        answered = environment.event()

        def settle(served: Served | None) -> None:
            if not answered.triggered:
                answered.succeed(served)

        work_ms = candidate.gateway_ms + candidate.decode_ms
        left_s = until_s - environment.now
        work_s = work_ms * self._draws.gateway[number] / 1e3
        begins = self._world.gateways[gateway_id].offer(work_ms / 1e3, work_s, left_s, candidate.payload_bytes, settle)
        if not answered.triggered and not (begins and work_s < left_s):
            environment.timeout(left_s).callbacks.append(lambda _: settle(None))
        return answered

    def _computed(self, asked: _Asked, cut: str, ms: float, planning: Planning | None) -> Steps:
        """Run a head."""
        now_s = self._environment.now
        work_s = ms * self._draws.device[asked.number] / 1e3
        _, end_s = self._board.run(now_s, cut, work_s)
        asked.computed_s += work_s
        with nullcontext() if planning is None else planning.running(cut) as run:
            yield self._environment.timeout(end_s - now_s)
        if planning is not None and run is not None:
            planning.ran_head(cut, run.took_ms)

    def _rest(self, asked: _Asked, begun: str | None, planning: Planning | None) -> Steps:
        """Run what follows a cut here; None: the whole model."""
        now_s = self._environment.now
        work_s = self._kind.rest_ms(begun) * self._draws.device[asked.number] / 1e3
        _, end_s = self._board.run(now_s, ("rest", begun), work_s)
        asked.computed_s += work_s
        with nullcontext() if planning is None or begun is not None else planning.running(None) as run:
            yield self._environment.timeout(end_s - now_s)
        if planning is not None:
            planning.ran_rest(begun, work_s * 1e3 if run is None else run.took_ms)

    def _encoded(self, asked: _Asked, candidate: Candidate) -> Steps:
        if candidate.encode_ms:
            now_s = self._environment.now
            work_s = candidate.encode_ms * self._draws.device[asked.number] / 1e3
            _, end_s = self._board.encode(now_s, work_s)
            asked.computed_s += work_s
            yield self._environment.timeout(end_s - now_s)

    def _payload(self, candidate: Candidate, number: int) -> float:
        """What this input takes there."""
        return self._kind.payload(candidate, self._draws.richness[number])

    def _known(self, number: int, asked: Presence | None = None) -> Known:
        """What the device knows now; of the gateways it has heard, or only of the one that was ``asked``."""
        now_s = self._environment.now
        heard_s = now_s - self._down.half_rtt_s(now_s)
        there, loads = self._world.gateways, self._gateways.loads
        for gateway_id in there if asked is None else (asked.gateway_id,):
            loads[gateway_id] = there[gateway_id].report_at(heard_s)
        request_id = (self._number << 64 | number).to_bytes(16)
        return Known(request_id, now_s, self._watch, self._gateways, self._draws.scores[number])

    def _learn(self, asked: _Asked, planning: Planning, reply: Reply, payload: int) -> None:
        choice = asked.choice
        presence, plan = choice.route.first, choice.plan
        assert presence is not None and plan is not None
        self._gateways.answered(presence.gateway_id)
        planning.sent(plan, None, payload)
        planning.answered(plan, choice.route, {presence.gateway_id}, reply)

    def _finish(self, asked: _Asked, way: Way, *, fallback: bool = False, answered: bool = True) -> None:
        latency_ms = self._elapsed_ms(asked)
        link_bytes = asked.sent_bytes + asked.received_bytes
        energy_mj = self._kind.power.drawn_mj(asked.computed_s * 1e3, latency_ms, link_bytes)
        limit_ms = self._objective.deadline_ms
        missed = not answered or (limit_ms is not None and latency_ms > limit_ms)
        self._world.outcome.add(
            latency_ms,
            energy_mj,
            asked.sent_bytes,
            way,
            missed=missed,
            fallback=fallback,
            answered=answered,
            began_s=asked.began_s,
            device=self._number,
        )
        planning, plan = self._policy.planning, asked.choice.plan
        if planning is not None and plan is not None and way != "exit":
            planning.finished(plan, latency_ms)

    def _elapsed_ms(self, asked: _Asked) -> float:
        return (self._environment.now - asked.began_s) * 1e3

    def _fits_device(self) -> bool:
        limit = self._objective.max_device_memory_bytes
        return limit is None or self._kind.options.memory[None] <= limit

    def _hear(self, now_s: float) -> None:
        """What has come by now."""
        while self._news and self._news[0][0] <= now_s:
            heapq.heappop(self._news)[2]()

    def _then(self, at_s: float, heard: Callable[[], object]) -> None:
        if at_s < math.inf:
            heapq.heappush(self._news, (at_s, next(self._order), heard))

    def _acknowledged(self, transfer: Transfer, arrives_s: float) -> None:
        """The broker's acknowledgement of a transfer comes half a round trip after it."""
        if arrives_s < math.inf:
            at_s = arrives_s + self._up.half_rtt_s(arrives_s)
            self._then(at_s, lambda: self._watch.ends(transfer, at_s))

    def _probe(self, now_s: float, choice: Choice) -> None:
        """Look at the link, and at gateways that failed, as a device does with each free plan."""
        watch = self._watch
        if self._policy.free:
            for gateway_id in self._gateways.to_probe(now_s):
                _, there_s = self._up.send(now_s, REQUEST_BYTES)
                if there_s < math.inf:
                    self._then(there_s + self._down.half_rtt_s(there_s), partial(self._gateways.echoed, gateway_id))
        every_s = self._policy.probe_every_s(choice)
        size = None if every_s is None else watch.probe_bytes(now_s, every_s)
        if size is None:
            return
        echo = self._watch.begins(ECHO_BYTES, now_s)
        _, there_s = self._up.send(now_s, ECHO_BYTES + REPLY_BYTES)
        if there_s < math.inf:
            at_s = there_s + self._up.half_rtt_s(there_s)
            self._then(at_s, partial(self._watch.after_echo, (at_s - now_s) * 1e3, echo, at_s))
        probe = self._watch.begins(size, now_s)
        self._acknowledged(probe, self._up.send(now_s, size + REPLY_BYTES)[1])
        self._probes_bytes += ECHO_BYTES + size + 2 * REPLY_BYTES
