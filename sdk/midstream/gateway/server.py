"""The gateway: takes requests from its topics, runs tails in the order of their deadlines, replies."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.announcements import MAX_BUNDLES
from midstream.communication.codecs import optional_libraries
from midstream.communication.fec import FEC_LIBRARY, fec_available
from midstream.communication.presence import Presence
from midstream.communication.transport import MqttTransport
from midstream.communication.wire import Buffer, Limits, Request, Status
from midstream.engines import Accelerator
from midstream.errors import AcceleratorError, BundleError, MidstreamError, PeerError
from midstream.gateway.announcing import Announcer
from midstream.gateway.posting import Post
from midstream.gateway.receiving import Receiver
from midstream.gateway.served import ServedBundle
from midstream.gateway.work import Job, Work

_log = logging.getLogger("midstream.gateway")

PRESENCE_EVERY_S = 1.0
LOAD_EVERY_S = 0.1


class Gateway:
    """Serves the tails of bundles. ``with Gateway(bundles=[path], broker=url) as gateway: gateway.serve()``.

    ``workers`` requests run at once, each with one engine thread and its own copy of the slices in use; the default is
    one for each core. ``credentials`` is the folder with this gateway's certificate where the broker wants one: its
    name is then the gateway's id. ``accelerator`` is what runs them, "edgetpu" never, as only heads are compiled for
    it. Raises BundleError on a damaged bundle, AcceleratorError where the accelerator cannot be used, and InputError on
    a wrong broker URL or wrong credentials, all at once; a broker that is not up yet is waited for.
    """

    def __init__(
        self,
        bundles: Sequence[str | Path],
        broker: str,
        *,
        gateway_id: str | None = None,
        workers: int | None = None,
        accelerator: Accelerator = "cpu",
        credentials: str | Path | None = None,
    ) -> None:
        address = parse_broker_url(broker, credentials=credentials)
        self.gateway_id = topics.check_id(address.client_name("gateway", gateway_id) or f"gw-{uuid.uuid4().hex[:12]}")
        if accelerator == "edgetpu":
            raise AcceleratorError(
                "a gateway runs tails, and only heads are compiled for the Edge TPU: run the gateway on cpu, or ONNX "
                "bundles on cuda or tensorrt, and give edgetpu to the device, midstream run --accelerator edgetpu"
            )
        workers = max(1, workers or os.cpu_count() or 1)
        served = [ServedBundle(path, workers, accelerator) for path in bundles]
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
        presence = topics.presence_topic(self.gateway_id)
        self._transport = MqttTransport(
            address,
            f"midstream-gw-{self.gateway_id}",
            will=(presence, b""),
            on_message=lambda message: self._receiver.take(message),
            on_state=self._on_state,
        )
        post = Post(self._transport, self.gateway_id)
        limits = Limits(*(max(bundle.max_request_bytes for bundle in served),) * 2)
        self._work = Work(workers, post, self._news.set)
        self._receiver = Receiver(post, limits, self._admit)
        self._announcer = Announcer(self._transport, self.gateway_id)
        self._announcing = threading.Lock()

    def __enter__(self) -> Gateway:
        if self._stopped.is_set():
            raise MidstreamError(f"gateway {self.gateway_id} was stopped; make another one")
        try:
            for bundle in self._served.values():
                bundle.measure()
            self._work.start()
            self._transport.subscribe(topics.request_filter(self.gateway_id))
            self._transport.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self.stop()
        self._work.close()
        self._transport.close(last=(topics.presence_topic(self.gateway_id), b""))

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
        """Make `serve` return. What is running is finished when the ``with`` block ends."""
        self._stopped.set()
        self._news.set()

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
        if connected:
            try:
                self._announce_presence(always=True)
                self._announce_load(always=True)
            except PeerError as error:
                # The next connection may be as short as this one: `serve` has to hear of it here.
                self._cannot_announce = error
                _log.warning("%s", error)

    def _announce_presence(self, *, always: bool = False) -> None:
        presence = Presence(
            self.gateway_id,
            tuple(self._served),
            tail_ms={digest.hex(): bundle.tail_ms() for digest, bundle in self._served.items()},
            knows=self._knows,
            bases={digest.hex(): bundle.bases_id for digest, bundle in self._served.items() if bundle.bases_id},
        )
        with self._announcing:
            self._announcer.presence(presence, always=always)

    def _announce_load(self, *, always: bool = False) -> None:
        waiting, wait_ms, load = self._work.load()
        with self._announcing:
            self._announcer.load(waiting, wait_ms, load, time.monotonic(), always=always)

    def _admit(self, device_id: str, request: Request, data: Buffer, packed: bool) -> tuple[Status, str] | None:
        """Let a request in, or say why not."""
        served = self._served.get(request.bundle_digest)
        if served is None:
            names = ", ".join(sorted(bundle.name for bundle in self._served.values()))
            digest = request.bundle_digest.hex()[:12]
            return Status.UNKNOWN_BUNDLE, f"this gateway has no bundle {digest}…; it has {names}"
        if not served.knows(request.cut):
            return Status.UNKNOWN_CUT, f"bundle {served.name!r} has no cut {request.cut!r}"
        if request.onward:
            return Status.CANNOT_FORWARD, "this gateway passes no request on; plan for a single gateway"
        if request.deadline_ms == 0:
            return Status.EXPIRED, "its deadline had passed when it was sent"
        now = time.monotonic()
        return self._work.offer(
            Job(request, device_id, served, now + request.deadline_ms / 1e3, now, packed), len(data)
        )
