"""What was found in pictures and sounds, as one page: each with its features as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from midstream.drawing.canvas import DPI, FAINT, INK, check_target, content_of, kind_of, plain_matplotlib, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPECTROGRAM_COLUMNS = 900
MAX_ROWS = 8

_WIDTH, _ROW_HEIGHT, _BAR_HEIGHT, _TITLE_HEIGHT = 11.0, 2.6, 0.19, 0.75
_PNG_DPI = 1.5 * DPI
_BAR, _GROOVE = "#2563a8", "#e9edf1"
_SPECTRUM_COLOURS = "magma"
_RANGE_DB = 80.0
_LONGEST_TITLE = 100


@dataclass(frozen=True, slots=True)
class Bar:
    """A feature: its value, and where that lies between the ends of its range, 0–1."""

    name: str
    shown: str
    share: float


@dataclass(frozen=True, slots=True)
class Row:
    """A file's picture, H×W×3 of uint8, or spectrogram, bands × columns in dB with its seconds and Hz; its bars."""

    title: str
    content: NDArray[np.generic]
    bars: Sequence[Bar]
    seconds: float | None = None
    top_hz: float | None = None


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Draw the page into an .svg or .png file. Raises as `canvas.check_target` does, and InputError."""
    check_target(path)
    write(path, render(rows, kind_of(path)))


def render(rows: Sequence[Row], kind: str) -> bytes:
    """The content of the file; ``kind`` is svg or png. The same rows give the same bytes."""
    with plain_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        heights = [_TITLE_HEIGHT + max(_ROW_HEIGHT, _BAR_HEIGHT * len(row.bars)) for row in rows]
        figure = Figure(figsize=(_WIDTH, sum(heights)), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(rows), 2, width_ratios=(1.25, 1.0), height_ratios=heights)
        for place, row in enumerate(rows):
            left, right = figure.add_subplot(grid[place, 0]), figure.add_subplot(grid[place, 1])
            _draw_content(left, row)
            _draw_bars(right, row.bars)
        return content_of(figure, kind, "complexity", _PNG_DPI)


def _draw_content(axes: Axes, row: Row) -> None:
    title = row.title if len(row.title) <= _LONGEST_TITLE else "…" + row.title[1 - _LONGEST_TITLE :]
    axes.set_title(title, loc="left", fontsize=9, color=INK, parse_math=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if row.seconds is None:
        axes.imshow(row.content)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    bands = len(row.content)
    loudest = float(row.content.max())
    axes.imshow(
        row.content, origin="lower", aspect="auto", cmap=_SPECTRUM_COLOURS, interpolation="nearest",
        vmin=loudest - _RANGE_DB, vmax=max(loudest, 1e-6), extent=(0.0, row.seconds, 0.0, bands),
    )  # fmt: skip
    axes.set_xlabel("seconds", color=FAINT, fontsize=8)
    axes.set_ylabel(f"mel band, up to {row.top_hz:g} Hz", color=FAINT, fontsize=8)
    axes.tick_params(colors=FAINT, labelsize=7)


def _draw_bars(axes: Axes, bars: Sequence[Bar]) -> None:
    places = range(len(bars))
    axes.barh(places, [1.0] * len(bars), height=0.62, color=_GROOVE)
    axes.barh(places, [min(1.0, max(0.0, bar.share)) for bar in bars], height=0.62, color=_BAR)
    for place, bar in zip(places, bars, strict=True):
        axes.text(1.02, place, bar.shown, va="center", ha="left", fontsize=7.5, color=INK, parse_math=False)
    axes.set_yticks(places, [bar.name for bar in bars], fontsize=7.5, color=INK)
    axes.set_xticks([])
    axes.set_xlim(0.0, 1.35)
    axes.set_ylim(max(len(bars), 10) - 0.4, -0.6)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
