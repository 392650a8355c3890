"""The commands' log, on stderr: lines for people, or a JSON object each for what collects logs.

Lines about a request carry what it is found again by. Lines of one kind that come in floods, as hostile or broken peers
can cause, are left out after the first few, and counted.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from midstream.allocation.rates import TokenBucket
from midstream.cli import guard
from midstream.cli.output import notes
from midstream.errors import printable

# What a line may say of a request, as the gateway and the device name it.
ABOUT = ("request_id", "device_id", "bundle", "cut", "next_cut", "outcome", "latency_ms")
# Of one kind of line, so many at once and so many a second for long.
BURST, LINES_PER_S = 20, 1.0
_TOLD_AFTER_S = 10.0
_LEFT_OUT = "%d more lines like this one were left out: %s"
_MOST_TEXT = 4000
_log = logging.getLogger("midstream.cli")
_kind = "text"


class LogFormat(StrEnum):
    """How log lines are written."""

    text = "text"
    json = "json"


class LogLevel(StrEnum):
    """Which log lines are written: these, and what is worse."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Log lines on stderr as text, or as one JSON object each.")
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level",
        help="What is logged; debug: a line for each request. Default: warning; with -v, or as JSON, info.",
    ),
]


def set_up(level: LogLevel | None = None, kind: LogFormat = LogFormat.text) -> None:
    """Log to stderr from now on; without a level as it was, but as JSON at least at info."""
    before = logging.getLogger().level
    number = min(before, logging.INFO) if level is None and kind is LogFormat.json else before
    number = number if level is None else logging.getLevelNamesMapping()[level.value.upper()]
    handler = LimitedHandler(None if number <= logging.DEBUG else BURST)
    handler.setFormatter(JsonFormatter() if kind is LogFormat.json else TextFormatter())
    logging.basicConfig(level=number, handlers=[handler], force=True)
    if kind is LogFormat.json:
        guard.tell_errors_by(_json_line)
    global _kind
    _kind = kind.value


def tell(message: str) -> None:
    """A note of a command that logs: as it is, or as a line of a log in JSON."""
    if _kind == LogFormat.json:
        _log.info(message)
    else:
        notes.print(message)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, and behind them what a request is found again by."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        """One line that makes no terminal do things, whoever has chosen the words."""
        known = "".join(f" {key}={value}" for key, value in _about(record).items())
        return printable(super().formatMessage(record) + known, _MOST_TEXT)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's own name
        """The traceback, of which each line is as harmless."""
        return "\n".join(printable(line, _MOST_TEXT) for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """With ``time`` (UTC), ``level``, ``logger``, ``message``, what is known of a request, and ``exception``."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MOST_TEXT],
            **_about(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class LimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr, of one kind of line ``burst`` at once and then one a second (None: all).

    A kind is what one place in the program logs. How many were left out is told ten seconds later, and at the end.
    """

    def __init__(self, burst: int | None) -> None:
        super().__init__(sys.stderr)
        self._burst = burst
        self._kinds: dict[tuple[str, int, int], _Kind] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        if self._burst is None:
            super().emit(record)
            return
        key = record.pathname, record.lineno, record.levelno
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(self._burst)
        if kind.bucket.has(1, time.monotonic()):
            kind.bucket.spend(1)
            super().emit(record)
            return
        kind.left_out += 1
        kind.last = record
        if self._timer is None:
            self._timer = threading.Timer(_TOLD_AFTER_S, self._tell)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Tell what was left out, and end."""
        self._tell()
        super().close()

    def _tell(self) -> None:
        with self.lock or threading.RLock():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            for kind in self._kinds.values():
                if kind.last is not None:
                    name, level, told = kind.last.name, kind.last.levelno, (kind.left_out, kind.last.getMessage())
                    super().emit(logging.LogRecord(name, level, "", 0, _LEFT_OUT, told, None))
                    kind.left_out, kind.last = 0, None


class _Kind:
    def __init__(self, burst: int) -> None:
        self.bucket = TokenBucket(LINES_PER_S, burst)
        self.left_out = 0
        self.last: logging.LogRecord | None = None


def _about(record: logging.LogRecord) -> dict[str, object]:
    known = vars(record)
    return {key: known[key] for key in ABOUT if known.get(key) is not None}


def _json_line(message: str) -> str:
    """The one line of a command that fails, in the form of the log's."""
    return JsonFormatter().format(logging.LogRecord("midstream", logging.ERROR, "", 0, "%s", (message,), None))
