"""The files of a history: put there whole, and set aside with all that belongs to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from midstream.files import write_whole
from midstream.history.schema import check_history, empty_history

# SQLite's log, and what its readers and writers share of it.
_BESIDE = ("-wal", "-shm")
_MOST_ASIDE = 3

Identity = tuple[int, int]


def create(path: Path) -> None:
    """Put an empty history there, whole or not at all, for its owner alone; nothing where another process has.

    Raises OSError or InputError.
    """
    with _alone(path.parent):
        if not check_history(path):
            # The log of a file that was deleted would be taken for this one's.
            for ending in _BESIDE:
                path.with_name(path.name + ending).unlink(missing_ok=True)
            write_whole(path, empty_history(), private=True)


def set_aside(path: Path, known: Identity | None) -> Path | None:
    """Rename a damaged history, with its log, so that it can still be looked at; returns its name.

    None where it is not the one that is ``known``: another process has done so. Of a few, the last is replaced by the
    next one. Raises OSError.
    """
    with _alone(path.parent):
        if known is None or identity(path) != known:
            return None
        names = [path.with_name(f"{path.name}.damaged{'' if n == 1 else f'-{n}'}") for n in range(1, _MOST_ASIDE + 1)]
        target = next((name for name in names if not name.exists()), names[-1])
        for ending in (*_BESIDE, ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).replace(target.with_name(target.name + ending))
        return target


def identity(path: Path) -> Identity | None:
    """Which file is there; None where none is. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While the block runs, no other process puts a history here or takes one away, where the system can see to it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
