"""The byte stream to a broker: TCP, TLS over it, a WebSocket over either. Without blocking, once it is open."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Final, Protocol

from midstream.communication.address import BrokerAddress
from midstream.communication.credentials import tls_context

CONNECT_TIMEOUT_S: Final = 5.0

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
# A TLS record holds 16 KiB: what is shorter is joined before it is encrypted.
_RECORD_BYTES: Final = 16 << 10
# Linux takes at most 1024 buffers at once.
_MOST_BUFFERS: Final = 64


class Stream(Protocol):
    """What a connection reads from and writes to; BlockingIOError where it has to wait, other OSErrors at its end."""

    def fileno(self) -> int:
        """The socket's file descriptor; -1 once it is closed."""
        ...

    def read_into(self, room: memoryview) -> int:
        """How many bytes were read; 0 at the end."""
        ...

    def write(self, parts: Sequence[memoryview]) -> int:
        """How many bytes of these were taken."""
        ...

    @property
    def buffered(self) -> bool:
        """Whether there is something to be read that has left the socket already."""
        ...

    @property
    def unwritten(self) -> bool:
        """Whether something that was taken waits for the socket."""
        ...

    def shut(self) -> None:
        """End it for everyone who waits for it; the descriptor stays."""
        ...

    def close(self) -> None:
        """Close the socket."""
        ...


class SocketStream:
    """TCP as it is."""

    buffered = False
    unwritten = False

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._quick = _QUICKACK if sock.family in (socket.AF_INET, socket.AF_INET6) else None

    def fileno(self) -> int:
        """See `Stream`."""
        return self._socket.fileno()

    def read_into(self, room: memoryview) -> int:
        """See `Stream`."""
        count = self._socket.recv_into(room)
        if self._quick is not None:
            # Linux forgets it; brokers that wait for the acknowledgement would wait 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, self._quick, 1)
        return count

    def write(self, parts: Sequence[memoryview]) -> int:
        """See `Stream`."""
        return self._socket.sendmsg(parts[:_MOST_BUFFERS])

    def shut(self) -> None:
        """See `Stream`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Stream`."""
        self._socket.close()


class TlsStream(SocketStream):
    """TLS over TCP."""

    _socket: ssl.SSLSocket

    @property
    def buffered(self) -> bool:  # type: ignore[override]
        """See `Stream`."""
        return self._socket.fileno() >= 0 and self._socket.pending() > 0

    def read_into(self, room: memoryview) -> int:
        """See `Stream`."""
        try:
            return super().read_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def write(self, parts: Sequence[memoryview]) -> int:
        """See `Stream`."""
        try:
            return self._socket.send(joined(parts))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


def open_stream(address: BrokerAddress) -> Stream:
    """Connect, within 5 s a step. Raises OSError, and InputError where the client's certificate cannot be used."""
    context = tls_context(address.credentials) if address.tls else None
    sock = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=address.host)
        stream = SocketStream(sock) if context is None else TlsStream(sock)
        if address.websocket:
            from midstream.communication.websocket import WebSocketStream  # only where it is used

            opened = WebSocketStream(sock, stream, address)
            sock.setblocking(False)
            return opened
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return stream


def joined(parts: Sequence[memoryview]) -> bytes | memoryview:
    """The first of these, or as many as make a TLS record.

    A write that could not be finished is tried again with these bytes, and maybe more, at its beginning.
    """
    if len(parts) == 1 or len(parts[0]) >= _RECORD_BYTES:
        return parts[0]
    size, count = 0, 0
    while count < len(parts) and size < _RECORD_BYTES:
        size += len(parts[count])
        count += 1
    return b"".join(parts[:count])
