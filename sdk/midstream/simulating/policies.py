"""The ways of deciding that are held against each other.

`local`, `raw`, `jpeg75` and `jpeg90` always do the same; so does `best_static`, the best choice of that kind in
hindsight. `neurosurgeon` and `mincut_ewma` are the published planners they are named after, `adaptive` and `bandit` are
midstream's own code, `clairvoyant` knows what is to come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from midstream.communication.choosing import Gateways, Route
from midstream.communication.load import LoadReport
from midstream.deciding import Deciding
from midstream.errors import PlanError
from midstream.link_watch import PROBE_EVERY_S, LinkWatch
from midstream.options import option_of
from midstream.partitioning import Candidate, Objective, Plan, SystemState
from midstream.partitioning.replay import PlannerName
from midstream.planning import Planning
from midstream.simulating.scenario import Kind

PolicyName = Literal[
    "local",
    "raw",
    "jpeg75",
    "jpeg90",
    "best_static",
    "neurosurgeon",
    "mincut_ewma",
    "bandit",
    "adaptive",
    "clairvoyant",
]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
# Those that take the whole input's codec by their name.
SENDING: Mapping[str, str] = {"raw": "raw", "jpeg75": "jpeg75", "jpeg90": "jpeg90"}
_NOBODY = Route(())


class Known(NamedTuple):
    """What a device knows when an input comes: its link, its gateways and their last reports, the input's score."""

    request_id: bytes
    now_s: float
    watch: LinkWatch
    gateways: Gateways
    score: float


class Choice(NamedTuple):
    """What is to be done with an input, whom to ask, and the plan where midstream has made it."""

    candidate: Candidate
    route: Route
    plan: Plan | None = None


class Policy(Protocol):
    """Decides for the inputs of one device, in their order.

    ``planning`` is what learns and decides again, where it is midstream's own. Where plans are ``free``, gateways that
    have failed are left alone for a while. Who is ``patient`` waits for answers as long as a request can.
    """

    @property
    def planning(self) -> Planning | None:
        """See above."""

    @property
    def free(self) -> bool:
        """See above."""

    @property
    def patient(self) -> bool:
        """See above."""

    def choose(self, number: int, known: Known) -> Choice:
        """What to do with the input of this number."""

    def probe_every_s(self, choice: Choice) -> float | None:
        """How often to look at the link; None: not at all."""


