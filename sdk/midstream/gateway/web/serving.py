"""A small HTTP/1.1 server for a few who look on: one thread, and bounds for everything that a client could make grow.

h11 reads what comes, strictly. Each connection gets one answer. There is room for ``MOST_OPEN`` of them; for one more
the oldest is cut off, so that clients which hold theirs keep out nobody. No more than ``ACCEPTS_PER_S`` are let in for
long, so that a flood of them takes little of the processor.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

import h11

from midstream.allocation.rates import TokenBucket
from midstream.errors import InputError
from midstream.gateway.web.address import HttpAddress
from midstream.gateway.web.site import Answer, Asked

_log = logging.getLogger("midstream.gateway.web")

MOST_OPEN = 64
ACCEPTS_PER_S = 100.0
_MAX_HEAD_BYTES = 8 << 10
_REQUEST_S, _ANSWER_S = 5.0, 10.0
# So much of what a client goes on sending is thrown away, so that it can read its answer.
_MOST_IGNORED_BYTES = 1 << 20
_BACKLOG = 128
_AGAIN_S = 0.2


class HttpServer:
    """Serves ``answer`` at an address between `start` and `close`. `start` raises InputError where it cannot."""

    def __init__(self, address: HttpAddress, answer: Callable[[Asked], Answer]) -> None:
        self._address = address
        self._answer = answer
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] | None = None
        self.url: str | None = None

    def start(self) -> None:
        """Listen, and answer from a thread of its own."""
        listener = _listen(self._address)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        loop, stopped = asyncio.SelectorEventLoop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        self._thread = threading.Thread(
            target=self._run, args=(listener, loop, stopped), name="midstream-http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Cut off who is there, and end."""
        if self._thread is None or self._stop is None:
            return
        self._stop()
        self._thread.join()
        self._thread = None

    def _run(self, listener: socket.socket, loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
        async def serve() -> None:
            door = _Door(listener, self._answer, loop)
            door.open()
            await stopped.wait()
            await door.close()

        with listener, asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())


class _Door:
    """Lets connections in, no faster and no more of them than it may."""

    def __init__(
        self, listener: socket.socket, answer: Callable[[Asked], Answer], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._loop = loop
        self._bucket = TokenBucket(ACCEPTS_PER_S, ACCEPTS_PER_S)
        self._again: asyncio.TimerHandle | None = None
        self._entering: set[asyncio.Task[None]] = set()
        # Oldest first.
        self._open: dict[_Connection, None] = {}
        listener.setblocking(False)

    def open(self) -> None:
        """Let them in from now on."""
        self._loop.add_reader(self._listener, self._let_in)

    async def close(self) -> None:
        """Let nobody in any more, and cut off who is there."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener)
        if self._entering:
            await asyncio.wait(self._entering)
        for connection in list(self._open):
            connection.cut()
        # They are closed in the loop's next turn.
        await asyncio.sleep(0)

    def _let_in(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # It was gone already, or this process has too many files open.
            _log.warning("a connection to the gateway's state could not be taken: %s", error)
            self._pause(_AGAIN_S)
            return
        client.setblocking(False)
        task = self._loop.create_task(self._enter(client))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        self._bucket.spend(1)
        if not self._bucket.has(1, time.monotonic()):
            self._pause(1 / ACCEPTS_PER_S)

    async def _enter(self, client: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: _Connection(self._answer, self._open, self._loop), client)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._again = self._loop.call_later(seconds, self.open)


class _Connection(asyncio.Protocol):
    """One request and its answer. Counted in ``open_``, oldest first."""

    def __init__(
        self, answer: Callable[[Asked], Answer], open_: dict[_Connection, None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._answer = answer
        self._open = open_
        self._loop = loop
        self._http = h11.Connection(h11.SERVER)
        self._head_bytes = 0
        self._answered = False
        self._ignored_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = self._loop.call_later(_REQUEST_S, self.cut)
        self._open[self] = None
        if len(self._open) > MOST_OPEN:
            next(iter(self._open)).cut()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._open.pop(self, None)

    def cut(self) -> None:
        """End it at once."""
        self._open.pop(self, None)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > _MOST_IGNORED_BYTES:
                self.cut()
            return
        head, self._head_bytes = data[: _MAX_HEAD_BYTES - self._head_bytes], self._head_bytes + len(data)
        try:
            self._http.receive_data(head)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._send(_refused(HTTPStatus(error.error_status_hint), str(error)), with_body=True)
            return
        if isinstance(event, h11.Request):
            self._send(self._answer_to(event), with_body=event.method != b"HEAD")
        elif self._head_bytes >= _MAX_HEAD_BYTES:
            why = f"what comes before the body may have {_MAX_HEAD_BYTES} bytes"
            self._send(_refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, why), with_body=True)

    def _answer_to(self, request: h11.Request) -> Answer:
        if request.http_version not in (b"1.0", b"1.1"):
            return _refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
        headers: dict[str, str] = {}
        for name, value in request.headers:
            headers.setdefault(name.decode("ascii"), value.decode("latin-1"))
        asked = Asked(request.method.decode("ascii"), request.target.decode("ascii"), headers)
        try:
            return self._answer(asked)
        except Exception:  # noqa: BLE001  whatever it is, it is logged, and the next one is answered
            _log.exception("the gateway's state could not be shown")
            return _refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the gateway's log says why")

    def _send(self, answer: Answer, *, with_body: bool) -> None:
        """Send an answer, and wait for the client to close: who still sends would otherwise lose what was answered."""
        self._answered = True
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        ]
        parts = [self._http.send(h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers))]
        if with_body:
            parts.append(self._http.send(h11.Data(data=answer.body)))
        self._transport.write(b"".join(part for part in parts if part))
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = self._loop.call_later(_ANSWER_S, self.cut)


def _refused(status: HTTPStatus, why: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}: {why}\n".encode())


def _listen(address: HttpAddress) -> socket.socket:
    where = f"port {address.port} of {address.host}"
    try:
        return socket.create_server(
            address.place,
            family=address.family,
            backlog=_BACKLOG,
            dualstack_ipv6=address.place[0] == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise InputError(f"the gateway's state cannot be served at {where}: {_remedy(error)}") from None


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program has this port; give --http another one, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return "ports below 1024 are for root; give --http a larger one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; give --http the port alone for 127.0.0.1, or an address of its own"
    return f"{error.strerror or error}"
