"""A child process that ends with whoever started it, however that ends, and leaves no zombie."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from midstream.errors import MidstreamError

STOP_S = 3.0

_LAST_WORDS_BYTES = 500
_PR_SET_PDEATHSIG = 1


def module_path() -> str:
    """PYTHONPATH for a child that is to find the modules that this process has, wherever these were found."""
    return os.pathsep.join(str(Path(place).resolve()) for place in sys.path)


class Child:
    """A command as a process of its own, from `start` to `stop`; ``user`` is whom it runs as, if not as this process.

    Ctrl-C does not reach it: that is for the program, which then stops its children. A thread of its own starts it and
    waits for it. Linux sends the parent-death signal when the thread that started the child ends: that thread must
    outlive it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_s: float = STOP_S,
    ) -> None:
        self._command = list(command)
        self._environ = dict(os.environ) | dict(environ or {})
        self._user = user
        self._stop_s = stop_s
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: Exception | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="midstream-child", daemon=True)

    @property
    def pid(self) -> int | None:
        """Its process id; None where it does not run."""
        return self._process.pid if self._process is not None and not self._ended.is_set() else None

    @property
    def returncode(self) -> int | None:
        """How it ended; None where it has not."""
        return self._process.returncode if self._process is not None else None

    def start(self) -> None:
        """Start it; raises MidstreamError where that is not possible."""
        self._keeper.start()
        self._started.wait()
        if self._failure is not None:
            raise MidstreamError(f"{self._command[0]} cannot be started: {self._failure}")

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within this time."""
        return self._ended.wait(timeout_s)

    def last_words(self) -> str:
        """The end of what it wrote to stdout and stderr, on one line."""
        descriptor = self._log.fileno()
        start = max(0, os.fstat(descriptor).st_size - _LAST_WORDS_BYTES)
        text = _read_at(descriptor, start).decode(errors="replace")
        return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or "it said nothing"

    def stop(self) -> None:
        """Tell it to end, and see to it that it does. Safe to call twice, and before `start`."""
        if self._process is not None:
            self._process.terminate()
            if not self.wait(self._stop_s):
                self._process.kill()
        if self._keeper.ident is not None:
            self._keeper.join()
        self._log.close()

    def _keep(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=self._environ,
                **_apart(self._user),
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._failure = error
        finally:
            self._started.set()
        if self._process is not None:
            self._process.wait()
        self._ended.set()


def _apart(user: str | None) -> dict[str, Any]:
    """What sets a child apart from its parent, where the system can."""
    if os.name != "posix":
        return {}
    return {
        "preexec_fn": _die_with_parent(),
        "process_group": 0,
        "user": user,
        "group": user,
        "extra_groups": None if user is None else [],
    }


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes the program: ask to be ended when its parent ends. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _read_at(descriptor: int, start: int) -> bytes:
    """The child writes where the shared position is: read without moving it, where the system can."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, _LAST_WORDS_BYTES, start)
    end = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, start, os.SEEK_SET)
    text = os.read(descriptor, _LAST_WORDS_BYTES)
    os.lseek(descriptor, end, os.SEEK_SET)
    return text
