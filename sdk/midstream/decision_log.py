"""A log of decisions in a file: written while a device decides, read to repeat what it decided.

What is in it: `midstream.partitioning.replay`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from midstream.errors import PlanError
from midstream.files import regular_file
from midstream.partitioning import Plan, Power, Table
from midstream.partitioning.exploration import Exploration, Place
from midstream.partitioning.records import Json, Question, table_to_json
from midstream.partitioning.replay import RECENT, PlannerName, Replay, encoded, header_record
from midstream.version import __version__

MAX_LOG_BYTES = 64 << 20
MAX_LINE_BYTES = 8 << 20
_BUFFER_BYTES = 256 << 10
# What a log begins with, to know one by.
_BEGINNING = b'{"midstream_decisions":'
_log = logging.getLogger(__name__)
Thing = TypeVar("Thing")


class _Numbers(Generic[Thing]):
    """Numbers for things, the same again for one of the last."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, Thing]] = {}
        self._count = 0

    def of(self, thing: Thing) -> tuple[int, bool]:
        """Its number, and whether that is new."""
        known = self._last.get(id(thing))
        if known is not None:
            return known[0], False
        number, self._count = self._count, self._count + 1
        # Kept as it is: else another could take its id.
        self._last[id(thing)] = number, thing
        if len(self._last) > RECENT:
            del self._last[next(iter(self._last))]
        return number, True


class DecisionLog:
    """Writes one log, through a buffer; `flush` and the end of the process write what is left in it. Thread-safe.

    A log that is there is replaced. It grows to ``limit_bytes`` and then stops, as it does where it cannot be written:
    with one warning, and nothing else fails. Raises PlanError where another file is there, or none can be.
    """

    def __init__(
        self, path: str | Path, bundle: str, planner: PlannerName, power: Power, limit_bytes: int = MAX_LOG_BYTES
    ) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._tables: _Numbers[Table] = _Numbers()
        self._courses: _Numbers[Exploration] = _Numbers()
        self._decisions = 0
        self._left = limit_bytes
        self._file: BinaryIO | None = _opened(self._path)
        # Without this, what is still in the buffer would end with a warning that nobody closed the file.
        weakref.finalize(self, _close, self._file)
        self._write(header_record(__version__, bundle, planner, power))
        self.flush()

    def decided(self, table: Table, question: Question, plan: Plan) -> None:
        """Write a decision, and its table where that is new; they are numbered from 0."""
        with self._lock:
            if self._file is not None:
                named = self._named(table)
                self._write(question.decided(self._decisions, named, plan.reasons.row, plan.predicted_ms))
                self._decisions += 1

    def learned(self, decision: int, latency_ms: float) -> None:
        """Write what came of a decision."""
        with self._lock:
            self._write({"learned": decision, "latency_ms": latency_ms})

    def flush(self) -> None:
        """Hand over to the system what is buffered."""
        with self._lock:
            if self._file is not None:
                try:
                    self._file.flush()
                except OSError as error:
                    self._stop(error.strerror or str(error))

    def measured(self, exploration: Exploration, place: Place) -> None:
        """Write what an exploration was told."""
        with self._lock:
            self._write({"measured": place, "course": self._courses.of(exploration)[0]})

    def course(self, exploration: Exploration) -> int:
        """The number of an exploration."""
        with self._lock:
            return self._courses.of(exploration)[0]

    def _named(self, table: Table) -> int:
        """The number of a table, which is written unless it is one of the last."""
        number, new = self._tables.of(table)
        if new:
            self._write({"table": number, "columns": table_to_json(table)})
        return number

    def _write(self, record: Json) -> None:
        if self._file is None:
            return
        try:
            line = encoded(record)
        except ValueError as error:
            self._stop(str(error))
            return
        if len(line) > min(self._left, MAX_LINE_BYTES):
            self._stop("it has reached its limit")
            return
        self._left -= len(line)
        try:
            self._file.write(line)
        except OSError as error:
            self._stop(error.strerror or str(error))

    def _stop(self, why: str) -> None:
        _log.warning("%s: no further decisions are logged: %s", self._path, why)
        file, self._file = self._file, None
        if file is not None:
            _close(file)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A log that was repeated; ``cut_off`` says that its last line is not whole, and was left out."""

    replay: Replay
    cut_off: bool


def replay_file(path: str | Path) -> Replayed:
    """Repeat a log. Raises PlanError naming the line where it is damaged, OSError where it cannot be read."""
    replay, number, size, line = Replay(), 0, 0, b""
    with regular_file(Path(path)) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number, size = number + 1, size + len(line)
            if size > MAX_LOG_BYTES or len(line) > MAX_LINE_BYTES:
                raise _damaged(path, number, f"a log has no more than {MAX_LOG_BYTES} bytes, a line {MAX_LINE_BYTES}")
            if not line.endswith(b"\n"):
                break
            try:
                replay.take(line)
            except (ValueError, PlanError) as error:
                raise _damaged(path, number, str(error)) from None
    if replay.header is None:
        raise _damaged(path, max(number, 1), "it does not begin a log of decisions")
    return Replayed(replay, bool(line))


def _close(file: BinaryIO) -> None:
    # What is wrong with the disk was said when it was written to.
    with suppress(OSError):
        file.close()


def _damaged(path: str | Path, number: int, problem: str) -> PlanError:
    return PlanError(f"{path}: line {number}: {problem}; log the decisions again, with `midstream run --decisions`")


def _opened(path: Path) -> BinaryIO:
    try:
        if path.exists():
            with regular_file(path) as file:
                begins = file.read(len(_BEGINNING))
            if begins and begins != _BEGINNING:
                raise PlanError(f"{path} is there, and is no log of decisions; name another file for the log")
        return path.open("wb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise PlanError(f"{path}: the log of decisions cannot be written there: {error.strerror or error}") from None
