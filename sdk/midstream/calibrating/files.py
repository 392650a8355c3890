"""Keeping a ladder with its bundle."""

from __future__ import annotations

from pathlib import Path

from midstream.bundle import Bundle
from midstream.errors import BundleError
from midstream.files import write_whole
from midstream.ladder import LADDER_FILE, Ladder
from midstream.ladder_file import ladder_to_bytes


def write_ladder(bundle: Bundle, ladder: Ladder) -> Path:
    """Write it beside the bundle's other files, over one that is there, whole or not at all. Raises BundleError."""
    path = bundle.path / LADDER_FILE
    try:
        write_whole(path, ladder_to_bytes(ladder))
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}") from None
    return path
