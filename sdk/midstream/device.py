"""The device: for each input it analyses, plans, runs its part, sends the rest away, and answers in any case."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from midstream.analysis import Analysis
from midstream.bundle import Bundle
from midstream.cancelling import Cancellation
from midstream.communication.address import parse_broker_url
from midstream.communication.choosing import Route
from midstream.communication.codecs import ZSTD_LIBRARY, decode, find_codec, optional_libraries
from midstream.communication.codecs.steps import Stepped
from midstream.communication.fec import fec_available
from midstream.communication.presence import Presence
from midstream.communication.wire import (
    MAX_DEADLINE_MS,
    MAX_FEATURES,
    MAX_STAGES,
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
from midstream.errors import CodecError, InputError, MissingExtraError, PlanError
from midstream.exchange import Exchange
from midstream.inputs import ImageInput, prepare_image
from midstream.partitioning import (
    DEVICE,
    GATEWAY,
    Candidate,
    Inputs,
    LinkState,
    MachineTimes,
    Objective,
    Plan,
    Power,
    SizeEstimates,
    SystemState,
    Table,
    candidates,
    decide_from,
    in_stages,
    plan_for,
    size_features,
    times_from_costs,
    with_exit,
)
from midstream.partitioning.state import ObjectiveKind
from midstream.profiles import load_profile
from midstream.stream import FrameStream
from midstream.tensors import Tensor, Tensors, named_tensors

PriorityName = Literal["critical", "normal", "bulk"]
INPUT_CUT = "input"
LOCAL_CUT = "local"
GATEWAY_WAIT_S = 2.0
# Without a deadline a gateway that says nothing is given up after this long.
PATIENCE_MS = 10_000.0
# The local rest is expected to take up to this much longer than measured.
_RESERVE = 1.15
_RESERVE_MS = 2.0
# A machine that has woken a waiting request late is expected to do so again: the most of it counts, up to this share of
# the deadline, and less with each later one that was in time.
_LATE_SHARE = 0.1
_LATE_DECAY = 0.99
_SMOOTHING = 0.2
# So many answers of `infer_async` are under way at once; further ones wait for them.
_MOST_ASYNC = 64
# Costs and sizes are taken as unchanged within this share.
_TOLERANCE = 0.05
_MAX_REPLY_BYTES = 64 << 20
# Of so many gateways the candidates are kept.
_MAX_KNOWN = 8
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
class _Known:
    """The candidates as they were last made, and from what; ``places`` are those of their sizes."""

    presence: Presence | None
    factor: float
    table: Table
    places: NDArray[np.intp]
    sizes: int

    def holds(self, presence: Presence | None, factor: float, sizes: int) -> bool:
        """Whether they still describe this gateway, a device so many times slower than the one that measured, and
        as many sizes as are known.
        """
        return (
            self.presence is presence and self.sizes == sizes and abs(factor - self.factor) <= _TOLERANCE * self.factor
        )


@dataclass(frozen=True, slots=True)
class _Forced:
    """The plan that a caller wants: its first cut, those of further stages, and the gateways by name."""

    cut: str
    onward: tuple[str, ...]
    codec: str | None
    machines: tuple[str, ...] | None


class Device:
    """Runs a bundle here and on a gateway, whichever is better for each input.

    ``bundle`` is a `Bundle` or its folder; ``broker`` an MQTT URL, and ``credentials`` the folder with this device's
    certificate where the broker wants one: its name is then the device's id. ``deadline_ms`` bounds every answer: when
    the gateway has not answered in time for the device to finish by itself, the device does. ``min_agreement`` below 1
    allows lossy codecs that calibration measured to be that good (0: any), and such an early exit. ``profile`` names
    the board, for its power figures. ``packing`` sends small requests that are made at the same time in one message,
    where their deadlines allow that. ``priority`` is the class of requests that name none. Entering waits up to 2 s for
    a gateway, then goes on without. Methods may be called from any thread.
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
        device_id: str | None = None,
        profile: str | Path | None = None,
        analyse: bool = True,
        packing: bool = True,
        priority: PriorityName = "normal",
        credentials: str | Path | None = None,
    ) -> None:
        address = parse_broker_url(broker, credentials=credentials)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.device_id = address.client_name("device", device_id) or f"dev-{uuid.uuid4().hex[:12]}"
        self._objective = Objective(objective, deadline_ms, min_agreement, keep_input_local)
        self._power = _NOMINAL_POWER if profile is None else load_profile(str(profile)).power_with(1)
        self._analyse = analyse
        self._priority = _priority_of(priority)
        self._graph = self.bundle.graph
        limits = Limits(_MAX_REPLY_BYTES, _MAX_REPLY_BYTES)
        self._new_exchange = partial(Exchange, address, self.device_id, self.bundle.digest, limits, packing=packing)
        self._exchange = self._new_exchange()
        self._lock = threading.Lock()
        self._factor = 1.0
        self._late_ms = 0.0
        self._sizes = SizeEstimates(self.bundle.ladder)
        self._known: dict[str, _Known] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Device:
        try:
            self._factor = self.bundle.measure_whole_ms() / self.bundle.costs.whole_ms
            self._exchange.start(GATEWAY_WAIT_S)
        except BaseException:
            self._exchange.close()
            raise
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
        them, CodecError on an unknown codec, PlanError on machines that are not one for each cut.
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
        started = time.perf_counter()
        cancellation.check()
        rank = self._priority if priority is None else _priority_of(priority)
        tensors = self.bundle.check_inputs(self._tensors(inputs, source))
        objective = self._objective if deadline_ms is None else replace(self._objective, deadline_ms=deadline_ms)
        limit_ms = objective.deadline_ms
        timings: dict[str, float] = {}
        analysis = self._analysis(tensors, sample_rate)
        timings["analysis"] = _since(started)
        mark = time.perf_counter()
        features = None if analysis is None else size_features(analysis.features, tensors)
        request_id = uuid.uuid4().bytes
        forced = None if cut is None and codec is None and machines is None else self._forced(cut, codec, machines)
        plan, route = self._plan(analysis, features, objective, forced, request_id)
        timings["plan"] = _since(mark)
        if route.first is None or not (plan.offloads or cut is not None):
            self._exchange.probe()
        cancellation.check()
        begun = self._begin(plan, tensors, timings)
        exited = None if plan.exit is None else self._exited(begun, timings)
        if exited is not None:
            result = Result(exited, plan, timings, analysis, ("device",), exited=True)
        elif plan.offloads:
            result = self._offload(
                tensors,
                begun,
                plan,
                route,
                request_id,
                rank,
                analysis,
                features,
                timings,
                started,
                limit_ms,
                cancellation,
            )
        else:
            outputs = self._locally(begun, timings)
            why = None if cut == LOCAL_CUT or route.gateways else self._exchange.absence()
            result = Result(outputs, plan, timings, analysis, ("device",), fallback=why)
        timings["total"] = _since(started)
        return result

    def check_plan(self, cut: str | Sequence[str] | None, codec: str | None) -> None:
        """Raise what `infer` raises where it cannot be forced to this cut and codec, without an input."""
        if cut is not None or codec is not None:
            self._candidate(self._options(None).table.candidates, self._forced(cut, codec, None))

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

    def _plan(
        self,
        analysis: Analysis | None,
        features: Mapping[str, float] | None,
        objective: Objective,
        forced: _Forced | None,
        request_id: bytes,
    ) -> tuple[Plan, Route]:
        if forced is None:
            route = self._exchange.route(1, None, request_id, forced=False)
        else:
            route = self._exchange.route(1 + len(forced.onward), forced.machines, request_id, forced=True)
        presence = route.first
        known = self._options(presence)
        state = SystemState(
            self._exchange.link() if presence is not None or forced is not None else None,
            gateway_wait_ms=0.0 if presence is None else self._exchange.wait_ms(presence.gateway_id),
            gateway_waits_ms={} if presence is None else self._exchange.waits_ms(presence.gateway_id),
            complexity=None if analysis is None else analysis.score,
        )
        if forced is None:
            return decide_from(known.table, state, objective, self._inputs(known, features)), route
        chosen = self._sized(self._candidate(known.table.candidates, forced), features)
        plan = plan_for(chosen, state, self._power, "forced by the caller")
        if forced.onward:
            names = [gateway.gateway_id for gateway in route.gateways[1:]]
            further = names or [f"{GATEWAY}-{place + 2}" for place in range(len(forced.onward))]
            heads = [(cut_id, self.bundle.manifest.cut(cut_id).nodes) for cut_id in forced.onward]
            plan = in_stages(plan, heads, [GATEWAY, *further])
        return plan, route

    def _options(self, presence: Presence | None) -> _Known:
        """What can be done, at the costs known now; without a gateway, at those of one as fast as the converter's.

        Made again only when a gateway has reported, or a cost has changed by more than a little.
        """
        with self._lock:
            known = self._known.get("" if presence is None else presence.gateway_id)
            factor, sizes = self._factor, len(self._sizes)
            if known is not None and known.holds(presence, factor, sizes):
                return known
        there = times_from_costs(self.bundle.costs)
        if presence is not None:
            tails = presence.tail_ms.get(self.bundle.digest.hex(), {})
            guess = times_from_costs(self.bundle.costs, 1.0 / presence.speed_factor)
            there = MachineTimes(tails.get("whole", guess.whole_ms), {}, {**guess.tail_ms, **tails})
        here = times_from_costs(self.bundle.costs, factor)
        options = candidates(self.bundle.manifest, self._graph, here, there, self.bundle.ladder)
        if self.bundle.early_exit is not None:
            options = with_exit(options, self.bundle.early_exit, here)
        if presence is not None:
            libraries = frozenset(presence.knows).intersection(optional_libraries())
            same_bases = presence.bases.get(self.bundle.digest.hex()) == self.bundle.bases_id
            options = tuple(option for option in options if _travels(option, libraries, same_bases))
        with self._lock:
            places = self._sizes.places([(option.cut, option.codec) for option in options])
            known = _Known(presence, factor, Table(options, self._power), places, len(self._sizes))
            self._known["" if presence is None else presence.gateway_id] = known
            if len(self._known) > _MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known

    def _inputs(self, known: _Known, features: Mapping[str, float] | None) -> Inputs:
        """The sizes and the chance of an early exit that this input is expected to have."""
        table, early = known.table, self.bundle.early_exit
        with self._lock:
            payloads = self._sizes.sizes_of(known.places, table.payload_bytes, features)
            reply = self._sizes.reply_bytes(features)
        fixed = all(None not in spec.shape for spec in self.bundle.outputs)
        return Inputs(payloads, None if fixed else reply, None if early is None else early.share_of(features))

    def _sized(self, option: Candidate, features: Mapping[str, float] | None) -> Candidate:
        """A candidate with the payload that this input is expected to have."""
        with self._lock:
            places = self._sizes.places([(option.cut, option.codec)])
            (size,) = self._sizes.sizes_of(places, np.array([float(option.payload_bytes)]), features)
        return replace(option, payload_bytes=int(size)) if option.offloads else option

    def _sent(self, plan: Plan, features: Mapping[str, float] | None, sent_bytes: int) -> None:
        """Remember what a payload took."""
        with self._lock:
            self._sizes.observe((plan.cut, plan.codec), features, sent_bytes)

    def _forced(self, cut: str | Sequence[str] | None, codec: str | None, machines: Sequence[str] | None) -> _Forced:
        """What the caller forces, checked as far as it can be without a gateway."""
        cuts = [INPUT_CUT] if cut is None else [cut] if isinstance(cut, str) else list(cut)
        between = cuts[1:] if cuts[:1] == [INPUT_CUT] else cuts
        if between and cuts != [LOCAL_CUT]:
            self.bundle.manifest.cut_chain(between)
        if not cuts or len(cuts) > MAX_STAGES:
            raise PlanError(f"{len(cuts)} cuts were given; a plan has 1 to {MAX_STAGES}")
        if machines is not None and (isinstance(machines, str) or len(machines) != len(cuts) or cuts == [LOCAL_CUT]):
            raise PlanError(
                f"machines={machines!r} beside cut={cut!r}: name as many gateways as there are cuts, the one that runs "
                "what follows the first cut first"
            )
        return _Forced(cuts[0], tuple(cuts[1:]), codec, None if machines is None else tuple(machines))

    def _candidate(self, options: tuple[Candidate, ...], forced: _Forced) -> Candidate:
        codec = find_codec("raw" if forced.codec is None else forced.codec)
        if forced.cut == LOCAL_CUT:
            return options[0]
        wanted = None if forced.cut == INPUT_CUT else forced.cut
        places = [option for option in options if option.offloads and option.exit is None and option.cut == wanted]
        for option in places:
            if option.codec == codec.name:
                return option
        where = "the input" if wanted is None else f"cut {wanted!r}"
        if not places:
            raise PlanError(f"{where} of bundle {self.bundle.name!r} never travels: the model's state stays with it")
        described = {"image" if isinstance(s, ImageInput) else "audio" for s in self.bundle.manifest.semantics.values()}
        needed = {"pictures": "image", "sounds": "audio"}.get(codec.takes)
        if needed is not None and (wanted is not None or needed not in described):
            raise PlanError(
                f"codec {codec.name!r} cannot carry {where} of bundle {self.bundle.name!r}: it is for {codec.takes} as "
                "whole input"
            )
        # Not calibrated, so its size is not known: that of the elements is the most it can be.
        return replace(places[0], codec=codec.name, lossless=codec.lossless, agreement=None)

    def _begin(self, plan: Plan, tensors: Tensors, timings: dict[str, float]) -> _Begun:
        """The head of the plan, or of its early exit; the inputs as they are where neither has one."""
        cut = plan.cut if plan.exit is None else plan.exit
        codec = plan.codec if cut == plan.cut else "raw"
        timings["device"] = 0.0
        if cut is None:
            return _Begun(None, tensors, {}, None)
        mark = time.perf_counter()
        crossing, outputs, codes = self.bundle.run_head_for(cut, codec, tensors)
        timings["device"] = _since(mark)
        self._learn(self.bundle.costs.cuts[cut].head_ms, timings["device"])
        return _Begun(cut, crossing, outputs, codes)

    def _exited(self, begun: _Begun, timings: dict[str, float]) -> Tensors | None:
        """The early exit's answer, None where it is not sure enough."""
        mark = time.perf_counter()
        answer = self.bundle.run_exit(begun.crossing)
        timings["exit"] = _since(mark)
        return answer

    def _offload(
        self,
        tensors: Tensors,
        begun: _Begun,
        plan: Plan,
        route: Route,
        request_id: bytes,
        rank: Priority,
        analysis: Analysis | None,
        features: Mapping[str, float] | None,
        timings: dict[str, float],
        started: float,
        limit_ms: float | None,
        cancellation: Cancellation,
    ) -> Result:
        mark = time.perf_counter()
        crossing = tensors if plan.cut is None else begun.crossing
        give_up_ms = self._give_up_ms(begun.cut, limit_ms)
        pending, sent, received = None, 0, 0
        made = {} if plan.cut is None else begun.outputs
        presence = route.first
        if presence is None:
            problem = route.problem or self._exchange.absence()
        else:
            try:
                zstd = ZSTD_LIBRARY in presence.knows
                encoded = self.bundle.encode(plan.cut, plan.codec, crossing, zstd, begun.codes)
            except (CodecError, MissingExtraError) as error:
                encoded, problem = None, str(error)
            timings["encode"] = _since(mark)
            if encoded is not None:
                remaining_ms = give_up_ms - _since(started)
                request = self._request(plan, route, request_id, rank, encoded, analysis, remaining_ms)
                mark = time.perf_counter()
                wait_s = (give_up_ms - _since(started)) / 1e3
                pending = self._exchange.ask(
                    request,
                    presence,
                    wait_s,
                    directly=route.directly,
                    outputs=len(self.bundle.outputs) - len(made) if plan.onward else None,
                    cancellation=cancellation,
                )
                sent, received = pending.sent_bytes, pending.received_bytes
                problem = pending.problem or ""
                waited_ms = _since(mark)
                if pending.reply is None:
                    self._woke(max(0.0, waited_ms - wait_s * 1e3))
        if pending is not None and pending.reply is not None:
            mark = time.perf_counter()
            answer, problem = self._decoded((*pending.partial, pending.reply), made)
            timings["pack"] = pending.held_ms
            timings["gateway"] = sum(reply.queue_ms + reply.compute_ms for reply in (*pending.partial, pending.reply))
            timings["link"] = max(0.0, waited_ms - timings["pack"] - timings["gateway"])
            timings["decode"] = _since(mark)
            if answer is not None:
                self._sent(plan, features, sum(len(tensor.data) for tensor in request.tensors))
                machines = tuple(DEVICE if stage.machine == DEVICE else GATEWAY for stage in plan.stages)
                return Result(answer, plan, timings, analysis, machines, sent, received)
        cancellation.check()
        outputs = self._locally(begun, timings)
        return Result(outputs, plan, timings, analysis, ("device",), sent, received, fallback=problem)

    def _request(
        self,
        plan: Plan,
        route: Route,
        request_id: bytes,
        rank: Priority,
        encoded: tuple[EncodedTensor, ...],
        analysis: Analysis | None,
        remaining_ms: float,
    ) -> Request:
        features = () if analysis is None else tuple(list(analysis.features.items())[:MAX_FEATURES])
        return Request(
            request_id=request_id,
            bundle_digest=self.bundle.digest,
            cut=plan.cut or "",
            codec=plan.codec,
            deadline_ms=min(max(1, int(remaining_ms)), MAX_DEADLINE_MS),
            score=0.0 if analysis is None else analysis.score,
            features=features,
            tensors=encoded,
            priority=rank,
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

    def _locally(self, begun: _Begun, timings: dict[str, float]) -> Tensors:
        """The rest of the model, here."""
        mark = time.perf_counter()
        outputs = self.bundle.run_tail(begun.cut, begun.crossing)
        took = _since(mark)
        timings["device"] = timings.get("device", 0.0) + took
        costs = self.bundle.costs
        self._learn(costs.whole_ms if begun.cut is None else costs.cuts[begun.cut].tail_ms, took)
        return self._ordered(begun.outputs | outputs)

    def _learn(self, expected_ms: float, took_ms: float) -> None:
        """Correct how much slower this device is than the machine that measured the bundle."""
        if expected_ms < 0.05:
            return
        with self._lock:
            factor = min(took_ms / expected_ms, 4 * self._factor)
            self._factor += _SMOOTHING * (factor - self._factor)

    def _woke(self, late_ms: float) -> None:
        """Remember how late this machine let a request know that its time was over."""
        with self._lock:
            self._late_ms = max(late_ms, _LATE_DECAY * self._late_ms)

    def _give_up_ms(self, begun: str | None, limit_ms: float | None) -> float:
        """When to stop waiting, in ms after the request began: in time to finish here, where that can be in time."""
        if limit_ms is None:
            return PATIENCE_MS
        costs = self.bundle.costs
        with self._lock:
            rest_ms = self._factor * (costs.whole_ms if begun is None else costs.cuts[begun].tail_ms)
            late_ms = min(self._late_ms, _LATE_SHARE * limit_ms)
        latest = limit_ms - rest_ms * _RESERVE - _RESERVE_MS - late_ms
        return latest if latest > 0 else limit_ms

    def _ordered(self, outputs: Tensors) -> Tensors:
        return {spec.name: outputs[spec.name] for spec in self.bundle.outputs}


def _travels(option: Candidate, libraries: Set[str], same_bases: bool) -> bool:
    """Whether a gateway can decode an option's payload, with the libraries that both ends have and its bases."""
    if not option.offloads:
        return True
    codec = find_codec(option.codec)
    if codec.family == "klt" and not same_bases:
        return False
    return codec.library is None or codec.library in libraries


def _priority_of(name: str) -> Priority:
    """The class of this name; raises InputError where there is none."""
    known = get_args(PriorityName)
    if name not in known:
        raise InputError(f"no priority is called {name!r}; known are {', '.join(known)}")
    return Priority[name.upper()]


def _since(mark: float) -> float:
    return (time.perf_counter() - mark) * 1e3
