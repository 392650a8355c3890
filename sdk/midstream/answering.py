"""One input's way: planned, its head run here, the rest sent or finished here, and answered in any case."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from midstream.analysis import Analysis
from midstream.bundle import Bundle
from midstream.cancelling import Cancellation
from midstream.communication.choosing import Route
from midstream.communication.codecs import ZSTD_LIBRARY, decode
from midstream.communication.codecs.steps import Stepped
from midstream.communication.fec import fec_available
from midstream.communication.presence import Presence
from midstream.communication.wire import (
    MAX_DEADLINE_MS,
    MAX_FEATURES,
    EncodedTensor,
    Priority,
    Reply,
    Request,
    Runner,
    Stage,
    Status,
)
from midstream.device_usage import Spent
from midstream.errors import CodecError, MissingExtraError, PeerError
from midstream.exchange import Exchange
from midstream.link_watch import PROBE_EVERY_S
from midstream.partitioning import DEVICE, GATEWAY, Objective, Plan, SystemState
from midstream.partitioning.fallback import PATIENCE_MS, give_up_ms
from midstream.planning import Forced, Planning
from midstream.tensors import Tensors

_log = logging.getLogger("midstream.device")

MAX_REPLY_BYTES = 64 << 20
# A machine that has woken a waiting request late is expected to do so again: the most of it counts, up to this share of
# the deadline, and less with each later one that was in time.
_LATE_SHARE = 0.1
_LATE_DECAY = 0.99
# So many gateways beside the first are considered for further stages.
_MOST_FURTHER = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One answer.

    ``ran_on`` names the machines of the stages in their order, such as ``("device", "gateway")``. ``timings_ms`` has
    "analysis", "plan", "device", "exit", "encode", "pack" (waiting for others to be sent with), "link", "gateway",
    "decode" and "total" as far as they apply. ``fallback`` says why the answer came from the device although the plan
    was another, else it is None. ``exited`` says that it is an early exit's.
    """

    outputs: Tensors
    plan: Plan
    timings_ms: dict[str, float]
    analysis: Analysis | None
    ran_on: tuple[str, ...]
    sent_bytes: int = 0
    received_bytes: int = 0
    fallback: str | None = None
    exited: bool = False


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the device has done of an input: the head of a cut (None: nothing), what crosses there, and outputs made.

    ``codes`` are those of a head that codes what crosses by itself.
    """

    cut: str | None
    crossing: Tensors
    outputs: Tensors
    codes: Mapping[str, Stepped] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """One input on its way: what came, what is known of it, what must hold, and the times that it has taken so far.

    ``started`` is in seconds of `time.perf_counter`; ``features`` are those that sizes are predicted from; ``free``
    says that no plan is forced; ``spent`` counts processor time.
    """

    tensors: Tensors
    analysis: Analysis | None
    features: Mapping[str, float] | None
    objective: Objective
    priority: Priority
    request_id: bytes
    free: bool
    started: float
    timings: dict[str, float]
    spent: Spent
    cancellation: Cancellation

    @property
    def elapsed_ms(self) -> float:
        """Since it came."""
        return since(self.started)


class Answering:
    """Answers inputs of one bundle by its plans. Thread-safe.

    ``exchange`` is the connection to the gateways, which may be changed for another one.
    """

    def __init__(self, bundle: Bundle, device_id: str, planning: Planning, exchange: Exchange) -> None:
        self.exchange = exchange
        self._bundle = bundle
        self._device_id = device_id
        self._planning = planning
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._late_ms = 0.0

    def planned(self, asked: Asked, forced: Forced | None) -> tuple[Plan, Route]:
        """The plan of a request."""
        mark = time.perf_counter()
        plan, route = self._plan(asked, forced)
        asked.timings["plan"] = since(mark)
        asked.spent.on("plan")
        return plan, route

    def look_at_link(self, asked: Asked, plan: Plan, route: Route) -> None:
        """Probe the link where that is due: with free plans, and while there is no gateway."""
        if asked.free or route.first is None:
            self.exchange.probe(self._planning.probe_every_s(plan, asked.objective) if asked.free else PROBE_EVERY_S)

    def answered(self, asked: Asked, plan: Plan, route: Route, *, wants_local: bool) -> Result:
        """What comes of the plan; ``wants_local`` says that it was forced to be the device's alone."""
        asked.cancellation.check()
        begun = self._begin(asked, plan)
        exited = None if plan.exit is None else self._exited(asked, begun)
        if exited is not None:
            result = Result(exited, plan, asked.timings, asked.analysis, (DEVICE,), exited=True)
        elif plan.offloads:
            result = self._offload(asked, begun, plan, route)
        else:
            why = None if wants_local or route.gateways else self.exchange.absence()
            result = self._locally(asked, begun, plan, why)
        asked.timings["total"] = asked.elapsed_ms
        if exited is None:
            self._planning.finished(plan, asked.timings["total"] - asked.timings["analysis"])
        if _log.isEnabledFor(logging.DEBUG):
            self._tell(asked, result)
        return result

    def _tell(self, asked: Asked, result: Result) -> None:
        """A line in the log for a request that was answered."""
        extra = {
            "request_id": asked.request_id.hex(),
            "device_id": self._device_id,
            "bundle": self._bundle.name,
            "cut": result.plan.cut,
            "outcome": "ok" if result.fallback is None else "fallback",
            "latency_ms": round(asked.timings["total"], 3),
        }
        _log.debug("a request was answered by %s", " and ".join(result.ran_on), extra=extra)

    def _plan(self, asked: Asked, forced: Forced | None) -> tuple[Plan, Route]:
        if forced is None:
            route = self.exchange.free_route(asked.request_id, _MOST_FURTHER)
        else:
            route = self.exchange.route(1 + len(forced.onward), forced.machines, asked.request_id, forced=True)
        state = self._state(route, asked.analysis, always=forced is not None)
        return self._planning.plan(route, state, asked.objective, asked.features, forced), route

    def _state(self, route: Route, analysis: Analysis | None, *, always: bool) -> SystemState:
        """What is known now; of the link, too, where there is no gateway, if ``always``."""
        presence = route.first
        uplink_wait_ms, downlink_wait_ms = self.exchange.backlog_ms()
        return SystemState(
            self.exchange.link() if presence is not None or always else None,
            gateway_wait_ms=0.0 if presence is None else self.exchange.wait_ms(presence.gateway_id),
            gateway_waits_ms={} if presence is None else self.exchange.waits_ms(presence.gateway_id),
            complexity=None if analysis is None else analysis.score,
            gateway_queue=0 if presence is None else self.exchange.queue(presence.gateway_id),
            further={each.gateway_id: self.exchange.tier(each.gateway_id) for each in route.further},
            uplink_wait_ms=uplink_wait_ms,
            downlink_wait_ms=downlink_wait_ms,
        )

    def _begin(self, asked: Asked, plan: Plan) -> _Begun:
        """The head of the plan, or of its early exit; the inputs as they are where neither has one."""
        cut = plan.cut if plan.exit is None else plan.exit
        codec = plan.codec if cut == plan.cut else "raw"
        asked.timings["device"] = 0.0
        if cut is None:
            return _Begun(None, asked.tensors, {}, None)
        mark = time.perf_counter()
        with self._planning.running(cut) as run:
            crossing, outputs, codes = self._bundle.run_head_for(cut, codec, asked.tensors)
        asked.timings["device"] = since(mark)
        asked.spent.on("device")
        self._planning.ran_head(cut, run.took_ms)
        return _Begun(cut, crossing, outputs, codes)

    def _exited(self, asked: Asked, begun: _Begun) -> Tensors | None:
        """The early exit's answer, None where it is not sure enough."""
        mark = time.perf_counter()
        answer = self._bundle.run_exit(begun.crossing)
        asked.timings["exit"] = since(mark)
        asked.spent.on("exit")
        return answer

    def _offload(self, asked: Asked, begun: _Begun, plan: Plan, route: Route) -> Result:
        """What follows the head elsewhere, as planned or as is better now that the payload is known."""
        if route.first is None:
            return self._locally(asked, begun, plan, route.problem or self.exchange.absence())
        encoded, problem = self._encoded(asked, begun, plan, _routed(plan, route).gateways[0])
        if encoded is None:
            return self._locally(asked, begun, plan, problem)
        if asked.free:
            mark = time.perf_counter()
            state = self._state(route, asked.analysis, always=False)
            size, elapsed_ms = sum(len(tensor.data) for tensor in encoded), asked.elapsed_ms
            other = self._planning.again(plan, route, state, asked.objective, asked.features, size, elapsed_ms)
            asked.timings["plan"] += since(mark)
            asked.spent.on("plan")
            if other is not plan:
                return self._instead(asked, begun, other, route)
        return self._sent(asked, begun, plan, _routed(plan, route), encoded)

    def _instead(self, asked: Asked, begun: _Begun, plan: Plan, route: Route) -> Result:
        """Another plan than the one whose head has run: the rest here, or further to another cut, or sent otherwise."""
        if not plan.offloads:
            return self._locally(asked, begun, plan, None)
        if plan.cut is not None and plan.cut != begun.cut:
            asked.cancellation.check()
            begun = self._further(asked, begun, plan)
        encoded, problem = self._encoded(asked, begun, plan, _routed(plan, route).gateways[0])
        if encoded is None:
            return self._locally(asked, begun, plan, problem)
        return self._sent(asked, begun, plan, _routed(plan, route), encoded)

    def _further(self, asked: Asked, begun: _Begun, plan: Plan) -> _Begun:
        """The head's work, and what lies between it and the plan's cut."""
        if begun.cut is None or plan.cut is None:
            return self._begin(asked, plan)
        mark = time.perf_counter()
        crossing, outputs = self._bundle.run_middle(begun.cut, plan.cut, begun.crossing)
        asked.timings["device"] += since(mark)
        asked.spent.on("device")
        return _Begun(plan.cut, crossing, {**begun.outputs, **outputs}, None)

    def _encoded(
        self, asked: Asked, begun: _Begun, plan: Plan, presence: Presence
    ) -> tuple[tuple[EncodedTensor, ...] | None, str]:
        """What the plan sends, else why it cannot."""
        mark = time.perf_counter()
        crossing = asked.tensors if plan.cut is None else begun.crossing
        zstd = ZSTD_LIBRARY in presence.knows
        try:
            return self._bundle.encode(plan.cut, plan.codec, crossing, zstd, begun.codes), ""
        except (CodecError, MissingExtraError) as error:
            return None, str(error)
        finally:
            asked.timings["encode"] = asked.timings.get("encode", 0.0) + since(mark)
            asked.spent.on("encode")

    def _sent(
        self, asked: Asked, begun: _Begun, plan: Plan, route: Route, encoded: tuple[EncodedTensor, ...]
    ) -> Result:
        """The answer of those who get this; of this device where they give none in time."""
        assert route.first is not None
        until_ms = self._until_ms(asked, begun, plan)
        made = {} if plan.cut is None else begun.outputs
        mark = time.perf_counter()
        wait_ms = until_ms - asked.elapsed_ms
        pending = self.exchange.ask(
            self._request(asked, plan, route, encoded, wait_ms),
            route.first,
            wait_ms / 1e3,
            directly=route.directly,
            outputs=len(self._bundle.outputs) - len(made) if plan.onward else None,
            reply_bytes=plan.reasons.reply_bytes,
            cancellation=asked.cancellation,
        )
        waited_ms = since(mark)
        asked.spent.on("link")
        sent, received = pending.sent_bytes, pending.received_bytes
        if pending.reply is None:
            self._woke(max(0.0, waited_ms - wait_ms))
            return self._locally(asked, begun, plan, pending.problem or "", sent, received)
        mark = time.perf_counter()
        replies = (*pending.partial, pending.reply)
        answer, problem = self._decoded(replies, made)
        asked.timings["pack"] = pending.held_ms
        asked.timings["gateway"] = sum(reply.queue_ms + reply.compute_ms for reply in replies)
        asked.timings["link"] = max(0.0, waited_ms - asked.timings["pack"] - asked.timings["gateway"])
        asked.timings["decode"] = since(mark)
        asked.spent.on("decode")
        if answer is None:
            return self._locally(asked, begun, plan, problem, sent, received)
        self._planning.sent(plan, asked.features, sum(len(tensor.data) for tensor in encoded))
        self._planning.answered(plan, route, pending.bearers, pending.reply)
        machines = tuple(DEVICE if stage.machine == DEVICE else GATEWAY for stage in plan.stages)
        return Result(answer, plan, asked.timings, asked.analysis, machines, sent, received)

    def _request(
        self, asked: Asked, plan: Plan, route: Route, encoded: tuple[EncodedTensor, ...], remaining_ms: float
    ) -> Request:
        analysis = asked.analysis
        return Request(
            request_id=asked.request_id,
            bundle_digest=self._bundle.digest,
            cut=plan.cut or "",
            codec=plan.codec,
            deadline_ms=min(max(1, int(remaining_ms)), MAX_DEADLINE_MS),
            score=0.0 if analysis is None else analysis.score,
            features=() if analysis is None else tuple(list(analysis.features.items())[:MAX_FEATURES]),
            tensors=encoded,
            priority=asked.priority,
            onward=tuple(
                Stage(cut, Runner.GATEWAY, gateway.gateway_id)
                for cut, gateway in zip(plan.onward, route.gateways[1:], strict=True)
            ),
            takes_parity=fec_available(),
        )

    def _decoded(self, replies: Sequence[Reply], outputs: Tensors) -> tuple[Tensors | None, str]:
        """All outputs, with those of the head; else what is wrong with the replies, of which the last is no partial."""
        last = replies[-1]
        if last.status is not Status.OK:
            return None, f"the gateway refused: {last.message or last.status.name.lower()}"
        wanted = [place for place, spec in enumerate(self._bundle.outputs) if spec.name not in outputs]
        if sorted(place for reply in replies for place in reply.outputs) != wanted or last.partial:
            return None, "its reply is damaged: it brings other outputs than were asked for"
        answer = dict(outputs)
        try:
            for reply in replies:
                expected = [self._bundle.outputs[place] for place in reply.outputs]
                answer |= decode(reply.codec, reply.tensors, expected, {}, MAX_REPLY_BYTES)
        except CodecError as error:
            return None, f"its reply is damaged: {error}"
        return self._bundle.ordered(answer), ""

    def _locally(
        self, asked: Asked, begun: _Begun, plan: Plan, why: str | None, sent_bytes: int = 0, received_bytes: int = 0
    ) -> Result:
        """The rest of the model here; ``why`` says so where the plan was another."""
        asked.cancellation.check()
        if not self._planning.fits(None, asked.objective):
            raise PeerError(
                f"no gateway has answered{f': {why}' if why else ''}; the rest of bundle {self._bundle.name!r} is not "
                "run here, as the whole model takes more memory than max_device_memory_bytes allows"
            )
        mark = time.perf_counter()
        with self._planning.running(None) if begun.cut is None else nullcontext() as run:
            outputs = self._bundle.run_tail(begun.cut, begun.crossing)
        took_ms = since(mark)
        asked.timings["device"] += took_ms
        asked.spent.on("device")
        self._planning.ran_rest(begun.cut, took_ms if run is None else run.took_ms)
        answer = self._bundle.ordered(begun.outputs | outputs)
        return Result(answer, plan, asked.timings, asked.analysis, (DEVICE,), sent_bytes, received_bytes, fallback=why)

    def _woke(self, late_ms: float) -> None:
        """Remember how late this machine let a request know that its time was over."""
        with self._lock:
            self._late_ms = max(late_ms, _LATE_DECAY * self._late_ms)

    def _until_ms(self, asked: Asked, begun: _Begun, plan: Plan) -> float:
        """When to stop waiting, in ms after the request began: in time to finish here, where that can be in time."""
        limit_ms = asked.objective.deadline_ms
        if limit_ms is None and asked.free and self._planning.fits(None, asked.objective):
            return asked.elapsed_ms + self._planning.patience_ms(plan, begun.cut, asked.objective)
        return self._give_up_ms(begun.cut, limit_ms)

    def _give_up_ms(self, begun: str | None, limit_ms: float | None) -> float:
        """The same by the deadline alone, where the head of this cut has run."""
        if limit_ms is None:
            return PATIENCE_MS
        with self._lock:
            late_ms = min(self._late_ms, _LATE_SHARE * limit_ms)
        return give_up_ms(limit_ms, self._planning.rest_ms(begun), late_ms)


def _routed(plan: Plan, route: Route) -> Route:
    """The gateways that run a free plan's stages, of those that it was made with."""
    if route.first is None or plan.others == (GATEWAY,) or not route.further:
        return route
    return route.by_way_of([route.first.gateway_id if each == GATEWAY else each for each in plan.others])


def since(mark: float) -> float:
    """Milliseconds since this on `time.perf_counter`."""
    return (time.perf_counter() - mark) * 1e3
