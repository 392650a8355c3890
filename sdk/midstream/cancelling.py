"""Cancelling what another thread waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from midstream.errors import MidstreamError


class CancelledError(MidstreamError):
    """Whoever asked does not wait any more; never raised to a caller of `Device`, who is the one that cancelled."""


class Cancellation:
    """Says that nobody waits for an answer any more. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Wake whoever waits on the other's behalf."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise CancelledError where it is cancelled."""
        if self._cancelled:
            raise CancelledError("nobody waits for the answer any more")

    @contextmanager
    def calls(self, callback: Callable[[], None]) -> Iterator[None]:
        """While the block runs, and at once where it is too late, `cancel` calls this."""
        with self._lock:
            late = self._cancelled
            if not late:
                self._callbacks.append(callback)
        if late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)
