"""Waiting for a connection, and for whoever wants to be heard meanwhile."""

from __future__ import annotations

import contextlib
import select
import socket


class Waiter:
    """Waits for ``wake``, a socket without blocking that is emptied, and for a connection if one is given.

    By poll, which takes the fewest calls; by select where there is no poll, as on Windows.
    """

    def __init__(self, wake: socket.socket, connection: int | None = None) -> None:
        self._wake = wake
        self._connection = connection
        self._writing = False
        self._poller: select.poll | None = None
        if hasattr(select, "poll"):
            self._poller = select.poll()
            for file in (wake.fileno(), connection):
                if file is not None:
                    self._poller.register(file, select.POLLIN)

    def wait(self, timeout_ms: float, writing: bool = False) -> bool:
        """Wait for any of them, or, when ``writing``, until the connection takes more.

        Returns whether the connection has something to be read, be it its end.
        """
        woken, readable = self._poll(timeout_ms, writing) if self._poller else self._select(timeout_ms, writing)
        if woken:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        return readable

    def _poll(self, timeout_ms: float, writing: bool) -> tuple[bool, bool]:
        assert self._poller is not None
        if writing != self._writing and self._connection is not None:
            self._poller.modify(self._connection, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
            self._writing = writing
        events = dict(self._poller.poll(timeout_ms))
        connection = events.get(self._connection, 0) if self._connection is not None else 0
        return self._wake.fileno() in events, bool(connection & ~select.POLLOUT)

    def _select(self, timeout_ms: float, writing: bool) -> tuple[bool, bool]:
        wake, connection = self._wake.fileno(), [] if self._connection is None else [self._connection]
        readable, _, failed = select.select(
            [wake, *connection], connection if writing else [], connection, timeout_ms / 1000
        )
        return wake in readable, any(file in (*readable, *failed) for file in connection)
