"""A history as it is read, also while another process writes it."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from midstream.allocation.usage import Usage
from midstream.errors import InputError
from midstream.history.rows import Names, names_from_json, usage_of
from midstream.history.schema import COLUMNS, check_history, check_version, connect

# Rows that are read at once. Between two such pages nobody is kept from writing.
_PAGE = 1000
_QUERY = (
    f"SELECT id, {', '.join(COLUMNS)} FROM usage WHERE (time_s, id) > (?, ?) AND time_s < ? "
    "AND (? IS NULL OR machine = ?) ORDER BY time_s, id LIMIT ?"
)


class History:
    """A history, read only. ``with History.open(path) as history: for usage in history: …``; for one thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._names: dict[int, Names] = {}

    @classmethod
    def open(cls, path: str | Path) -> History:
        """Open one. Raises InputError where there is none, or a newer midstream's, OSError where it cannot be read."""
        path = Path(path)
        if not check_history(path):
            raise InputError(f"{path}: there is no history; midstream gateway and run write one with --history")
        try:
            connection = _connected(Path(os.path.realpath(path)))
        except sqlite3.Error as error:
            raise _unreadable(path, error) from None
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            check_version(path, version)
        except sqlite3.Error as error:
            connection.close()
            raise _unreadable(path, error) from None
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __iter__(self) -> Iterator[Usage]:
        return self.between()

    def between(
        self, since_s: float = -math.inf, until_s: float = math.inf, machine: str | None = None
    ) -> Iterator[Usage]:
        """What came from ``since_s`` on and before ``until_s``, in the order of coming; seconds since 1970 (UTC).

        ``machine`` takes that kind's alone. A page of it is in memory at once; what is added meanwhile may be among it.
        Raises InputError where a row is damaged, OSError where the file cannot be read.
        """
        last: tuple[float, int] = (since_s, -1)
        while True:
            try:
                rows = self._connection.execute(_QUERY, (*last, until_s, machine, machine, _PAGE)).fetchall()
            except sqlite3.Error as error:
                raise _unreadable(self.path, error) from None
            for number, *row in rows:
                yield self._usage(number, row)
            if len(rows) < _PAGE:
                return
            last = rows[-1][1], rows[-1][0]

    def _usage(self, number: int, row: Sequence[Any]) -> Usage:
        try:
            return usage_of(row, self._names_of)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, sqlite3.Error) as error:
            raise InputError(
                f"{self.path}: row {number} is damaged, or of a newer midstream: {error!r}; update midstream, or have "
                "another history recorded"
            ) from None

    def _names_of(self, number: int) -> Names:
        if number not in self._names:
            found = self._connection.execute("SELECT names FROM names WHERE id = ?", (number,)).fetchone()
            if found is None:
                raise KeyError(number)
            self._names[number] = names_from_json(found[0])
        return self._names[number]


def _connected(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing.

    Where we may write, as one that could: else SQLite's log would be left behind by whoever reads last. Where neither
    the folder can be written nor anybody writes, the file is taken as it is.
    """
    ways = ["mode=rw", "mode=ro"]
    if not path.with_name(f"{path.name}-wal").exists():
        ways.append("mode=ro&immutable=1")
    for way in ways:
        connection = connect(path, way)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT count(*) FROM names").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if way == ways[-1]:
                raise
        else:
            return connection
    raise AssertionError("the last way returns or raises")


def _unreadable(path: Path, error: sqlite3.Error) -> Exception:
    """What a user is told where SQLite fails."""
    if isinstance(error, sqlite3.OperationalError):
        return OSError(errno.EIO, f"the history cannot be read: {error}", str(path))
    return InputError(f"{path} is damaged: {error}; what `sqlite3 {path.name} .recover` saves of it can be read")
