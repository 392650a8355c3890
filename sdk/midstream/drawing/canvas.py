"""A page of matplotlib's as an SVG or PNG file: what pictures and charts share."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from midstream.errors import InputError, MissingExtraError
from midstream.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png")
DPI = 96.0
INK, FAINT = "#1f2933", "#66727f"


def check_target(path: Path) -> None:
    """Raise InputError where no picture can be written under this name, MissingExtraError where nothing can draw it."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"a picture is written as .svg or .png; {path.name!r} ends in neither: give it one of the two")
    if not path.parent.is_dir():
        raise InputError(f"picture {path} cannot be written: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise InputError(f"picture {path} cannot be written: it is a folder; give the name of a file")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "draw", "drawing")


def kind_of(path: Path) -> str:
    """svg or png, by the ending of a name that `check_target` has passed."""
    return path.suffix.lower().removeprefix(".")


def write(path: Path, content: bytes) -> None:
    """The file, which takes the place of one that is there, whole or not at all. Raises InputError."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise InputError(f"picture {path} cannot be written: {error.strerror or error}") from None


def content_of(figure: Figure, kind: str, title: str, dpi: float) -> bytes:
    """The content of an svg or png; the same figure gives the same bytes."""
    content = io.BytesIO()
    if kind == "svg":
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": "midstream", "Title": title})
    else:
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's own settings are, with letters kept as letters in an SVG."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "midstream",
                "font.family": ["sans-serif"],
                "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
                "path.simplify": False,
            }
        )
        yield
