"""An emulated link: a TCP relay on loopback that lets bytes through as slowly, and as late, as a network would.

Each direction is one wire for all connections. A byte leaves it when those before it have (serialisation, at so many
kbit/s), and arrives half a round trip later, however much is under way by then. What waits for the wire stays with the
sender, whose writes block as they would. There is no loss, no jitter, and no delay of TCP's own handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import EllipsisType

from midstream.errors import InputError, MidstreamError

# How far ahead of the wire is read, by default: more than a timer is late, so that a busy wire is never idle.
_AHEAD_MS = 10.0
# A connection's turn on the wire takes this long, within these bounds.
_TURN_S = 0.002
_TURN_BYTES = (512, 64 << 10)
# What of a connection waits in the system for the wire: the bytes of this time, within these bounds.
_WAITING_S = 0.02
_WAITING_BYTES = (4 << 10, 32 << 10)
# What one connection may have under way beside what fills the wire.
_SPARE_BYTES = 64 << 10
_MOST_BYTES = 8 << 20
# Loopback's own segments of 64 kB are more than the buffers hold.
_SEGMENT_BYTES = 1448


class LinkEmulator:
    """A link to ``target`` (host, port), which clients reach at ``url`` for as long as the ``with`` block runs.

    Rates are in kbit/s (1000 bits a second), shared by all connections of a direction; None is as fast as it goes.
    "Up" is from the clients to the target. Half of ``rtt_ms`` is added each way. What is about to leave a busy wire
    waits in one queue of ``queue_ms`` for all connections; before that, they take turns. Thread-safe.

    Raises InputError for a rate that is not above 0 (`cut` is for that) or a negative round trip.
    """

    def __init__(
        self,
        target: tuple[str, int],
        uplink_kbps: float | None = None,
        downlink_kbps: float | None = None,
        rtt_ms: float = 0.0,
        *,
        queue_ms: float = _AHEAD_MS,
    ) -> None:
        self._target = target
        self._up = _Wire(queue_ms / 1000)
        self._down = _Wire(queue_ms / 1000)
        self._rtt_ms = 0.0
        self._port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop, self._whole = asyncio.Event(), asyncio.Event()
        self._whole.set()
        self._change(uplink_kbps, downlink_kbps, rtt_ms)

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the ``with`` block."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients find the broker that is the target: ``mqtt://127.0.0.1:port``."""
        return f"mqtt://127.0.0.1:{self._port}"

    def __enter__(self) -> LinkEmulator:
        listener = socket.create_server(("127.0.0.1", 0))
        _prepare(listener)
        listener.setblocking(False)
        self._port = int(listener.getsockname()[1])
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="midstream-link", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._apply(lambda: self._stop.set())
        if self._thread is not None:
            self._thread.join()
        self._loop = None

    def __repr__(self) -> str:
        rates = ", ".join(f"{name} {wire.kbps:g} kbit/s" for name, wire in (("up", self._up), ("down", self._down)))
        return f"<LinkEmulator {self.url} to {self._target[0]}:{self._target[1]}, {rates}, rtt {self._rtt_ms:g} ms>"

    def set(
        self,
        *,
        uplink_kbps: float | EllipsisType | None = ...,
        downlink_kbps: float | EllipsisType | None = ...,
        rtt_ms: float | EllipsisType = ...,
    ) -> None:
        """Change the link for the bytes that are sent from now on; what is not named stays. Raises InputError."""
        self._apply(lambda: self._change(uplink_kbps, downlink_kbps, rtt_ms))

    def cut(self) -> None:
        """Let nothing through, as where the radio is out of reach: connections stall, and so do new ones."""
        self._apply(lambda: self._whole.clear())

    def restore(self) -> None:
        """End a `cut`; stalled connections go on where they were."""
        self._apply(lambda: self._whole.set())

    def _change(
        self,
        uplink_kbps: float | EllipsisType | None,
        downlink_kbps: float | EllipsisType | None,
        rtt_ms: float | EllipsisType,
    ) -> None:
        up = self._up.kbps if uplink_kbps is ... else _checked_rate("uplink_kbps", uplink_kbps)
        down = self._down.kbps if downlink_kbps is ... else _checked_rate("downlink_kbps", downlink_kbps)
        rtt = self._rtt_ms if rtt_ms is ... else rtt_ms
        if not 0 <= rtt < math.inf:
            raise InputError(f"a link's rtt_ms is {rtt:g}; it takes milliseconds from 0 up")
        self._rtt_ms = rtt
        self._up.kbps, self._down.kbps = up, down
        self._up.delay_s = self._down.delay_s = rtt / 2000

    def _apply(self, change: Callable[[], None]) -> None:
        """Make a change on the relay's own thread, and return when it is made."""
        loop = self._loop
        if loop is None:
            raise MidstreamError("an emulated link is changed inside its with block only")
        done: Future[None] = Future()

        def call() -> None:
            try:
                change()
            except BaseException as error:  # noqa: BLE001 - raised again by result(), on the caller's thread
                done.set_exception(error)
            else:
                done.set_result(None)

        loop.call_soon_threadsafe(call)
        done.result()

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        # epoll's timeouts are whole milliseconds; select's are not.
        with (
            listener,
            asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner,
        ):
            runner.run(self._serve(listener, ready))

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        """Accept until the ``with`` block ends; what runs then is cancelled by the runner."""
        self._loop = asyncio.get_running_loop()
        accepting = asyncio.create_task(self._accept(listener))
        ready.set()
        await self._stop.wait()
        accepting.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        carried: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._carry(client))
            carried.add(task)
            task.add_done_callback(carried.discard)

    async def _carry(self, client: socket.socket) -> None:
        """One connection, until both ends have closed it or one is gone."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        with client, socket.socket(family, socket.SOCK_STREAM) as server, contextlib.suppress(OSError):
            server.setblocking(False)
            _prepare(client)
            _prepare(server)
            await self._whole.wait()
            await loop.sock_connect(server, self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    for source, sink, wire in ((client, server, self._up), (server, client, self._down)):
                        flow = _Flow(wire, self._whole)
                        group.create_task(flow.take(source))
                        group.create_task(flow.deliver(sink))
            except* OSError:
                pass  # one end is gone: so is the connection


class _Wire:
    """One direction of the link."""

    def __init__(self, ahead_s: float) -> None:
        self.ahead_s = ahead_s
        self.kbps = math.inf
        self.delay_s = 0.0
        self._free_s = 0.0

    @property
    def turn_bytes(self) -> int:
        """How much one connection sends before it is another's turn."""
        return self._bytes_in(_TURN_S, _TURN_BYTES)

    @property
    def waiting_bytes(self) -> int:
        """How much of one connection waits for the wire; the rest stays with the sender."""
        return self._bytes_in(_WAITING_S, _WAITING_BYTES)

    @property
    def capacity_bytes(self) -> float:
        """How much may be under way on one connection."""
        return min(_SPARE_BYTES + self.kbps * 125 * (self.delay_s + self.ahead_s), _MOST_BYTES)

    def busy_s(self, now_s: float) -> float:
        """For how long what was sent already keeps it from sending more."""
        return max(0.0, self._free_s - now_s)

    def send(self, size_bytes: int, now_s: float) -> float:
        """Put bytes on the wire, behind those before them; when the last one arrives."""
        self._free_s = max(self._free_s, now_s) + size_bytes / (self.kbps * 125)
        return self._free_s + self.delay_s

    def _bytes_in(self, seconds: float, bounds: tuple[int, int]) -> int:
        return int(min(max(self.kbps * 125 * seconds, bounds[0]), bounds[1]))


