"""The file of a history as it is written: bounded, committed whole, set aside where it is damaged."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from midstream.allocation.usage import Usage
from midstream.history.placing import Identity, create, identity, set_aside
from midstream.history.rows import Names, names_from_json, names_to_json, row_of
from midstream.history.schema import BUSY_S, COLUMNS, PAGE_BYTES, check_history, check_version, connect

_log = logging.getLogger("midstream.history")

MIN_BYTES = 1 << 20
# So many sets of names are kept once, or one for so many bytes of the file where these are fewer; others, and longer
# ones, are written out: what peers make up takes no room of others.
MOST_NAMES = 1024
_BYTES_FOR_NAMES = 32 << 10
_MOST_NAMES_LETTERS = 2048
_MOST_WAL_SHARE = 8
_LEAST_WAL_BYTES = 4 << 20
_NO_LOG = "SQLite's log cannot be kept beside it: the folder takes no new file, or the file system no shared memory"
# Rows that go at once, where the file is too large.
_LEAST_GOING = 64
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
_UNFIT = (ValueError, TypeError, OverflowError, AttributeError, sqlite3.IntegrityError, sqlite3.InterfaceError)
_INSERT = f"INSERT INTO usage ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


class Store:
    """Adds to a history, which is made where none is; for one thread, beside other processes that do the same.

    The file has at most ``limit_bytes``: the oldest rows go as new ones come, in the same transaction, and pages are
    used again. Beside it is SQLite's log, of at most an eighth of that, or 4 MiB; while somebody reads for so long that
    it would grow over it, nothing is added. What is committed is on the disk.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        # SQLite's log is beside the file that a link leads to.
        self._path = Path(os.path.realpath(path))
        self._pages = max(limit_bytes, MIN_BYTES) // PAGE_BYTES
        self._wal_bytes = max(_LEAST_WAL_BYTES, limit_bytes // _MOST_WAL_SHARE)
        self._most_names = min(MOST_NAMES, self._pages * PAGE_BYTES // _BYTES_FOR_NAMES)
        self._connection: sqlite3.Connection | None = None
        self._opened: Identity | None = None
        self._numbers: dict[Names, int] = {}

    def append(self, usages: Sequence[Usage]) -> int:
        """Add these, all at once; returns how many cannot be kept as they are none.

        A file that is damaged is set aside, and another begun. Raises OSError, sqlite3.Error or InputError where
        nothing was added.
        """
        try:
            return self._append(usages)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            self.close()
            if (aside := set_aside(self._path, self._opened)) is not None:
                _log.warning(
                    "%s is damaged (%s): it was renamed %s, and another one is begun", self._path, error, aside.name
                )
            return self._append(usages)

    def close(self) -> None:
        """Let go of the file. It is opened again when there is something to add."""
        connection, self._connection = self._connection, None
        self._numbers.clear()
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _append(self, usages: Sequence[Usage]) -> int:
        connection = self._open()
        self._check_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._make_room(connection, len(usages))
            unfit = 0
            for usage in usages:
                # One at a time: between two rows other threads get their turn.
                try:
                    connection.execute(_INSERT, row_of(usage, lambda names: self._number(connection, names)))
                except _UNFIT:
                    unfit += 1
            self._bound(connection)
            connection.execute("COMMIT")
        except BaseException:
            # Names that were added with it are gone with it.
            self._numbers.clear()
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return unfit

    def _open(self) -> sqlite3.Connection:
        """The connection, a new one where the file is not the one that was opened."""
        if self._connection is not None and self._opened == identity(self._path):
            return self._connection
        if self._connection is not None:
            # It was moved, and so takes with it what is in its log.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()
        if not check_history(self._path):
            create(self._path)
        self._opened = identity(self._path)
        connection = connect(self._path, "mode=rw")
        try:
            check_version(self._path, int(_one(connection, "PRAGMA user_version")))
            if _one(connection, "PRAGMA journal_mode = WAL") != "wal":
                raise OSError(errno.ENOTSUP, _NO_LOG, str(self._path))
            # Once a second or a minute, and a device's plug may be pulled at any time.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._wal_bytes // PAGE_BYTES // 4}")
            connection.execute(f"PRAGMA journal_size_limit = {self._wal_bytes}")
            # Of a table that is another's, this fails.
            connection.execute(f"SELECT {', '.join(COLUMNS)} FROM usage LIMIT 1").fetchone()
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_CANTOPEN:
                raise OSError(errno.ENOTSUP, _NO_LOG, str(self._path)) from None
            raise
        self._connection = connection
        return connection

    def _check_wal(self, connection: sqlite3.Connection) -> None:
        """Have SQLite's log begin again where it is long; raises OSError where somebody's reading forbids that."""
        if self._wal_size() <= self._wal_bytes // 2:
            return
        # Who reads now is not waited for: there will be another time.
        connection.execute("PRAGMA busy_timeout = 0")
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        connection.execute(f"PRAGMA busy_timeout = {BUSY_S * 1e3:.0f}")
        if busy and self._wal_size() > self._wal_bytes * 3 // 4:
            raise OSError(errno.EBUSY, "somebody has been reading it for too long", str(self._path))

    def _wal_size(self) -> int:
        try:
            return self._path.with_name(f"{self._path.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _make_room(self, connection: sqlite3.Connection, rows: int) -> None:
        """In a file that is nearly full, let go of as many of the oldest rows as new ones will need the pages of."""
        used, count = self._used(connection), _count(connection)
        if not count or used < self._pages * 3 // 4:
            return
        needed = used + int(rows * used / count) + 1 - self._pages
        if needed > 0:
            self._drop(connection, int(needed * count / used) + _LEAST_GOING)

    def _bound(self, connection: sqlite3.Connection) -> None:
        """Let go of more, until the file is as small as it must be: after larger rows, or with a smaller limit."""
        while (excess := self._used(connection) - self._pages) > 0 and (count := _count(connection)):
            self._drop(connection, int(excess / self._used(connection) * count) + _LEAST_GOING)
        for _ in range(int(_one(connection, "PRAGMA page_count")) - self._pages):
            # Python takes one step of such a statement, which is one page.
            connection.execute("PRAGMA incremental_vacuum(1)")

    def _used(self, connection: sqlite3.Connection) -> int:
        """Pages that hold something."""
        return int(_one(connection, "PRAGMA page_count")) - int(_one(connection, "PRAGMA freelist_count"))

    def _drop(self, connection: sqlite3.Connection, rows: int) -> None:
        first = _one(connection, "SELECT coalesce(min(id), 0) FROM usage")
        connection.execute("DELETE FROM usage WHERE id < ?", (int(first) + rows,))

    def _number(self, connection: sqlite3.Connection, names: Names) -> int | None:
        """The number of a set of names; None where there are too many others."""
        if not self._numbers:
            kept = connection.execute("SELECT id, names FROM names")
            self._numbers = {names_from_json(text): number for number, text in kept}
        number = self._numbers.get(names)
        if number is None and len(self._numbers) < self._most_names:
            text = names_to_json(names)
            if len(text) <= _MOST_NAMES_LETTERS:
                # Another process may have added them.
                connection.execute("INSERT OR IGNORE INTO names (names) VALUES (?)", (text,))
                (number,) = connection.execute("SELECT id FROM names WHERE names = ?", (text,)).fetchone()
                self._numbers[names] = number
        return number


def _one(connection: sqlite3.Connection, query: str) -> int | str:
    """The one value that is asked for."""
    (value,) = connection.execute(query).fetchone()
    assert isinstance(value, int | str)
    return value


def _count(connection: sqlite3.Connection) -> int:
    """How many rows there are: they come and go in the order of their ids, without a gap."""
    first, last = connection.execute("SELECT (SELECT min(id) FROM usage), (SELECT max(id) FROM usage)").fetchone()
    return 0 if first is None else int(last) - int(first) + 1


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether this says that the file is not what it was: its pages, or its tables."""
    return _code(error) in _DAMAGED


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None where the error is not one of its own."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
