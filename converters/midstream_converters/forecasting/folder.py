"""A forecast model's folder: written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from midstream.errors import ModelError
from midstream.forecaster import CARD, MODEL_FILES
from midstream_converters.staging import replacing

PAGE = "forecast.md"
"""The card for people."""


def check_target(target: Path) -> None:
    """Raise ModelError where a model may not be written: over anything that is not wholly a forecast model."""
    place = target.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        raise ModelError(f"{target} is the folder you are in, or one around it; choose another -o")
    if not place.exists():
        return
    names = sorted(file.name for file in place.iterdir()) if place.is_dir() else [place.name]
    foreign = [name for name in names if name not in (*MODEL_FILES.values(), CARD, PAGE)]
    if foreign:
        raise ModelError(f"{target} exists and is no forecast model alone, it has {foreign[0]!r}; choose another -o")


def write_model(target: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of these; one that is there is replaced. Raises ModelError."""
    check_target(target)
    try:
        with replacing(target.resolve()) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
    except OSError as error:
        raise ModelError(f"cannot write forecast model {target}: {error.strerror or error}") from None
