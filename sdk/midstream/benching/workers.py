"""Other processes of a bench: each is asked one JSON line after the other, and answers each with one.

A worker ends when its stdin does, so that none outlives whoever started it, however that ends.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from midstream import errors
from midstream.child import STOP_S, module_path
from midstream.errors import MidstreamError

_LAST_WORDS_BYTES = 500
# So long has a worker to end in good order once its stdin has ended; half of what whoever started it waits.
_END_S = STOP_S / 2

Handler = Callable[[Mapping[str, Any]], Any]


class Worker:
    """A module of ours as another process, for as long as the ``with`` block. Ctrl-C does not reach it."""

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self._module = module
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Worker:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": module_path()},
            text=True,
            process_group=0,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._log.close()

    def ask(self, **message: Any) -> Any:
        """Its answer; what it raised is raised here. Raises MidstreamError where it has ended instead."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise MidstreamError(f"the {self.name} of the bench has ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"], MidstreamError)
            raise kind(answer["message"])
        return answer["answer"]

    def _last_words(self) -> str:
        assert self._process is not None
        self._process.wait(STOP_S)
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        text = self._log.read().decode(errors="replace")
        return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or "it said nothing"


def answer_stdin(handle: Handler) -> None:
    """In the other process: answer until stdin ends; then this returns, or the process ends in the midst of it."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # Whatever else writes to stdout must not come between.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while (line := lines.get()) is not None:
        try:
            answer: dict[str, Any] = {"answer": handle(json.loads(line))}
        except MidstreamError as error:
            kind = type(error).__name__
            answer = {"error": kind if kind != "MissingExtraError" else "MidstreamError", "message": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(lines: queue.SimpleQueue[str | None]) -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    threading.Event().wait(_END_S)
    os._exit(0)
