"""The tables of a history, and which file is one."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import sys
from pathlib import Path
from urllib.parse import quote

from midstream.errors import InputError

# "msh1": by it SQLite's `file` entry, and this module, know a history from other databases.
APPLICATION_ID = 0x6D73_6831
VERSION = 1
PAGE_BYTES = 4096
_LOGGED = 2
# Another process that writes, or one that reads while the log is taken over, is waited for.
BUSY_S = 5.0

COLUMNS = (
    "time_s", "request_id", "machine", "device_id", "bundle", "cut", "codec", "outcome", "next_cut", "priority",
    "deadline_ms", "score", "features", "plan", "cpu_ms", "timings_ms", "peak_bytes", "received_bytes", "sent_bytes",
    "batch", "latency_ms", "reason",
)  # fmt: skip


def _shown(column: str) -> str:
    """SQL of a column as a reader wants it: numbers by name, which are kept as [which names, number, …].

    One that is not finite is null there, as in JSON.
    """
    if column == "bundle":
        return "CASE typeof(bundle) WHEN 'blob' THEN lower(hex(bundle)) ELSE bundle END AS bundle"
    if column == "request_id":
        return "lower(hex(request_id)) AS request_id"
    if column not in ("features", "cpu_ms", "timings_ms"):
        return column
    return (
        f"CASE WHEN {column} LIKE '[%' THEN (SELECT json_group_object(name.value,"
        f" iif(abs(number.value) > {sys.float_info.max}, NULL, number.value)) FROM"
        f" json_each((SELECT names FROM names WHERE id = json_extract({column}, '$[0]'))) AS name"
        f" JOIN json_each({column}) AS number ON number.key = name.key + 1)"
        f" ELSE coalesce({column}, '{{}}') END AS {column}"
    )


_SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE names (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE usage (
    id INTEGER PRIMARY KEY, time_s REAL NOT NULL, request_id BLOB NOT NULL, machine TEXT NOT NULL,
    device_id TEXT NOT NULL, bundle NOT NULL, cut TEXT NOT NULL, codec TEXT NOT NULL, outcome TEXT NOT NULL,
    next_cut TEXT NOT NULL, priority INTEGER NOT NULL, deadline_ms REAL, score REAL, features TEXT, plan TEXT,
    cpu_ms TEXT, timings_ms TEXT, peak_bytes INTEGER, received_bytes INTEGER NOT NULL, sent_bytes INTEGER NOT NULL,
    batch INTEGER NOT NULL, latency_ms REAL, reason TEXT NOT NULL
);
CREATE INDEX usage_time ON usage (time_s);
CREATE VIEW requests AS SELECT id, {", ".join(map(_shown, COLUMNS))} FROM usage;
COMMIT;
"""


def check_history(path: Path) -> bool:
    """Whether a history is there; False where nothing is, or an empty file. The file is only looked at.

    Raises InputError where something else is there, or a history that a newer midstream has written, or nothing could
    be; OSError where it cannot be read now.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent} for a history; make it") from None
        return False
    except ValueError:
        raise InputError(f"no file can have the name {str(path)!r}; name another file for the history") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR):
            raise InputError(f"{path}: {error.strerror}; name another file for the history") from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is there, and is no regular file; name another file for the history")
    if status.st_size == 0:
        return False
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    application, version = _marks(path)
    if application != APPLICATION_ID:
        raise InputError(f"{path} is there, and is no history; name another file for the history")
    check_version(path, version)
    return True


def check_version(path: Path, version: int) -> None:
    """Raise InputError where this midstream does not know a history of this version."""
    if version != VERSION:
        raise InputError(
            f"{path} is a history of version {version}; this midstream knows version {VERSION}: update midstream, or "
            "name another file for the history"
        )


def empty_history() -> bytes:
    """The file of a history without rows, with its log beside it from the start.

    Where two processes begin to write at once, one of them would be told that the file is locked, without waiting, if
    the log still had to be switched on. What says it are bytes 18 and 19 (https://sqlite.org/fileformat2.html, 1.3.3).
    """
    made = sqlite3.connect(":memory:")
    try:
        made.executescript(_SCHEMA)
        content = bytearray(made.serialize())
    finally:
        made.close()
    content[18:20] = (_LOGGED, _LOGGED)
    return bytes(content)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to a file that is there, as SQLite's URI parameters ``mode`` say; raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", timeout=BUSY_S, isolation_level=None, uri=True)


def _marks(path: Path) -> tuple[int, int]:
    """The application's id and the version that are in a file's head, without a lock, a log or a change; 0 where none.

    SQLite reads them, and no file of our own: closing one would give up the locks that other connections of this
    process hold (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        connection = connect(path, "mode=ro&immutable=1")
        try:
            # So that one that was cut short is still known by its head.
            connection.execute("PRAGMA writable_schema = ON")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error), str(path)) from None
    except sqlite3.DatabaseError:
        return 0, 0
    return int(application), int(version)
