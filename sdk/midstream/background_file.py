"""A file that follows what is in memory, written beside the work and rarely: flash cards wear out, and are slow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from midstream.files import write_whole

_log = logging.getLogger("midstream.background_file")

WRITE_EVERY_S = 60.0


class BackgroundFile:
    """Holds what ``content`` gives, as of some time ago: written at most once a minute, and by `flush`. Thread-safe.

    Each write takes the place of the file whole. One that fails is logged, and tried again with the next change that is
    due. ``clock`` gives seconds.
    """

    def __init__(self, path: Path, content: Callable[[], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._content = content
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = False
        self._due_s = clock() + WRITE_EVERY_S
        self._writer: threading.Thread | None = None

    def changed(self) -> None:
        """There is something new; it is written by a thread of its own when a write is due. Never waits for one."""
        with self._lock:
            self._changed = True
            if self._clock() < self._due_s or (self._writer is not None and self._writer.is_alive()):
                return
            self._due_s = self._clock() + WRITE_EVERY_S
            self._writer = threading.Thread(target=self._write, name="midstream-state", daemon=True)
            self._writer.start()

    def flush(self) -> None:
        """Write what is new now; when this returns, nothing of this is left running."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.join()
        self._write()

    def _write(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, False
        if not changed:
            return
        try:
            write_whole(self._path, self._content())
        except OSError as error:
            _log.warning("%s could not be written: %s", self._path, error)
            with self._lock:
                self._changed = True
