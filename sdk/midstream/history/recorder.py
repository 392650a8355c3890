"""Takes what requests have used, without waiting, and has it written beside the work."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from midstream.allocation.usage import Usage
from midstream.errors import InputError
from midstream.history.schema import check_history
from midstream.history.store import Store

_log = logging.getLogger("midstream.history")

GATEWAY_BYTES = 256 << 20
GATEWAY_EVERY_S = 1.0
DEVICE_BYTES = 32 << 20
# Each write wears a flash card.
DEVICE_EVERY_S = 60.0
# What waits to be written is some megabytes at most.
CAPACITY = 8192
# Rows of one transaction.
_MOST_AT_ONCE = 1000
RETRY_S = 30.0
# A disk that takes no more does not keep a process from ending.
_CLOSE_S = 20.0


class Recorder:
    """Writes a history of at most ``limit_bytes``, once in ``every_s`` where there is something new. Thread-safe.

    A thread of its own does so from `start` to `close`. What cannot be written is said once and tried again every 30 s
    or ``every_s``, whichever is longer; meanwhile the newest ``capacity`` rows wait. Raises InputError where the file
    is something else, or of a newer midstream, or its folder is not there. ``clock`` gives seconds.
    """

    def __init__(
        self,
        path: str | Path,
        limit_bytes: int,
        every_s: float,
        *,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._store = Store(self.path, limit_bytes)
        try:
            check_history(self.path)
        except OSError as error:
            _log.info("%s cannot be read yet: %s", path, error)
        self._every_s = every_s
        self._retry_s = max(RETRY_S, every_s)
        self._capacity = capacity
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        # Guarded by _changed.
        self._waiting: deque[Usage] = deque()
        self._lost = 0
        self._due_s = clock() + every_s
        self._closing = False
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._troubled = False
        self._told_lost = False

    @property
    def lost(self) -> int:
        """How many rows were dropped, as more came than could be written, or as they were none."""
        return self._lost

    @property
    def waiting(self) -> int:
        """How many rows wait to be written."""
        return len(self._waiting)

    def record(self, usage: Usage) -> None:
        """Have it kept. Takes microseconds, and never waits for a disk."""
        with self._changed:
            if len(self._waiting) >= self._capacity:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(usage)
            if len(self._waiting) == 1 or self._clock() >= self._due_s:
                self._changed.notify()

    def start(self) -> None:
        """Begin to write."""
        with self._changed:
            self._closing = False
            self._due_s = self._clock() + self._every_s
        self._thread = threading.Thread(target=self._run, name="midstream-history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and let go of the file. Safe to call twice, and before `start`."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._closing = True
            self._changed.notify()
        if thread is not None:
            thread.join(_CLOSE_S)
            if thread.is_alive():
                _log.warning("%s: the disk has not taken the last rows in %g s", self.path, _CLOSE_S)

    def _run(self) -> None:
        closing = False
        while not closing:
            rows, closing = self._due()
            try:
                self._write(rows)
            except (OSError, sqlite3.Error, InputError) as error:
                self._put_back(rows, str(error))
            self._tell_lost()
        self._store.close()

    def _due(self) -> tuple[deque[Usage], bool]:
        """The rows to write, once it is time to; and whether they are the last."""
        with self._changed:
            while not self._closing:
                left_s = self._due_s - self._clock()
                if self._waiting and left_s <= 0:
                    break
                self._changed.wait(left_s if self._waiting else None)
            rows, self._waiting = self._waiting, deque()
            return rows, self._closing

    def _write(self, rows: deque[Usage]) -> None:
        """Add them, and take away from ``rows`` what was added."""
        while rows:
            some = list(islice(rows, _MOST_AT_ONCE))
            unfit = self._store.append(some)
            for _ in some:
                rows.popleft()
            with self._changed:
                self._lost += unfit
        with self._changed:
            self._due_s = self._clock() + self._every_s
        if self._troubled:
            self._troubled = False
            _log.warning("%s: what requests use is kept again", self.path)

    def _put_back(self, rows: Iterable[Usage], why: str) -> None:
        """Keep what was not written for the next time, as far as there is room."""
        with self._changed:
            both = [*rows, *self._waiting]
            self._lost += max(0, len(both) - self._capacity)
            self._waiting = deque(both[-self._capacity :])
            self._due_s = self._clock() + self._retry_s
        if not self._troubled:
            self._troubled = True
            _log.warning(
                "%s: what requests use is not kept: %s; it is tried again every %g s", self.path, why, self._retry_s
            )

    def _tell_lost(self) -> None:
        if self._lost and not self._told_lost:
            self._told_lost = True
            _log.warning(
                "%s: %d rows were not kept, as more came than could be written, or as they were none; further ones are "
                "only counted",
                self.path,
                self._lost,
            )


def for_gateway(path: str | Path, limit_bytes: int | None = None) -> Recorder:
    """A gateway's: once a second, 256 MiB unless told otherwise."""
    return Recorder(path, GATEWAY_BYTES if limit_bytes is None else limit_bytes, GATEWAY_EVERY_S)


def for_device(path: str | Path, limit_bytes: int | None = None) -> Recorder:
    """A device's: once a minute, for its flash card, 32 MiB unless told otherwise."""
    return Recorder(path, DEVICE_BYTES if limit_bytes is None else limit_bytes, DEVICE_EVERY_S)
