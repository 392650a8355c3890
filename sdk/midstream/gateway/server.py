"""The gateway: takes requests from its topics, runs tails in the order of their deadlines, replies."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from midstream.allocation.queueing import Admission, EarliestDeadlineFirst, Ticket
from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.announcements import MAX_BUNDLES
from midstream.communication.chunks import CHUNK_BYTES, OVERHEAD_BYTES, Reassembler
from midstream.communication.codecs import encode, optional_libraries
from midstream.communication.control import Cancel
from midstream.communication.fec import FEC_LIBRARY, fec_available
from midstream.communication.framing import WIRE_VERSION, check_version
from midstream.communication.mail import Mail
from midstream.communication.packs import decode_pack, encode_pack, is_pack, request_id_of
from midstream.communication.presence import Presence
from midstream.communication.redundancy import Way
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.versions import VersionNotice, encode_notice
from midstream.communication.wire import (
    REQUEST_ID_BYTES,
    Buffer,
    Limits,
    Reply,
    Request,
    Status,
    decode_request,
    encode_reply,
)
from midstream.engines import Accelerator
from midstream.errors import (
    AcceleratorError,
    BundleError,
    CodecError,
    InputError,
    MidstreamError,
    PeerError,
    WireError,
    WireVersionError,
)
from midstream.gateway.announcing import Announcer
from midstream.gateway.replies import HeldReplies
from midstream.gateway.served import ServedBundle

_log = logging.getLogger("midstream.gateway")

PRESENCE_EVERY_S = 1.0
LOAD_EVERY_S = 0.1
QUEUE_CAPACITY = 256
QUEUE_CAPACITY_BYTES = 256 << 20
# Who sent what cannot be read is answered, too, but how long it waits is not known.
_REFUSAL_S = 10.0
_CONTROL_EXPIRY_S = 1


@dataclass(frozen=True)
class _Job:
    """A request that was let in; ``packed`` if it came with others, so that its reply may go with theirs."""

    request: Request
    device_id: str
    served: ServedBundle
    deadline: float
    arrived: float
    packed: bool


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
        self._workers = max(1, workers or os.cpu_count() or 1)
        served = [ServedBundle(path, self._workers, accelerator) for path in bundles]
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
        self._limits = Limits(*(max(bundle.max_request_bytes for bundle in served),) * 2)
        self._mail = Mail(
            Reassembler(self._limits.max_message_bytes), self._send_chunks_again, self._send_control, answers=True
        )
        self._queue = EarliestDeadlineFirst(QUEUE_CAPACITY, self._workers, QUEUE_CAPACITY_BYTES)
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._busy = 0
        self._stopping = False
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._cannot_announce: PeerError | None = None
        self._threads: list[threading.Thread] = []
        presence = topics.presence_topic(self.gateway_id)
        self._transport = MqttTransport(
            address,
            f"midstream-gw-{self.gateway_id}",
            will=(presence, b""),
            on_message=self._on_message,
            on_state=self._on_state,
        )
        self._announcer = Announcer(self._transport, self.gateway_id)
        self._announcing = threading.Lock()

    def __enter__(self) -> Gateway:
        if self._stopped.is_set():
            raise MidstreamError(f"gateway {self.gateway_id} was stopped; make another one")
        try:
            for bundle in self._served.values():
                bundle.measure()
            for worker in range(self._workers):
                name = f"midstream-worker-{worker}"
                thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._transport.subscribe(topics.request_filter(self.gateway_id))
            self._transport.subscribe(topics.gateway_filters(self.gateway_id)[1])
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
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._transport.close(last=(topics.presence_topic(self.gateway_id), b""))
        self._mail.close()

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
        with self._changed:
            waiting, wait_ms, load = len(self._queue), self._queue.wait_s * 1e3, self._busy / self._workers
        with self._announcing:
            self._announcer.load(waiting, wait_ms, load, time.monotonic(), always=always)

    def _on_message(self, message: Message) -> None:
        if message.retained:
            return
        try:
            if "/ctl/" in message.topic:
                self._on_control(topics.parse_inbound(message.topic).device_id, message.payload)
                return
            route = topics.parse_request_topic(message.topic)
        except WireError as error:
            _log.warning("ignored a message: %s", error)
            return
        device_id = route.device_id
        try:
            check_version(route.version, "topic")
            whole = self._mail.add(device_id, message.payload)
            if whole is None:
                return
            if not is_pack(whole):
                self._read(device_id, whole, message.correlation, packed=False)
                return
            requests = decode_pack(whole)
        except WireVersionError as error:
            self._other_version(device_id, message.correlation, error, route.version)
            return
        except WireError as error:
            self._unreadable(device_id, message.correlation, error)
            return
        for request in requests:
            self._read(device_id, request, request_id_of(request), packed=True)

    def _on_control(self, device_id: str, payload: bytes) -> None:
        """What a device asks for again is sent; what it does not wait for any more is not run."""
        control = self._mail.control(device_id, payload)
        if isinstance(control, Cancel):
            with self._changed:
                for number, job in list(self._jobs.items()):
                    if (job.device_id, job.request.request_id) == (device_id, control.message_id):
                        del self._jobs[number]

    def _send_control(self, device_id: str, payload: bytes) -> None:
        topic = topics.device_control_topic(device_id, self.gateway_id)
        self._transport.publish(topic, payload, expiry_s=_CONTROL_EXPIRY_S)

    def _send_chunks_again(self, device_id: str, message_id: bytes, chunks: list[bytes]) -> None:
        topic = topics.reply_topic(self.gateway_id, device_id)
        for chunk in chunks:
            self._transport.publish(topic, chunk, correlation=message_id, expiry_s=_CONTROL_EXPIRY_S)

    def _read(self, device_id: str, data: Buffer, request_id: bytes | None, *, packed: bool) -> None:
        """Take in a request, alone or out of a pack; ``request_id`` is what stands beside it."""
        try:
            request = decode_request(data, self._limits)
            if request_id not in (None, request.request_id):
                raise WireError("the correlation data is not the request's own id")
        except WireVersionError as error:
            self._other_version(device_id, request_id, error)
        except WireError as error:
            self._unreadable(device_id, request_id, error)
        else:
            refusal = self._admit(device_id, request, len(data), packed)
            if refusal is not None:
                self._refuse(device_id, request.request_id, *refusal, request.deadline_ms / 1e3)

    def _other_version(
        self, device_id: str, request_id: bytes | None, error: WireVersionError, version: int = WIRE_VERSION
    ) -> None:
        """Say which versions are spoken here, where a device that sends on topics of this version looks for it."""
        _log.warning("ignored a message of %s: %s", device_id, error)
        if request_id is not None and len(request_id) == REQUEST_ID_BYTES:
            topic = topics.reply_topic(self.gateway_id, device_id, version)
            notice = encode_notice(VersionNotice(request_id))
            self._transport.publish(topic, notice, correlation=request_id, expiry_s=_expiry_s(_REFUSAL_S))

    def _unreadable(self, device_id: str, request_id: bytes | None, error: WireError) -> None:
        _log.warning("ignored a message of %s: %s", device_id, error)
        if request_id is not None and len(request_id) == REQUEST_ID_BYTES:
            self._refuse(device_id, request_id, Status.BAD_REQUEST, str(error), _REFUSAL_S)

    def _admit(self, device_id: str, request: Request, size_bytes: int, packed: bool) -> tuple[Status, str] | None:
        """Put a request in the queue, or say why not."""
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
        job = _Job(request, device_id, served, now + request.deadline_ms / 1e3, now, packed)
        with self._changed:
            work_s = served.expected_ms(request.cut) / 1e3
            ticket = Ticket(job.deadline, next(self._numbers), work_s, now, size_bytes)
            admission = self._queue.offer(ticket, now)
            if admission is Admission.ACCEPTED:
                self._jobs[ticket.number] = job
                self._changed.notify()
                self._news.set()
        return None if admission is Admission.ACCEPTED else (Status.BUSY, admission.value)

    def _work(self, worker: int) -> None:
        held = HeldReplies()
        while (job := self._next(held)) is not None:
            try:
                self._reply(job, self._answer(job, worker), held)
            except Exception as error:  # noqa: BLE001  whatever it is, it is logged, and this worker goes on
                _log.exception("a request of %s could not be answered", job.device_id)
                message = f"the gateway failed at it, and its log says how: {error}"
                self._refuse(job.device_id, job.request.request_id, Status.FAILED, message, _REFUSAL_S)
            finally:
                with self._changed:
                    self._busy -= 1
                self._news.set()

    def _next(self, held: HeldReplies) -> _Job | None:
        """The job that is due first, once there is one; None when the gateway stops.

        Replies that are held are sent before, unless they may wait for this job's.
        """
        with self._changed:
            job = self._due_first()
        if held and (
            job is None
            or not job.packed
            or not held.waits_for(job.device_id, job.served.expected_ms(job.request.cut) / 1e3, time.monotonic())
        ):
            self._send_held(held)
        if job is None:
            with self._changed:
                # What wakes this worker may have been cancelled before it could be taken.
                while (job := self._due_first()) is None and not self._stopping:
                    self._changed.wait_for(lambda: self._stopping or len(self._queue) > 0)
        return job

    def _due_first(self) -> _Job | None:
        while (ticket := self._queue.take()) is not None:
            # Those that nobody waits for any more are gone.
            if (job := self._jobs.pop(ticket.number, None)) is not None:
                self._busy += 1
                return job
        return None

    def _reply(self, job: _Job, reply: Reply, held: HeldReplies) -> None:
        """Send a reply, or keep it for the next ones."""
        now = time.monotonic()
        message = encode_reply(reply)
        if job.packed:
            pack_bytes = self._chunk_bytes(job.device_id, None, job.deadline - now) - OVERHEAD_BYTES
            if not held.takes(job.device_id, message, job.deadline, now, pack_bytes):
                self._send_held(held)
            if held.takes(job.device_id, message, job.deadline, now, pack_bytes):
                held.add(job.device_id, message, job.deadline, now)
                return
        parity = job.request.takes_parity
        self._post(job.device_id, message, reply.request_id, reply.request_id, job.deadline - now, parity=parity)

    def _send_held(self, held: HeldReplies) -> None:
        """Send what is held, together where it is several."""
        messages = held.take()
        wait_s = held.deadline - time.monotonic()
        try:
            if len(messages) == 1:
                request_id = request_id_of(messages[0])
                self._post(held.device_id, messages[0], request_id, request_id, wait_s)
            elif messages:
                self._post(held.device_id, encode_pack(messages), uuid.uuid4().bytes, None, wait_s)
        except (ValueError, MidstreamError) as error:
            _log.warning("%d replies to %s cannot be sent: %s", len(messages), held.device_id, error)

    def _answer(self, job: _Job, worker: int) -> Reply:
        request, started = job.request, time.monotonic()
        queue_ms = (started - job.arrived) * 1e3

        def failed(status: Status, message: str) -> Reply:
            return Reply(request.request_id, status, (), "raw", queue_ms, 0.0, message)

        if started > job.deadline:
            return failed(Status.EXPIRED, "its deadline passed in the queue")
        bundle = job.served.bundles[worker]
        cut = request.cut or None
        try:
            came = bundle.decode_for_tail(cut, request.codec, request.tensors, job.served.max_request_bytes)
            began = time.perf_counter()
            outputs = bundle.run_tail_on(came)
            job.served.ran(request.cut, (time.perf_counter() - began) * 1e3)
            # What came lossy may go back lossless: outputs are small, and they are the answer.
            codec = "raw" if request.codec == "raw" else "lossless"
            outputs = {spec.name: outputs[spec.name] for spec in bundle.outputs if spec.name in outputs}
            encoded = encode(codec, outputs, {})
        except (CodecError, InputError) as error:
            return failed(Status.BAD_REQUEST, str(error))
        except MidstreamError as error:
            return failed(Status.FAILED, str(error))
        compute_ms = (time.monotonic() - started) * 1e3
        places = tuple(place for place, spec in enumerate(bundle.outputs) if spec.name in outputs)
        return Reply(request.request_id, Status.OK, encoded, codec, queue_ms, compute_ms, outputs=places)

    def _refuse(self, device_id: str, request_id: bytes, status: Status, message: str, wait_s: float) -> None:
        _log.info("refused a request of %s: %s", device_id, message)
        try:
            self._send(device_id, Reply(request_id, status, (), "raw", 0.0, 0.0, message), wait_s)
        except (ValueError, MidstreamError) as error:
            _log.warning("a refusal to %s cannot be sent: %s", device_id, error)

    def _send(self, device_id: str, reply: Reply, wait_s: float) -> None:
        """Send a reply to a device that waits for it for so long."""
        self._post(device_id, encode_reply(reply), reply.request_id, reply.request_id, wait_s)

    def _post(
        self,
        device_id: str,
        message: bytes,
        message_id: bytes,
        correlation: bytes | None,
        wait_s: float,
        *,
        parity: bool = False,
    ) -> None:
        chunk_bytes = self._chunk_bytes(device_id, correlation, wait_s)
        topic = topics.reply_topic(self.gateway_id, device_id)
        qos = self._mail.qos(device_id, len(message))
        for chunk in self._mail.chunks(device_id, message, message_id, chunk_bytes, wait_s, parity=parity, way=Way()):
            self._transport.publish(topic, chunk, qos=qos, correlation=correlation, expiry_s=_expiry_s(wait_s))

    def _chunk_bytes(self, device_id: str, correlation: bytes | None, wait_s: float) -> int:
        topic = topics.reply_topic(self.gateway_id, device_id)
        limit = self._transport.payload_limit(topic, correlation=correlation, expiry_s=_expiry_s(wait_s))
        return min(limit, CHUNK_BYTES)


def _expiry_s(wait_s: float) -> int:
    return max(1, math.ceil(wait_s))
