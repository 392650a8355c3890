"""The device: for each input it analyses, plans, runs its part, sends the rest away, and answers in any case."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from midstream.analysis import Analysis
from midstream.answering import MAX_REPLY_BYTES, Answering, Asked, Result, since
from midstream.bundle import Bundle
from midstream.cancelling import Cancellation
from midstream.communication.address import parse_broker_url
from midstream.communication.wire import Limits, Priority
from midstream.complexity import analyze_inputs
from midstream.deciding import Deciding
from midstream.device_usage import DeviceUsage
from midstream.errors import InputError
from midstream.exchange import Exchange
from midstream.files import check_writable
from midstream.history import for_device
from midstream.inputs import ImageInput, prepare_image
from midstream.partitioning import (
    LinkEstimate,
    LinkState,
    Objective,
    Plan,
    Power,
    Tariff,
    size_features,
)
from midstream.partitioning.replay import PlannerName
from midstream.partitioning.state import ObjectiveKind
from midstream.planning import LOCAL_CUT, Planning
from midstream.profiles import load_profile
from midstream.sensing import LoadMonitor
from midstream.stream import FrameStream
from midstream.tensors import Tensor, Tensors, named_tensors

__all__ = ["GATEWAY_WAIT_S", "Device", "PriorityName", "Result"]

PriorityName = Literal["critical", "normal", "bulk"]
GATEWAY_WAIT_S = 2.0
# So many answers of `infer_async` are under way at once; further ones wait for them.
_MOST_ASYNC = 64
_NOMINAL_POWER = Power(idle_w=1.0, busy_w=2.5, radio_uj_per_byte=0.1)


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
        limits = Limits(MAX_REPLY_BYTES, MAX_REPLY_BYTES)
        self._new_exchange = partial(Exchange, address, self.device_id, self.bundle.digest, limits, packing=packing)
        self._lock = threading.Lock()
        self._monitor = LoadMonitor()
        deciding = Deciding(planner, self._objective, self.bundle.digest.hex(), power, decisions)
        state_file = _state_file(state_dir, self.bundle, named)
        self._planning = Planning(self.bundle, power, deciding, state_file, self._monitor.now)
        recorder = None if history is None else for_device(history, history_bytes)
        self._usage = DeviceUsage(recorder, self.device_id, self.bundle.digest.hex())
        self._answering = Answering(self.bundle, self.device_id, self._planning, self._new_exchange())
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
        closed, self._answering.exchange = self._exchange, self._new_exchange()
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
        timings = {"analysis": since(started)}
        request_id = uuid.uuid4().bytes
        free = cut is None and codec is None and machines is None
        spent.on("analysis")
        asked = Asked(
            tensors, analysis, features, objective, rank, request_id, free, started, timings, spent, cancellation
        )
        plan: Plan | None = None
        try:
            plan, route = self._answering.planned(asked, None if free else self._planning.forced(cut, codec, machines))
            if not plan.offloads:
                self._answering.look_at_link(asked, plan, route)
            result = self._answering.answered(asked, plan, route, wants_local=cut == LOCAL_CUT)
            if plan.offloads:
                # Before, it would hold the request up.
                self._answering.look_at_link(asked, plan, route)
        except BaseException as error:
            self._usage.failed(asked, plan, error)
            raise
        self._usage.answered(asked, result)
        return result

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

    @property
    def _exchange(self) -> Exchange:
        return self._answering.exchange

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
