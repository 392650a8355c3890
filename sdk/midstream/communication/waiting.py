"""Waiting for a connection, and for whoever wants to be heard meanwhile."""

from __future__ import annotations

import contextlib
import select
import socket
from types import TracebackType


class Waiter:
    """Waits for ``wake``, a socket without blocking that is emptied, and for a connection if one is given.

    By epoll, which takes the fewest calls, and lets a wait be changed while it lasts; by select where there is none.
    """

    def __init__(self, wake: socket.socket, connection: int | None = None) -> None:
        self._wake = wake
        self._connection = connection
        self._writing = False
        self.muted = False
        self._poller: select.epoll | None = None
        if hasattr(select, "epoll"):
            self._poller = select.epoll()
            for file in (wake.fileno(), connection):
                if file is not None:
                    self._poller.register(file, select.EPOLLIN)

    def __enter__(self) -> Waiter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._poller is not None:
            self._poller.close()

    @property
    def mutable(self) -> bool:
        """Whether `mute` is possible."""
        return self._poller is not None

    def mute(self, muted: bool) -> None:
        """Wait no longer, or again, for the connection to have something to be read; a wait under way changes too."""
        self._watch(self._writing, muted)

    def want_write(self, writing: bool) -> None:
        """Wait, or no longer, until the connection takes more, too."""
        self._watch(writing, self.muted)

    def wait(self, timeout_ms: float) -> bool:
        """Wait for any of them; returns whether the connection has something to be read, be it its end."""
        woken, readable = self._poll(timeout_ms) if self._poller else self._select(timeout_ms)
        if woken:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        return readable

    def _watch(self, writing: bool, muted: bool) -> None:
        if (writing, muted) == (self._writing, self.muted):
            return
        self._writing, self.muted = writing, muted
        if self._poller is None or self._connection is None:
            return
        events = (0 if muted else select.EPOLLIN) | (select.EPOLLOUT if writing else 0)
        self._poller.modify(self._connection, events)

    def _poll(self, timeout_ms: float) -> tuple[bool, bool]:
        assert self._poller is not None
        events = dict(self._poller.poll(timeout_ms / 1000))
        connection = events.get(self._connection, 0) if self._connection is not None else 0
        return self._wake.fileno() in events, bool(connection & ~select.EPOLLOUT)

    def _select(self, timeout_ms: float) -> tuple[bool, bool]:
        wake, connection = self._wake.fileno(), [] if self._connection is None else [self._connection]
        readable, _, failed = select.select(
            [wake, *connection], connection if self._writing else [], connection, timeout_ms / 1000
        )
        return wake in readable, any(file in (*readable, *failed) for file in connection)
