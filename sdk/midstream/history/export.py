"""A history as a table for other programs: CSV or Parquet, with one column for each field of a `Usage`."""

from __future__ import annotations

import csv
import errno
import io
import json
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from midstream.allocation.usage import Usage
from midstream.errors import InputError
from midstream.files import check_writable, writing_whole
from midstream.history.rows import plain

COLUMNS = tuple(Usage.__dataclass_fields__)


def export(usages: Iterable[Usage], path: Path) -> int:
    """Write a .csv or .parquet file, whole or not at all, its owner's alone; returns how many rows it has.

    Raises InputError where it has another ending or cannot be written there, MissingExtraError where Parquet is not
    installed.
    """
    write = writer_for(path)
    try:
        with suppress(FileNotFoundError):
            # Who may do everything would put a file into the place of /dev/null, or of a pipe.
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
        check_writable(path)
    except (OSError, ValueError) as error:
        raise _cannot(path, getattr(error, "strerror", None) or error) from None
    try:
        with writing_whole(path, private=True) as file:
            return write(usages, file)
    except OSError as error:
        if error.filename is not None and Path(error.filename) != path:
            raise  # the history's own
        raise _cannot(path, error.strerror or error) from None


def writer_for(path: Path) -> Callable[[Iterable[Usage], IO[bytes]], int]:
    """What writes a file of this ending; raises InputError or MissingExtraError where nothing does."""
    ending = path.suffix.lower()
    if ending == ".csv":
        return write_csv
    if ending == ".parquet":
        from midstream.history.parquet import write_parquet

        return write_parquet
    raise InputError(f"{path}: a history is exported as .csv or .parquet; name a file that ends so")


def write_csv(usages: Iterable[Usage], file: IO[bytes]) -> int:
    """Comma-separated values in UTF-8, with a heading; what has several values is JSON, and what is unknown empty."""
    rows = 0
    # Detached at the end: who opened the file closes it.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    for usage in usages:
        lines.writerow([_cell(getattr(usage, column)) for column in COLUMNS])
        rows += 1
    text.detach()
    return rows


def _cell(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(plain(value), separators=(",", ":")) if isinstance(value, Mapping) else value


def _cannot(path: Path, why: object) -> InputError:
    return InputError(f"{path}: the table cannot be written there: {why}; give another --export")
