"""A folder written beside its place, and put there whole by a rename."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``place`` if the block ends well, and vanishes if it does not.

    An older folder there is replaced by two renames. Missing folders above it are made only then. Raises OSError.
    """
    # Beside the target, or where its missing folders will begin.
    anchor = next(parent for parent in place.parents if parent.exists())
    stage = Path(tempfile.mkdtemp(prefix=f".{place.name[:100]}.", dir=anchor))
    try:
        folder = stage / "new"
        folder.mkdir()
        yield folder
        place.parent.mkdir(parents=True, exist_ok=True)
        _replace(folder, place, stage / "old")
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(folder: Path, target: Path, old: Path) -> None:
    if not target.exists():
        folder.replace(target)
        return
    target.replace(old)
    try:
        folder.replace(target)
    except BaseException:
        old.replace(target)
        raise
