"""The gateway: takes requests from its topics, runs tails in the order of their deadlines, replies."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from midstream.allocation.rates import DEFAULT_RATES, Rates
from midstream.allocation.scaling import Scaling
from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.announcements import MAX_BUNDLES
from midstream.communication.codecs import optional_libraries
from midstream.communication.fec import FEC_LIBRARY, fec_available
from midstream.communication.lanes import Lanes
from midstream.communication.presence import Presence
from midstream.communication.transport import Message
from midstream.communication.wire import Buffer, Limits, Request, Status
from midstream.engines import Accelerator
from midstream.errors import AcceleratorError, BundleError, MidstreamError, PeerError
from midstream.gateway.allocating import Allocator
from midstream.gateway.announcing import Announcer
from midstream.gateway.collecting import Collector
from midstream.gateway.forecasting import Forecasting, Forecasts, checked_folder
from midstream.gateway.logs import LogUsage
from midstream.gateway.metering import LinkMeter
from midstream.gateway.observing import Observers, refused
from midstream.gateway.peers import Peers
from midstream.gateway.pooling import checked_pool, secret_of_pool
from midstream.gateway.posting import Post
from midstream.gateway.receiving import Receiver
from midstream.gateway.scaling import measured_scaling
from midstream.gateway.served import ServedBundle
from midstream.gateway.status import BundleStatus, Condition, GatewayStatus, PartitionStatus
from midstream.gateway.tallying import StageNames, Tally
from midstream.gateway.warming import Warmth
from midstream.gateway.web import Web
from midstream.gateway.work import Work
from midstream.history import for_gateway
from midstream.sensing import free_memory_bytes, peak_bytes, usable_cores
from midstream.version import __version__

_log = logging.getLogger("midstream.gateway")

PRESENCE_EVERY_S = 1.0
LOAD_EVERY_S = 0.1
# Of the memory that is free when it starts, so much is for loaded slices.
_MEMORY_SHARE = 0.5
# One that was asked for something within so long listens for so long yet after it has told devices that it stops.
_BUSY_S, _LINGER_S = 1.0, 0.25


class Gateway:
    """Serves the tails of bundles. ``with Gateway(bundles=[path], broker=url) as gateway: gateway.serve()``.

    ``workers`` requests run at once, each with one engine thread and its own copy of the slices in use; the default is
    as many as do most here, which is measured on entering. What they keep loaded follows what is forecast to be asked
    for, within ``memory_bytes`` (default: half of what is free). ``forecasts`` are made by "all" predictors, by
    "simple" ones without the network, or say that all is as in the "last" second; the network is the one in the folder
    ``forecast_model``, where there is one, and with a ``history`` is trained on into it. Without ``admission`` it lets
    in requests that cannot be answered in time. ``credentials`` is the folder with this gateway's certificate where the
    broker wants one: its name is then the gateway's id. ``accelerator`` is what runs them, "edgetpu" never, as only
    heads are compiled for it. With ``pool`` it shares requests with the other gateways of this pool, by a subscription
    whose name follows from ``pool_secret`` (default: as the environment's MIDSTREAM_POOL_SECRET or the credentials say;
    without accounts none is needed). ``rates`` bound what it takes of one device. ``slowdown`` stretches every run, as
    `Bundle` does, to stand for a slower machine. ``history`` names a file for what each request has used, of at most
    ``history_bytes`` (256 MiB), which ``midstream history`` reads. With ``http``, a port of 127.0.0.1 (0: any that is
    free) or HOST:PORT, it shows metrics, health and a status page there; beyond loopback to those alone who have the
    ``http_token`` (default: as the environment's MIDSTREAM_HTTP_TOKEN says).

    Raises BundleError on a damaged bundle, AcceleratorError where the accelerator cannot be used, InputError on a wrong
    broker URL, wrong credentials, a pool, a history, a forecast model or an ``http`` that is none, and
    MissingExtraError where ``http`` needs the extra [gateway], all at once; a broker that is not up yet is waited for.
    Entering it raises InputError where the port of ``http`` is taken.
    """

    def __init__(
        self,
        bundles: Sequence[str | Path],
        broker: str,
        *,
        gateway_id: str | None = None,
        workers: int | None = None,
        memory_bytes: int | None = None,
        admission: bool = True,
        forecasts: Forecasts = "all",
        forecast_model: str | Path | None = None,
        accelerator: Accelerator = "cpu",
        credentials: str | Path | None = None,
        pool: str | None = None,
        pool_secret: str | None = None,
        rates: Rates = DEFAULT_RATES,
        slowdown: float = 1.0,
        http: int | str | None = None,
        http_token: str | None = None,
        history: str | Path | None = None,
        history_bytes: int | None = None,
    ) -> None:
        address = parse_broker_url(broker, credentials=credentials)
        self.gateway_id = topics.check_id(address.client_name("gateway", gateway_id) or f"gw-{uuid.uuid4().hex[:12]}")
        self._pool = None if pool is None else checked_pool(pool)
        self._pool_secret = "" if pool is None else secret_of_pool(pool, pool_secret, address)
        if accelerator == "edgetpu":
            raise AcceleratorError(
                "a gateway runs tails, and only heads are compiled for the Edge TPU: run the gateway on cpu, or ONNX "
                "bundles on cuda or tensorrt, and give edgetpu to the device, midstream run --accelerator edgetpu"
            )
        self._web = None if http is None else Web(http, http_token, self.status)
        self._workers = workers
        copies = max(1, workers or len(usable_cores()))
        served = [ServedBundle(path, copies, accelerator, slowdown) for path in bundles]
        if not served:
            raise BundleError(
                "a gateway needs at least one bundle; convert a model first: midstream convert MODEL -o DIR"
            )
        self._knows = optional_libraries() + ((FEC_LIBRARY,) if fec_available() else ())
        self._served = {bundle.digest: bundle for bundle in served}
        if len(self._served) > MAX_BUNDLES:
            raise BundleError(
                f"a gateway serves at most {MAX_BUNDLES} bundles, {len(self._served)} were given; start another one "
                "for the rest of them"
            )
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._cannot_announce: PeerError | None = None
        self._presence_topic = topics.presence_topic(self.gateway_id)
        self._load_topic = topics.load_topic(self.gateway_id)
        self._transport = Lanes(
            address,
            f"midstream-gw-{self.gateway_id}",
            will=(self._presence_topic, b""),
            on_message=self._on_message,
            on_state=self._on_state,
        )
        limits = Limits(*(max(bundle.max_request_bytes for bundle in served),) * 2)
        meter = LinkMeter()
        known = [bundle.known for bundle in self._served.values()]
        names = self._names = StageNames(known)
        self._bundle_statuses = tuple(
            BundleStatus(names.bundles[each.digest], each.digest, each.cuts) for each in known
        )
        self._tally = Tally(names)
        self._observers = Observers()
        self._collector = Collector()
        self._observers.add(self._tally)
        self._observers.add(LogUsage(names))
        self._history = None if history is None else for_gateway(history, history_bytes)
        if self._history is not None:
            self._observers.add(self._history.record)
        post = self._post = Post(self._transport, self.gateway_id, limits.max_message_bytes, meter)
        self._peers = Peers(self.gateway_id, {bundle.digest: bundle.bases_id for bundle in served})
        self._work = Work(
            post,
            self._peers,
            self._transport,
            self._news.set,
            self._observers,
            self._collector,
            admission=admission,
        )
        self._memory_bytes = memory_bytes
        self._forecasts: Forecasts = forecasts
        self._forecast_model = None if forecast_model is None else checked_folder(Path(forecast_model), history)
        self._history_path = None if history is None else Path(history)
        self._allocator: Allocator | None = None
        self._receiver = Receiver(post, self._peers, limits, rates, self._admit, self._work.cancel)
        self._announcer = Announcer(self._transport, self.gateway_id, meter)
        self._announcing = threading.Lock()
        self._began_s = time.monotonic()
        self._ready = False

    def __enter__(self) -> Gateway:
        if self._stopped.is_set():
            raise MidstreamError(f"gateway {self.gateway_id} was stopped; make another one")
        self._began_s = time.monotonic()
        try:
            if self._web is not None:
                self._web.start()
            for bundle in self._served.values():
                bundle.measure()
            if self._history is not None:
                self._history.start()
            self._start_work()
            own = (topics.request_filter(self.gateway_id), *topics.gateway_filters(self.gateway_id))
            for topic_filter in (*own, topics.presence_filter(), topics.load_filter()):
                self._transport.subscribe(topic_filter)
            self._transport.start()
            self._ready = True
        except BaseException:
            self._close()
            raise
        return self

    def _start_work(self) -> None:
        """Start as many workers as were asked for, or as do most here, and what has them ready for what comes."""
        if self._workers is None:
            slowest = max(self._served.values(), key=lambda bundle: bundle.expected_ms(""))
            scaling = measured_scaling([partial(bundle.measure_whole_ms, 1) for bundle in slowest.bundles])
        else:
            scaling = Scaling(self._workers)
        for bundle in self._served.values():
            bundle.keep(scaling.workers)
        budget_bytes = self._memory_bytes or (free_memory_bytes() or math.inf) * _MEMORY_SHARE
        warmth = Warmth({digest.hex(): bundle for digest, bundle in self._served.items()})
        self._allocator = Allocator(
            self._work,
            self._collector,
            warmth,
            Forecasting(self._forecasts, scaling.workers, self._forecast_model, self._history_path),
            scaling.workers,
            budget_bytes,
        )
        self._work.start(scaling.workers, sorted(usable_cores())[: scaling.workers] if scaling.pinned else ())
        self._allocator.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self.stop()
        with suppress(PeerError):
            self._announce_presence()
        if self._pool is not None:
            self._transport.main.unsubscribe(topics.pool_filters(self._pool, self._pool_secret)[0])
        if self._allocator is not None:
            self._allocator.close()
        told_s = time.monotonic()
        self._work.close()
        if self._work.asked_s > told_s - _BUSY_S:
            # What was on its way when devices were told to ask others is refused, and so not waited for in vain.
            time.sleep(max(0.0, told_s + _LINGER_S - time.monotonic()))
        self._transport.close(last=(self._presence_topic, b""))
        self._post.mail.close()
        if self._web is not None:
            self._web.close()
        if self._history is not None:
            self._history.close()

    def serve(self) -> None:
        """Serve until `stop` is called, from a signal handler or another thread.

        Raises PeerError where the broker refuses for good: credentials, or an MQTT version, or messages large enough.
        """
        presence_due = 0.0
        while not self._stopped.is_set():
            if self.given_up:
                raise PeerError(self.last_error or "the broker refuses this gateway")
            if self._cannot_announce is not None:
                raise self._cannot_announce
            now = time.monotonic()
            if now >= presence_due:
                self._announce_presence()
                presence_due = now + PRESENCE_EVERY_S
            self._news.clear()
            self._announce_load()
            # However much happens, this thread takes no more turns than there may be reports.
            if not self._stopped.wait(LOAD_EVERY_S):
                self._news.wait(max(0.0, presence_due - time.monotonic()))

    def stop(self) -> None:
        """Make `serve` return.

        When the ``with`` block ends, devices are told to ask others, and what waits is finished: within 10 s, or it is
        refused.
        """
        self._stopped.set()
        self._news.set()

    @property
    def http_url(self) -> str | None:
        """Where its state is shown; None where it is not, or not yet."""
        return None if self._web is None else self._web.url

    def status(self) -> GatewayStatus:
        """The gateway now, as it is shown; from any thread."""
        load = self._work.load()
        return GatewayStatus(
            self.gateway_id,
            __version__,
            time.time(),
            time.monotonic() - self._began_s,
            self._condition(),
            self.connected,
            None if self.connected else self.last_error,
            self._pool,
            self._work.workers,
            load.queue_length,
            load.wait_ms,
            load.load,
            free_memory_bytes(),
            peak_bytes(),
            self._bundle_statuses,
            self._partition_statuses(),
        )

    def _partition_statuses(self) -> tuple[PartitionStatus, ...]:
        counts, allocator = self._tally.counts(), self._allocator
        if allocator is None:
            return tuple(PartitionStatus(name, counted) for name, counted in counts.items())
        predictors, stages = allocator.predictors(), self._names.stages()
        return tuple(
            PartitionStatus(name, counted, *allocator.held(stages[name]), predictors.get(stages[name], ()))
            if name in stages
            else PartitionStatus(name, counted)
            for name, counted in counts.items()
        )

    def _condition(self) -> Condition:
        if self._stopped.is_set():
            return Condition.DRAINING
        if not self._ready:
            return Condition.STARTING
        return Condition.SERVING if self.connected else Condition.BROKER_LOST

    def wait_connected(self, wait_s: float) -> bool:
        """Wait until the broker is reached, or refuses for good; returns whether it is."""
        self._transport.start(wait_s)
        return self.connected

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._transport.connected

    @property
    def last_error(self) -> str | None:
        """Why the broker cannot be reached, if that is known."""
        return self._transport.last_error

    @property
    def given_up(self) -> bool:
        """Whether the broker refused for good, so that `serve` raises."""
        return self._transport.given_up

    def _on_state(self, connected: bool) -> None:
        _log.info("broker %s", "connected" if connected else "lost")
        if not connected:
            self._peers.forget()
        else:
            self._join_pool()
            try:
                self._announce_presence(always=True)
                self._announce_load(always=True)
            except PeerError as error:
                # The next connection may be as short as this one: `serve` has to hear of it here.
                self._cannot_announce = error
                _log.warning("%s", error)

    def _join_pool(self) -> None:
        """Share the requests to the pool, where this broker can share."""
        if self._pool is None:
            return
        shared, control = topics.pool_filters(self._pool, self._pool_secret)
        self._transport.subscribe(control)
        if self._transport.shares_subscriptions:
            self._transport.subscribe(shared)
        else:
            _log.warning("the broker shares no subscriptions: devices ask the members of pool %s directly", self._pool)

    def _announce_presence(self, *, always: bool = False) -> None:
        # One that stops is still there for what it was asked, and has no bundles for what is new.
        presence = (
            Presence(self.gateway_id)
            if self._stopped.is_set()
            else Presence(
                self.gateway_id,
                tuple(self._served),
                tail_ms={digest.hex(): bundle.tail_ms() for digest, bundle in self._served.items()},
                knows=self._knows,
                bases={digest.hex(): bundle.bases_id for digest, bundle in self._served.items() if bundle.bases_id},
                pools=() if self._pool is None else (self._pool,),
            )
        )
        with self._announcing:
            self._announcer.presence(presence, always=always)

    def _announce_load(self, *, always: bool = False) -> None:
        load, allocator = self._work.load(), self._allocator
        forecast_ms = None if allocator is None else allocator.ready.wait_ms
        with self._announcing:
            self._announcer.load(load, forecast_ms, time.monotonic(), always=always)

    def _on_message(self, message: Message) -> None:
        # What the broker has kept may be this gateway's own, from before it was started again.
        if message.topic == self._load_topic and not message.retained:
            self._announcer.heard(message.payload)
        if message.topic == self._presence_topic and not message.payload:
            # The will of a connection before this one, which the broker has missed only now.
            with self._announcing:
                self._announcer.forget()
        self._receiver.take(message)

    def _admit(self, device_id: str, request: Request, data: Buffer, packed: bool) -> tuple[Status, str] | None:
        """Let a request in, or say why not."""
        refusal = self._refusal(device_id, request, data, packed)
        if refusal is not None:
            self._observers(refused(device_id, request, len(data), *refusal))
        return refusal

    def _refusal(self, device_id: str, request: Request, data: Buffer, packed: bool) -> tuple[Status, str] | None:
        served = self._served.get(request.bundle_digest)
        if served is None:
            names = ", ".join(sorted(bundle.name for bundle in self._served.values()))
            digest = request.bundle_digest.hex()[:12]
            return Status.UNKNOWN_BUNDLE, f"this gateway has no bundle {digest}…; it has {names}"
        if unknown := served.unknown_stage(request):
            return Status.UNKNOWN_CUT, unknown
        if request.deadline_ms == 0:
            return Status.EXPIRED, "its deadline had passed when it was sent"
        if misfit := served.misfit(request, len(data)):
            return Status.BAD_REQUEST, misfit
        if request.onward:
            peer, problem = self._peers.runner(request)
            if peer is None:
                return Status.CANNOT_FORWARD, problem
        return self._work.offer(served, device_id, request, data, packed)
