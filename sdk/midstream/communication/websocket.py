"""MQTT over a WebSocket (section 6 of the MQTT 5 standard): the only module that imports wsproto."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from midstream.communication.address import BrokerAddress
from midstream.communication.streams import Stream, joined

_READ_BYTES: Final = 64 << 10
_SUBPROTOCOL: Final = "mqtt"


class WebSocketStream:
    """A WebSocket over TCP or TLS. Opening it blocks; raises ConnectionError where the server does not agree.

    At most one read of the stream below, and what was not written yet of one write, is held.
    """

    def __init__(self, sock: socket.socket, below: Stream, address: BrokerAddress) -> None:
        self._below = below
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._scratch = memoryview(bytearray(_READ_BYTES))
        self._in = bytearray()
        self._out = bytearray()
        self._ended = False
        request = Request(host=f"{address.host}:{address.port}", target=address.path, subprotocols=[_SUBPROTOCOL])
        sock.sendall(self._protocol.send(request))
        while not self._opened():
            part = sock.recv(_READ_BYTES)
            self._feed(part)
            if not part:
                raise ConnectionError("the server closed the connection")

    def fileno(self) -> int:
        """See `Stream`."""
        return self._below.fileno()

    @property
    def buffered(self) -> bool:
        """See `Stream`."""
        return bool(self._in) or self._below.buffered

    @property
    def unwritten(self) -> bool:
        """See `Stream`."""
        return bool(self._out)

    def read_into(self, room: memoryview) -> int:
        """See `Stream`."""
        while not self._in:
            if self._ended:
                return 0
            count = self._below.read_into(self._scratch)
            self._feed(bytes(self._scratch[:count]))
            self._take_events()
        count = min(len(room), len(self._in))
        room[:count] = self._in[:count]
        del self._in[:count]
        return count

    def write(self, parts: Sequence[memoryview]) -> int:
        """See `Stream`."""
        self._flush()
        if self._out:
            raise BlockingIOError
        if not parts:
            return 0
        data = joined(parts)
        self._out += self._protocol.send(BytesMessage(data=bytes(data)))
        self._flush()
        return len(data)

    def shut(self) -> None:
        """See `Stream`."""
        self._below.shut()

    def close(self) -> None:
        """See `Stream`."""
        self._below.close()

    def _flush(self) -> None:
        try:
            while self._out:
                with memoryview(self._out) as view:
                    count = self._below.write([view])
                del self._out[:count]
        except BlockingIOError:
            pass

    def _opened(self) -> bool:
        for event in self._protocol.events():
            match event:
                case AcceptConnection(subprotocol="mqtt"):
                    return True
                case AcceptConnection():
                    raise ConnectionError("the server did not agree to speak MQTT over it")
                case RejectConnection():
                    raise ConnectionError(f"the server answered with HTTP status {event.status_code}")
        return False

    def _take_events(self) -> None:
        for event in self._protocol.events():
            match event:
                case BytesMessage():
                    self._in += event.data
                case Ping() if len(self._out) < _READ_BYTES:  # who does not read our answers gets no more of them
                    self._out += self._protocol.send(event.response())
                    self._flush()
                case CloseConnection() | TextMessage():
                    self._ended = True

    def _feed(self, data: bytes) -> None:
        try:
            self._protocol.receive_data(data or None)
        except (LocalProtocolError, RemoteProtocolError) as error:
            raise ConnectionError(str(error)) from None
