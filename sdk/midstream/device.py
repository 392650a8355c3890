"""The device: for each input it analyses, plans, runs its part, sends the rest away, and answers in any case."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from midstream.analysis import Analysis
from midstream.bundle import Bundle
from midstream.cancelling import Cancellation
from midstream.communication.address import parse_broker_url
from midstream.communication.choosing import Route
from midstream.communication.codecs import ZSTD_LIBRARY, decode
from midstream.communication.codecs.steps import Stepped
from midstream.communication.fec import fec_available
from midstream.communication.presence import Presence
from midstream.communication.wire import (
    MAX_DEADLINE_MS,
    MAX_FEATURES,
    EncodedTensor,
    Limits,
    Priority,
    Reply,
    Request,
    Runner,
    Stage,
    Status,
)
from midstream.complexity import analyze_inputs
from midstream.deciding import Deciding
from midstream.device_usage import DeviceUsage, Spent
from midstream.errors import CodecError, InputError, MissingExtraError, PeerError
from midstream.exchange import Exchange
from midstream.files import check_writable
from midstream.history import for_device
from midstream.inputs import ImageInput, prepare_image
from midstream.link_watch import PROBE_EVERY_S
from midstream.partitioning import (
    DEVICE,
    GATEWAY,
    LinkEstimate,
    LinkState,
    Objective,
    Plan,
    Power,
    SystemState,
    Tariff,
    size_features,
)
from midstream.partitioning.fallback import PATIENCE_MS, give_up_ms
from midstream.partitioning.replay import PlannerName
from midstream.partitioning.state import ObjectiveKind
from midstream.planning import LOCAL_CUT, Forced, Planning
from midstream.profiles import load_profile
from midstream.sensing import LoadMonitor
from midstream.stream import FrameStream
from midstream.tensors import Tensor, Tensors, named_tensors

_log = logging.getLogger("midstream.device")

PriorityName = Literal["critical", "normal", "bulk"]
GATEWAY_WAIT_S = 2.0
# A machine that has woken a waiting request late is expected to do so again: the most of it counts, up to this share of
# the deadline, and less with each later one that was in time.
_LATE_SHARE = 0.1
_LATE_DECAY = 0.99
# So many answers of `infer_async` are under way at once; further ones wait for them.
_MOST_ASYNC = 64
_MAX_REPLY_BYTES = 64 << 20
# So many gateways beside the first are considered for further stages.
_MOST_FURTHER = 1
_NOMINAL_POWER = Power(idle_w=1.0, busy_w=2.5, radio_uj_per_byte=0.1)


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
class _Asked:
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
        return _since(self.started)


class Device:
    """Runs a bundle here and on a gateway, whichever is better for each input.

    ``bundle`` is a `Bundle` or its folder; ``broker`` an MQTT URL, and ``credentials`` the folder with this device's
    certificate where the broker wants one: its name is then the device's id. ``deadline_ms`` bounds every answer: when
    the gateway has not answered in time for the device to finish by itself, the device does. ``min_agreement`` below 1
    allows lossy codecs that calibration measured to be that good (0: any), and such an early exit. ``profile`` names
    the board, for its power figures. ``quantile``, ``max_device_memory_bytes``, ``energy_budget_mj`` and ``tariff`` are
    as in `midstream.partitioning.Objective`; with a bound of memory that the whole model exceeds there is no answer
    without a gateway. ``packing`` sends small requests that are made at the same time in one message, where their
    deadlines allow that. ``priority`` is the class of requests that name none. What is learned of costs is kept in
    ``state_dir``, for the next run of a device with this id, or of any without one. ``planner`` decides: "adaptive" by
    the costs and the link as they are now, "bandit" by what earlier results have taught, for latency alone.
    ``decisions`` names a file for a log of what was decided, which ``midstream replay`` repeats; ``history`` one for
    what each request has used, of at most ``history_bytes`` (32 MiB), which ``midstream history`` reads. Entering waits
    up to 2 s for a gateway, then goes on without. Methods may be called from any thread.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        broker: str,
        *,
        objective: ObjectiveKind = "latency",
        deadline_ms: float | None = None,
        min_agreement: float = 1.0,
        keep_input_local: bool = False,
        quantile: float | None = None,
        max_device_memory_bytes: float | None = None,
        energy_budget_mj: float | None = None,
        tariff: Tariff | None = None,
        device_id: str | None = None,
        profile: str | Path | None = None,
        analyse: bool = True,
        packing: bool = True,
        priority: PriorityName = "normal",
        credentials: str | Path | None = None,
        state_dir: str | Path | None = None,
        planner: PlannerName = "adaptive",
        decisions: str | Path | None = None,
        history: str | Path | None = None,
        history_bytes: int | None = None,
    ) -> None:
        address = parse_broker_url(broker, credentials=credentials)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        named = address.client_name("device", device_id)
        self.device_id = named or f"dev-{uuid.uuid4().hex[:12]}"
        self._objective = Objective(
            objective,
            deadline_ms,
            min_agreement,
            keep_input_local,
            quantile,
            max_device_memory_bytes,
            energy_budget_mj,
            tariff,
        )
        power = _NOMINAL_POWER if profile is None else load_profile(str(profile)).power_with(1)
        self._analyse = analyse
        self._priority = _priority_of(priority)
        limits = Limits(_MAX_REPLY_BYTES, _MAX_REPLY_BYTES)
        self._new_exchange = partial(Exchange, address, self.device_id, self.bundle.digest, limits, packing=packing)
        self._exchange = self._new_exchange()
        self._lock = threading.Lock()
        self._monitor = LoadMonitor()
        deciding = Deciding(planner, self._objective, self.bundle.digest.hex(), power, decisions)
        state_file = _state_file(state_dir, self.bundle, named)
        self._planning = Planning(self.bundle, power, deciding, state_file, self._monitor.now)
        recorder = None if history is None else for_device(history, history_bytes)
        self._usage = DeviceUsage(recorder, self.device_id, self.bundle.digest.hex())
        self._late_ms = 0.0
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Device:
        with ExitStack() as undone:
            undone.enter_context(self._monitor)
            undone.callback(lambda: self._exchange.close())
            self._planning.measure(self._objective)
            self._exchange.start(GATEWAY_WAIT_S)
            self._usage.start()
            undone.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A connection that was closed stays closed; whoever enters again gets another.
        closed, self._exchange = self._exchange, self._new_exchange()
        closed.close()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        self._monitor.__exit__(kind, error, trace)
        self._planning.save()
        self._usage.close()

    def wait_connected(self, wait_s: float) -> bool:
        """Wait until the broker is reached, or refuses for good; returns whether it is."""
        return self._exchange.wait_connected(wait_s)

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._exchange.connected

    @property
    def gateways(self) -> int:
        """How many gateways that have this bundle are there."""
        return self._exchange.gateways

    @property
    def pending(self) -> int:
        """How many requests are under way."""
        return self._exchange.pending

    @property
    def packs(self) -> int:
        """How many messages were sent that carried several requests."""
        return self._exchange.packs

    @property
    def packed_requests(self) -> int:
        """How many requests were sent in those."""
        return self._exchange.packed_requests

    @property
    def last_error(self) -> str | None:
        """Why the broker cannot be reached, if that is known."""
        return self._exchange.last_error

    @property
    def link(self) -> LinkState:
        """The link as transfers and probes have shown it."""
        return self._exchange.link()

    @property
    def link_estimate(self) -> LinkEstimate:
        """The same with the last samples, and how many there were."""
        return self._exchange.link_estimate

    @property
    def probe_bytes(self) -> int:
        """What was sent to measure the link, since the connection was begun."""
        return self._exchange.probe_bytes

    def probe(self) -> None:
        """Measure the link beside the requests, where that was not done lately; `infer` does so with free plans."""
        self._exchange.probe()

    def infer(
        self,
        inputs: Mapping[str, Tensor] | None = None,
        *,
        source: np.ndarray | None = None,
        sample_rate: int | None = None,
        cut: str | Sequence[str] | None = None,
        codec: str | None = None,
        deadline_ms: float | None = None,
        machines: Sequence[str] | None = None,
        priority: PriorityName | None = None,
    ) -> Result:
        """Answer one input, given as ``inputs`` by name, or as ``source``: a camera frame (H×W×3 uint8 RGB) or sound.

        ``cut`` forces a plan: a cut's id, "input" for the whole input to the gateway, "local" for all here; ``codec``
        goes with it (default "raw"). Several cuts force a plan of as many stages after the device's, each on a gateway
        of its own. ``machines`` names the gateways of a forced plan, one for each cut; else they are chosen by load. A
        forced plan still falls back to the device by its deadline. A "critical" request runs before all others that
        wait, and goes over a connection of its own beside large transfers; a "bulk" one lets others go first. Raises
        InputError on wrong inputs or an unknown priority, BundleError on an unknown cut or two without a slice between
        them, CodecError on an unknown codec, PlanError on machines that are not one for each cut, or where the
        constraints leave no plan, PeerError where no gateway answers and the model takes more memory than it may here.
        """
        return self._infer(Cancellation(), inputs, source, sample_rate, cut, codec, deadline_ms, machines, priority)

    def _infer(
        self,
        cancellation: Cancellation,
        inputs: Mapping[str, Tensor] | None = None,
        source: np.ndarray | None = None,
        sample_rate: int | None = None,
        cut: str | Sequence[str] | None = None,
        codec: str | None = None,
        deadline_ms: float | None = None,
        machines: Sequence[str] | None = None,
        priority: PriorityName | None = None,
    ) -> Result:
        """`infer`, which a cancellation ends with CancelledError before its next step."""
        started, spent = time.perf_counter(), self._usage.begin()
        cancellation.check()
        rank = self._priority if priority is None else _priority_of(priority)
        tensors = self.bundle.check_inputs(self._tensors(inputs, source))
        objective = self._objective if deadline_ms is None else replace(self._objective, deadline_ms=deadline_ms)
        analysis = self._analysis(tensors, sample_rate)
        features = None if analysis is None else size_features(analysis.features, tensors)
        timings = {"analysis": _since(started)}
        request_id = uuid.uuid4().bytes
        free = cut is None and codec is None and machines is None
        spent.on("analysis")
        asked = _Asked(
            tensors, analysis, features, objective, rank, request_id, free, started, timings, spent, cancellation
        )
        plan: Plan | None = None
        try:
            plan, route = self._planned(asked, None if free else self._planning.forced(cut, codec, machines))
            if not plan.offloads:
                self._look_at_link(asked, plan, route)
            result = self._answered(asked, plan, route, wants_local=cut == LOCAL_CUT)
            if plan.offloads:
                # Before, it would hold the request up.
                self._look_at_link(asked, plan, route)
        except BaseException as error:
            self._usage.failed(asked, plan, error)
            raise
        self._usage.answered(asked, result)
        return result

    def _planned(self, asked: _Asked, forced: Forced | None) -> tuple[Plan, Route]:
        """The plan of a request."""
        mark = time.perf_counter()
        plan, route = self._plan(asked, forced)
        asked.timings["plan"] = _since(mark)
        asked.spent.on("plan")
        return plan, route

    def _look_at_link(self, asked: _Asked, plan: Plan, route: Route) -> None:
        """Probe the link where that is due: with free plans, and while there is no gateway."""
        if asked.free or route.first is None:
            self._exchange.probe(self._planning.probe_every_s(plan, asked.objective) if asked.free else PROBE_EVERY_S)

    def _answered(self, asked: _Asked, plan: Plan, route: Route, *, wants_local: bool) -> Result:
        """What comes of the plan; ``wants_local`` says that it was forced to be the device's alone."""
        asked.cancellation.check()
        begun = self._begin(asked, plan)
        exited = None if plan.exit is None else self._exited(asked, begun)
        if exited is not None:
            result = Result(exited, plan, asked.timings, asked.analysis, (DEVICE,), exited=True)
        elif plan.offloads:
            result = self._offload(asked, begun, plan, route)
        else:
            why = None if wants_local or route.gateways else self._exchange.absence()
            result = self._locally(asked, begun, plan, why)
        asked.timings["total"] = asked.elapsed_ms
        if exited is None:
            self._planning.finished(plan, asked.timings["total"] - asked.timings["analysis"])
        if _log.isEnabledFor(logging.DEBUG):
            self._tell(asked, result)
        return result

    def _tell(self, asked: _Asked, result: Result) -> None:
        """A line in the log for a request that was answered."""
        extra = {
            "request_id": asked.request_id.hex(),
            "device_id": self.device_id,
            "bundle": self.bundle.name,
            "cut": result.plan.cut,
            "outcome": "ok" if result.fallback is None else "fallback",
            "latency_ms": round(asked.timings["total"], 3),
        }
        _log.debug("a request was answered by %s", " and ".join(result.ran_on), extra=extra)

    def check_plan(self, cut: str | Sequence[str] | None, codec: str | None) -> None:
        """Raise what `infer` raises where it cannot be forced to this cut and codec, without an input."""
        if cut is not None or codec is not None:
            self._planning.check(cut, codec)

    async def infer_async(self, inputs: Mapping[str, Tensor] | None = None, **options: Any) -> Result:
        """`infer` for asyncio: the same arguments, run in a thread of this device's own.

        Cancelling it withdraws the request and tells the gateway; what runs here then is let finish, which takes no
        longer than one slice of the model, so that nothing of it is left when the cancellation is through.
        """
        cancellation = Cancellation()
        job = self._threads().submit(partial(self._infer, cancellation, inputs, **options))
        running = asyncio.wrap_future(job)
        # That it was cancelled is no news, whoever still waits for it.
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancellation.cancel()
            if not job.cancel():  # it has begun
                await asyncio.wait([running])
            raise

    def stream(self, **options: Any) -> FrameStream[np.ndarray, Result]:
        """The newest of frames that come faster than they are answered; ``options`` are `infer`'s, for each of them.

        ``with device.stream() as stream``: any thread gives frames to ``stream.offer``, and one iterates over
        ``stream`` for each frame with its result.
        """
        return FrameStream(lambda frame: self.infer(source=frame, **options))

    def _threads(self) -> ThreadPoolExecutor:
        """The threads of `infer_async`; asyncio's own are few, and other people's."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_MOST_ASYNC, f"midstream-{self.device_id}")
            return self._pool

    def _tensors(self, inputs: Mapping[str, Tensor] | None, source: np.ndarray | None) -> dict[str, Tensor]:
        given = dict(named_tensors({} if inputs is None else inputs, f"bundle {self.bundle.name!r}"))
        if source is None:
            return given
        described = [spec for spec in self.bundle.inputs if spec.name in self.bundle.manifest.semantics]
        if len(described) != 1:
            raise InputError(
                f"bundle {self.bundle.name!r} does not say which one input takes a picture or sound; convert the model "
                "with --input NAME=image:… or NAME=audio:RATE, or give infer() prepared tensors"
            )
        spec = described[0]
        semantics = self.bundle.manifest.semantics[spec.name]
        shape = self.bundle.manifest.sample_shapes[spec.name]
        if isinstance(semantics, ImageInput):
            return given | {spec.name: prepare_image(np.asarray(source), spec, semantics, semantics.size_of(shape))}
        try:
            sound = np.asarray(source, dtype=np.float32).reshape(-1)
        except (TypeError, ValueError):
            raise InputError(
                f"input {spec.name!r} takes sound, an array of samples, not a {type(source).__name__}"
            ) from None
        if sound.size != math.prod(shape):
            raise InputError(f"input {spec.name!r} takes {math.prod(shape)} samples at once, {sound.size} were given")
        return given | {spec.name: sound.reshape(shape).astype(spec.dtype)}

    def _analysis(self, tensors: Tensors, sample_rate: int | None) -> Analysis | None:
        if not self._analyse:
            return None
        return analyze_inputs(tensors, self.bundle.manifest.semantics, sample_rate, self.bundle.manifest.engine)

    def _plan(self, asked: _Asked, forced: Forced | None) -> tuple[Plan, Route]:
        if forced is None:
            route = self._exchange.free_route(asked.request_id, _MOST_FURTHER)
        else:
            route = self._exchange.route(1 + len(forced.onward), forced.machines, asked.request_id, forced=True)
        state = self._state(route, asked.analysis, always=forced is not None)
        return self._planning.plan(route, state, asked.objective, asked.features, forced), route

    def _state(self, route: Route, analysis: Analysis | None, *, always: bool) -> SystemState:
        """What is known now; of the link, too, where there is no gateway, if ``always``."""
        presence = route.first
        uplink_wait_ms, downlink_wait_ms = self._exchange.backlog_ms()
        return SystemState(
            self._exchange.link() if presence is not None or always else None,
            gateway_wait_ms=0.0 if presence is None else self._exchange.wait_ms(presence.gateway_id),
            gateway_waits_ms={} if presence is None else self._exchange.waits_ms(presence.gateway_id),
            complexity=None if analysis is None else analysis.score,
            gateway_queue=0 if presence is None else self._exchange.queue(presence.gateway_id),
            further={each.gateway_id: self._exchange.tier(each.gateway_id) for each in route.further},
            uplink_wait_ms=uplink_wait_ms,
            downlink_wait_ms=downlink_wait_ms,
        )

    def _begin(self, asked: _Asked, plan: Plan) -> _Begun:
        """The head of the plan, or of its early exit; the inputs as they are where neither has one."""
        cut = plan.cut if plan.exit is None else plan.exit
        codec = plan.codec if cut == plan.cut else "raw"
        asked.timings["device"] = 0.0
        if cut is None:
            return _Begun(None, asked.tensors, {}, None)
        mark = time.perf_counter()
        with self._planning.running(cut) as run:
            crossing, outputs, codes = self.bundle.run_head_for(cut, codec, asked.tensors)
        asked.timings["device"] = _since(mark)
        asked.spent.on("device")
        self._planning.ran_head(cut, run.took_ms)
        return _Begun(cut, crossing, outputs, codes)

    def _exited(self, asked: _Asked, begun: _Begun) -> Tensors | None:
        """The early exit's answer, None where it is not sure enough."""
        mark = time.perf_counter()
        answer = self.bundle.run_exit(begun.crossing)
        asked.timings["exit"] = _since(mark)
        asked.spent.on("exit")
        return answer

    def _offload(self, asked: _Asked, begun: _Begun, plan: Plan, route: Route) -> Result:
        """What follows the head elsewhere, as planned or as is better now that the payload is known."""
        if route.first is None:
            return self._locally(asked, begun, plan, route.problem or self._exchange.absence())
        encoded, problem = self._encoded(asked, begun, plan, _routed(plan, route).gateways[0])
        if encoded is None:
            return self._locally(asked, begun, plan, problem)
        if asked.free:
            mark = time.perf_counter()
            state = self._state(route, asked.analysis, always=False)
            size, elapsed_ms = sum(len(tensor.data) for tensor in encoded), asked.elapsed_ms
            other = self._planning.again(plan, route, state, asked.objective, asked.features, size, elapsed_ms)
            asked.timings["plan"] += _since(mark)
            asked.spent.on("plan")
            if other is not plan:
                return self._instead(asked, begun, other, route)
        return self._sent(asked, begun, plan, _routed(plan, route), encoded)

    def _instead(self, asked: _Asked, begun: _Begun, plan: Plan, route: Route) -> Result:
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

    def _further(self, asked: _Asked, begun: _Begun, plan: Plan) -> _Begun:
        """The head's work, and what lies between it and the plan's cut."""
        if begun.cut is None or plan.cut is None:
            return self._begin(asked, plan)
        mark = time.perf_counter()
        crossing, outputs = self.bundle.run_middle(begun.cut, plan.cut, begun.crossing)
        asked.timings["device"] += _since(mark)
        asked.spent.on("device")
        return _Begun(plan.cut, crossing, {**begun.outputs, **outputs}, None)

    def _encoded(
        self, asked: _Asked, begun: _Begun, plan: Plan, presence: Presence
    ) -> tuple[tuple[EncodedTensor, ...] | None, str]:
        """What the plan sends, else why it cannot."""
        mark = time.perf_counter()
        crossing = asked.tensors if plan.cut is None else begun.crossing
        zstd = ZSTD_LIBRARY in presence.knows
        try:
            return self.bundle.encode(plan.cut, plan.codec, crossing, zstd, begun.codes), ""
        except (CodecError, MissingExtraError) as error:
            return None, str(error)
        finally:
            asked.timings["encode"] = asked.timings.get("encode", 0.0) + _since(mark)
            asked.spent.on("encode")

    def _sent(
        self, asked: _Asked, begun: _Begun, plan: Plan, route: Route, encoded: tuple[EncodedTensor, ...]
    ) -> Result:
        """The answer of those who get this; of this device where they give none in time."""
        assert route.first is not None
        until_ms = self._until_ms(asked, begun, plan)
        made = {} if plan.cut is None else begun.outputs
        mark = time.perf_counter()
        wait_ms = until_ms - asked.elapsed_ms
        pending = self._exchange.ask(
            self._request(asked, plan, route, encoded, wait_ms),
            route.first,
            wait_ms / 1e3,
            directly=route.directly,
            outputs=len(self.bundle.outputs) - len(made) if plan.onward else None,
            reply_bytes=plan.reasons.reply_bytes,
            cancellation=asked.cancellation,
        )
        waited_ms = _since(mark)
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
        asked.timings["decode"] = _since(mark)
        asked.spent.on("decode")
        if answer is None:
            return self._locally(asked, begun, plan, problem, sent, received)
        self._planning.sent(plan, asked.features, sum(len(tensor.data) for tensor in encoded))
        self._planning.answered(plan, route, pending.bearers, pending.reply)
        machines = tuple(DEVICE if stage.machine == DEVICE else GATEWAY for stage in plan.stages)
        return Result(answer, plan, asked.timings, asked.analysis, machines, sent, received)

    def _request(
        self, asked: _Asked, plan: Plan, route: Route, encoded: tuple[EncodedTensor, ...], remaining_ms: float
    ) -> Request:
        analysis = asked.analysis
        return Request(
            request_id=asked.request_id,
            bundle_digest=self.bundle.digest,
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
        wanted = [place for place, spec in enumerate(self.bundle.outputs) if spec.name not in outputs]
        if sorted(place for reply in replies for place in reply.outputs) != wanted or last.partial:
            return None, "its reply is damaged: it brings other outputs than were asked for"
        answer = dict(outputs)
        try:
            for reply in replies:
                expected = [self.bundle.outputs[place] for place in reply.outputs]
                answer |= decode(reply.codec, reply.tensors, expected, {}, _MAX_REPLY_BYTES)
        except CodecError as error:
            return None, f"its reply is damaged: {error}"
        return self._ordered(answer), ""

    def _locally(
        self, asked: _Asked, begun: _Begun, plan: Plan, why: str | None, sent_bytes: int = 0, received_bytes: int = 0
    ) -> Result:
        """The rest of the model here; ``why`` says so where the plan was another."""
        asked.cancellation.check()
        if not self._planning.fits(None, asked.objective):
            raise PeerError(
                f"no gateway has answered{f': {why}' if why else ''}; the rest of bundle {self.bundle.name!r} is not "
                "run here, as the whole model takes more memory than max_device_memory_bytes allows"
            )
        mark = time.perf_counter()
        with self._planning.running(None) if begun.cut is None else nullcontext() as run:
            outputs = self.bundle.run_tail(begun.cut, begun.crossing)
        took_ms = _since(mark)
        asked.timings["device"] += took_ms
        asked.spent.on("device")
        self._planning.ran_rest(begun.cut, took_ms if run is None else run.took_ms)
        answer = self._ordered(begun.outputs | outputs)
        return Result(answer, plan, asked.timings, asked.analysis, (DEVICE,), sent_bytes, received_bytes, fallback=why)

    def _woke(self, late_ms: float) -> None:
        """Remember how late this machine let a request know that its time was over."""
        with self._lock:
            self._late_ms = max(late_ms, _LATE_DECAY * self._late_ms)

    def _until_ms(self, asked: _Asked, begun: _Begun, plan: Plan) -> float:
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

    def _ordered(self, outputs: Tensors) -> Tensors:
        return {spec.name: outputs[spec.name] for spec in self.bundle.outputs}


def _routed(plan: Plan, route: Route) -> Route:
    """The gateways that run a free plan's stages, of those that it was made with."""
    if route.first is None or plan.others == (GATEWAY,) or not route.further:
        return route
    return route.by_way_of([route.first.gateway_id if each == GATEWAY else each for each in plan.others])


def _priority_of(name: str) -> Priority:
    """The class of this name; raises InputError where there is none."""
    known = get_args(PriorityName)
    if name not in known:
        raise InputError(f"no priority is called {name!r}; known are {', '.join(known)}")
    return Priority[name.upper()]


def _state_file(folder: str | Path | None, bundle: Bundle, device_id: str | None) -> Path | None:
    """Where a device keeps what it learns of a bundle; raises InputError where it could not write there."""
    if folder is None:
        return None
    file = Path(folder) / f"{bundle.digest.hex()}{f'.{device_id}' if device_id else ''}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        check_writable(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"what is learned cannot be kept in {str(folder)!r}: {error}; name a folder that can be written"
        ) from None
    return file


def _since(mark: float) -> float:
    return (time.perf_counter() - mark) * 1e3
