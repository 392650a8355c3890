"""Keeping with a bundle what was measured of it."""

from __future__ import annotations

from pathlib import Path

from midstream.bundle import Bundle
from midstream.errors import BundleError
from midstream.exits import EXITS_FILE, Exit
from midstream.exits_file import MAX_EXITS_BYTES, exit_to_bytes
from midstream.files import check_writable, write_whole
from midstream.ladder import LADDER_FILE, Ladder
from midstream.ladder_file import MAX_LADDER_BYTES, ladder_to_bytes


def write_ladder(bundle: Bundle, ladder: Ladder) -> Path:
    """Write it beside the bundle's other files, over one that is there, whole or not at all.

    Raises BundleError, also where another bundle has taken this one's place since it was opened.
    """
    what = f"the codec ladder of bundle {bundle.name!r}"
    bundle.check_unchanged()
    return _written(bundle.path / LADDER_FILE, ladder_to_bytes(ladder), MAX_LADDER_BYTES, what)


def write_exit(bundle: Bundle, early_exit: Exit) -> Path:
    """The same of an early exit."""
    what = f"the early exit of bundle {bundle.name!r}"
    bundle.check_unchanged()
    return _written(bundle.path / EXITS_FILE, exit_to_bytes(early_exit), MAX_EXITS_BYTES, what)


def remove_exit(bundle: Bundle) -> None:
    """Delete the early exit, where there is one. Raises BundleError as `write_exit` does."""
    bundle.check_unchanged()
    path = bundle.path / EXITS_FILE
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def check_ladder_target(bundle: Bundle) -> None:
    """Raise BundleError where no ladder can be written, before hours are spent on one."""
    _check_target(bundle.path / LADDER_FILE)


def check_exit_target(bundle: Bundle) -> None:
    """The same for an early exit."""
    _check_target(bundle.path / EXITS_FILE)


def _written(path: Path, content: bytes, limit: int, what: str) -> Path:
    if len(content) > limit:
        raise BundleError(f"{what} takes {len(content)} bytes, and {limit} are allowed; try fewer cuts, --cuts A,B,…")
    try:
        write_whole(path, content)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def _check_target(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        raise BundleError(f"cannot write {path}: it is a folder; delete it")
    try:
        check_writable(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"cannot write {path}: {error.strerror or error}; take a copy of the bundle that is yours")