class _Flow:
    """One direction of one connection: what is on the wire, in order, with the time at which it arrives."""

    def __init__(self, wire: _Wire, whole: asyncio.Event) -> None:
        self._wire = wire
        self._whole = whole
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._under_way_bytes = 0
        self._delivered = asyncio.Event()

    async def take(self, source: socket.socket) -> None:
        """Read from the sender what the wire has room for, until it closes."""
        loop = asyncio.get_running_loop()
        waiting_bytes = _WAITING_BYTES[0]
        data = b"-"
        while data:
            await self._whole.wait()
            while (ahead_s := self._wire.busy_s(loop.time()) - self._wire.ahead_s) > 0:
                await asyncio.sleep(ahead_s)
            while self._under_way_bytes > self._wire.capacity_bytes:
                self._delivered.clear()
                await self._delivered.wait()
            if waiting_bytes != self._wire.waiting_bytes:
                waiting_bytes = self._wire.waiting_bytes
                source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, waiting_bytes)
            try:
                data = source.recv(self._wire.turn_bytes)
            except BlockingIOError:
                # By the time there is something, the link may be another.
                await _readable(source)
                continue
            self._under_way_bytes += len(data)
            self._under_way.put_nowait((self._wire.send(len(data), loop.time()), data))

    async def deliver(self, sink: socket.socket) -> None:
        """Hand the receiver what has arrived, and the close after it."""
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            arrival_s, data = await self._under_way.get()
            if (early_s := arrival_s - loop.time()) > 0:
                await asyncio.sleep(early_s)
            await self._whole.wait()
            await loop.sock_sendall(sink, data)
            self._under_way_bytes -= len(data)
            self._delivered.set()
        sink.shutdown(socket.SHUT_WR)


async def _readable(sock: socket.socket) -> None:
    """Return when there is something to read, or the other end has closed."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


def _checked_rate(name: str, kbps: float | None) -> float:
    if kbps is None:
        return math.inf
    if not kbps > 0:
        raise InputError(f"a link's {name} is {kbps:g}; it takes kbit/s above 0, None for no limit, and cut() for none")
    return kbps


def _prepare(sock: socket.socket) -> None:
    """Small buffers, small segments, and no waiting for more to send."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WAITING_BYTES[0])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING_BYTES[1])
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
