"""Keeping a ladder with its bundle."""

from __future__ import annotations

from pathlib import Path

from midstream.bundle import Bundle
from midstream.errors import BundleError
from midstream.files import check_writable, write_whole
from midstream.ladder import LADDER_FILE, Ladder
from midstream.ladder_file import MAX_LADDER_BYTES, ladder_to_bytes


def write_ladder(bundle: Bundle, ladder: Ladder) -> Path:
    """Write it beside the bundle's other files, over one that is there, whole or not at all. Raises BundleError."""
    path = bundle.path / LADDER_FILE
    content = ladder_to_bytes(ladder)
    if len(content) > MAX_LADDER_BYTES:
        raise BundleError(
            f"the codec ladder of bundle {bundle.name!r} takes {len(content)} bytes, and {MAX_LADDER_BYTES} are "
            "allowed; calibrate fewer cuts, --cuts A,B,…"
        )
    try:
        write_whole(path, content)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def check_ladder_target(bundle: Bundle) -> None:
    """Raise BundleError where no ladder can be written, before hours are spent on one."""
    path = bundle.path / LADDER_FILE
    if path.is_dir() and not path.is_symlink():
        raise BundleError(f"cannot write {path}: it is a folder; delete it")
    try:
        check_writable(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"cannot write {path}: {error.strerror or error}; calibrate a copy of the bundle that is yours")