class Always:
    """The same candidate for every input."""

    planning = None
    free = False
    patient = False

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def choose(self, number: int, known: Known) -> Choice:
        """The candidate."""
        return Choice(self._candidate, _any_route(self._candidate, known))

    def probe_every_s(self, choice: Choice) -> float | None:
        """The link does not matter."""
        return None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was found best for a request, the number of the gateway that it goes to, and what it is to come to."""

    candidate: Candidate
    gateway: int
    latency_ms: float
    energy_mj: float


class Foreseen:
    """What was found best for each input with what is to come in mind."""

    planning = None
    free = False
    patient = True

    def __init__(self, kind: Kind, chosen: Sequence[Chosen]) -> None:
        self._kind = kind
        self._chosen = chosen

    def choose(self, number: int, known: Known) -> Choice:
        """The candidate found for it."""
        chosen = self._chosen[number]
        if not chosen.candidate.offloads:
            return Choice(chosen.candidate, _NOBODY)
        name = self._kind.presences[chosen.gateway].gateway_id
        return Choice(chosen.candidate, known.gateways.route(1, [name], known.request_id, forced=True))

    def probe_every_s(self, choice: Choice) -> float | None:
        """The link is known."""
        return None


class Partitioner:
    """One cut for each input by the link alone: the least sum of work and transfer, tensors going as they are.

    With ``averaged`` bandwidths and all cuts of the bundle, which are minimum cuts of the model's graph for some link,
    it is the dynamic minimum cut of DADS (Hu et al., "Dynamic Adaptive DNN Surgery", INFOCOM 2019). With the last
    bandwidth seen and cuts of one tensor, Neurosurgeon (Kang et al., ASPLOS 2017), which partitions chains. Both know
    the true times of idle machines; neither knows of queues or codecs.
    """

    planning = None
    free = False
    patient = False

    def __init__(self, kind: Kind, objective: Objective, *, averaged: bool) -> None:
        tensors = {cut.id: len(cut.tensors) for cut in kind.bundle.cuts}
        limit = objective.max_device_memory_bytes
        self._candidates = [
            each
            for each in kind.raw
            if (averaged or each.cut is None or tensors[each.cut] == 1)
            and not (objective.keep_input_local and each.reveals_input is not False)
            and not (limit is not None and each.device_bytes > limit)
        ]
        if not self._candidates:
            raise PlanError(f"bundle {kind.name!r} has no plan that keeps the constraints without a codec")
        self._averaged = averaged
        power = kind.power
        columns = [(each.device_ms, each.gateway_ms, each.payload_bytes, each.reply_bytes, each.offloads)
                   for each in self._candidates]  # fmt: skip
        self._device, self._gateway, self._payload, self._reply, self._offloads = np.array(columns, float).T
        self._energy = objective.kind == "energy"
        self._watts = power.busy_w, power.idle_w, power.radio_uj_per_byte / 1e3

    def choose(self, number: int, known: Known) -> Choice:
        """The best one by the link as it was seen."""
        link = known.watch.estimate
        up, down = link.uplink_kbps, link.downlink_kbps
        if not self._averaged:
            up = link.last_up_kbps[-1] if link.last_up_kbps else up
            down = link.last_down_kbps[-1] if link.last_down_kbps else up
        away = self._offloads * link.rtt_ms + self._payload * 8 / up + self._gateway + self._reply * 8 / down
        value = self._device + away
        if self._energy:
            busy, idle, radio = self._watts
            value = busy * self._device + idle * away + radio * (self._payload + self._reply)
        candidate = self._candidates[int(value.argmin())]
        return Choice(candidate, _any_route(candidate, known))

    def probe_every_s(self, choice: Choice) -> float | None:
        """As often as midstream at most."""
        return PROBE_EVERY_S


class Engine:
    """Midstream's own planner, as a device runs it: `Planning` with what it learns, and its `Gateways`."""

    free = True
    patient = False

    def __init__(self, kind: Kind, objective: Objective, planner: PlannerName, clock: Clock) -> None:
        deciding = Deciding(planner, objective, kind.bundle.digest.hex(), kind.power, None)
        self._kind = kind
        self._objective = objective
        self.planning: Planning | None = Planning(
            kind.bundle, kind.power, deciding, clock=clock.now_s, options=kind.options
        )

    def choose(self, number: int, known: Known) -> Choice:
        """A plan, and the candidate that it is."""
        assert self.planning is not None
        route = known.gateways.free_route(known.request_id, 0)
        plan = self.planning.plan(route, state_of(route, known), self._objective, None)
        candidate = self._kind.candidate(option_of(plan))
        assert candidate is not None
        return Choice(candidate, route, plan)

    def probe_every_s(self, choice: Choice) -> float | None:
        """As the planner says; where there is no plan, as often as where one could change."""
        if self.planning is None or choice.plan is None:
            return PROBE_EVERY_S
        return self.planning.probe_every_s(choice.plan, self._objective)


class Clock(Protocol):
    """Tells the time, in seconds."""

    def now_s(self) -> float:
        """Seconds on a clock that only moves forward."""


def state_of(route: Route, known: Known) -> SystemState:
    """What a device tells its planner; as `Device` puts it together."""
    presence = route.first
    if presence is None:
        return SystemState(None, complexity=known.score)
    report: LoadReport | None = known.gateways.loads.get(presence.gateway_id)
    return SystemState(
        known.watch.estimate.state(),
        gateway_wait_ms=0.0 if report is None else report.wait_ms,
        complexity=known.score,
        gateway_queue=0.0 if report is None else report.queue_length,
        uplink_wait_ms=known.watch.uplink_wait_ms(known.now_s),
        downlink_wait_ms=known.watch.downlink_wait_ms(),
    )


def _any_route(candidate: Candidate, known: Known) -> Route:
    """The gateways that a forced plan goes to: the least busy one, if any."""
    if not candidate.offloads:
        return _NOBODY
    return known.gateways.route(1, None, known.request_id, forced=True)
