"""What a user may have of a Keras model: a .keras file, an HDF5 file, or a SavedModel folder; told by content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from midstream.errors import ModelError
from midstream.files import regular_file

SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_MAGIC: dict[bytes, Literal["keras", "h5"]] = {b"PK\x03\x04": "keras", b"\x89HDF\r\n\x1a\n": "h5"}


@dataclass(frozen=True)
class KerasModel:
    """A model that TensorFlow reads; size and hash are those of all its files."""

    path: Path
    kind: Literal["keras", "h5", "saved_model"]
    bytes: int
    sha256: str


def find_keras(path: Path) -> KerasModel | None:
    """The Keras model that is there; None where it is something else. Raises ModelError where it cannot be read."""
    try:
        if path.is_dir():
            return _folder(path) if any((path / name).is_file() for name in SAVED_MODEL) else None
        with regular_file(path) as file:
            start = file.read(8)
            kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
            if kind is None:
                return None
            file.seek(0)
            return KerasModel(path, kind, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise ModelError(f"cannot read model {path}: {error.strerror}") from None


def _folder(path: Path) -> KerasModel:
    digest, size = hashlib.sha256(), 0
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        size += file.stat().st_size
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    # A folder may be given as "." or "..": the bundle is named after the folder itself.
    return KerasModel(path if path.name else path.resolve(), "saved_model", size, digest.hexdigest())
