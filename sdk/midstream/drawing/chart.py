"""Bytes against agreement: what each rung of the codec ladder makes of each cut and of the input, in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midstream.drawing.canvas import DPI, FAINT, INK, check_target, content_of, kind_of, plain_matplotlib, write
from midstream.ladder import MeasuredRung

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 10.0, 6.4
_PNG_DPI = 1.5 * DPI
_CUT_COLOURS = "viridis"
_INPUT_COLOUR = "#c2410c"
_TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
_NEAREST = 0.001
_NAME_PX = (44.0, 9.0)
_MOST_LEGEND_ROWS = 24


@dataclass(frozen=True, slots=True)
class Series:
    """A place's rungs as (codec, bytes, agreement); ``whole_input`` is drawn apart from cuts."""

    name: str
    rungs: Sequence[tuple[str, float, float]]
    whole_input: bool = False


def series_of(rungs: Mapping[str | None, Sequence[MeasuredRung]]) -> list[Series]:
    """The rungs of each place, a cut or None for the whole input, as they are drawn."""
    return [
        Series(
            "whole input" if cut is None else f"cut {cut}",
            [(rung.codec, rung.payload_bytes, rung.agreement) for rung in found],
            cut is None,
        )
        for cut, found in rungs.items()
    ]


def write_chart(path: Path, series: Sequence[Series], *, title: str, metric: str) -> None:
    """Draw the chart into an .svg or .png file. Raises as `canvas.check_target` does, and InputError."""
    check_target(path)
    write(path, render(series, kind_of(path), title=title, metric=metric))


def render(series: Sequence[Series], kind: str, *, title: str, metric: str) -> bytes:
    """The content of the file; ``kind`` is svg or png. The same series give the same bytes.

    What takes no bytes has no place on a logarithmic axis, and is left out.
    """
    series = [replace(each, rungs=[rung for rung in each.rungs if rung[1] > 0]) for each in series]
    with plain_matplotlib():
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        cuts = [each for each in series if not each.whole_input]
        colours = matplotlib.colormaps[_CUT_COLOURS].resampled(max(1, len(cuts)))
        for index, each in enumerate(cuts):
            _draw(axes, each, colours(index), "o", 1.2)
        for each in series:
            if each.whole_input:
                _draw(axes, each, _INPUT_COLOUR, "D", 2.2)
        lowest = min((agreement for each in series for _, _, agreement in each.rungs), default=0.0)
        axes.set_xscale("log")
        axes.set_yscale("function", functions=(_stretched, _squeezed))
        axes.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        axes.set_ylim(max(_TICKS[0], lowest - 0.01), _squeezed(_stretched(1.0) + 0.12))
        axes.set_xlabel("bytes an input (mean, logarithmic)", color=INK)
        axes.set_ylabel(f"agreement with the whole model ({metric})", color=INK, parse_math=False)
        axes.set_title(title, color=INK, loc="left", parse_math=False)
        axes.grid(True, which="major", color="#e3e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=FAINT)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        columns = 1 + (len(series) - 1) // _MOST_LEGEND_ROWS
        if series:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, ncols=columns)
        _name(axes, series)
        return content_of(figure, kind, title, _PNG_DPI)


def _draw(axes: Axes, series: Series, colour: Any, marker: str, width: float) -> None:
    """All rungs as points, the best of them joined."""
    points, best = series.rungs, _best(series)
    across, up = [rung[1] for rung in points], [rung[2] for rung in points]
    axes.scatter(across, up, s=14, color=colour, marker=marker, alpha=0.45)
    across, up = [rung[1] for rung in best], [rung[2] for rung in best]
    axes.plot(across, up, label=series.name, color=colour, marker=marker, markersize=4 + width, linewidth=width)


def _name(axes: Axes, series: Sequence[Series]) -> None:
    """The codec beside the best points, those of the whole input first, where there is room."""
    taken: list[tuple[float, float]] = []
    for each in sorted(series, key=lambda each: not each.whole_input):
        for codec, size, agreement in _best(each):
            x, y = axes.transData.transform((size, agreement))
            apart = all(abs(x - a) > _NAME_PX[0] or abs(y - b) > _NAME_PX[1] for a, b in taken)
            if apart and agreement >= axes.get_ylim()[0]:
                taken.append((x, y))
                colour = _INPUT_COLOUR if each.whole_input else INK
                place = (4, 5)
                axes.annotate(codec, (size, agreement), place, textcoords="offset points", fontsize=6.5, color=colour)


def _best(series: Series) -> list[tuple[str, float, float]]:
    best: list[tuple[str, float, float]] = []
    for point in sorted(series.rungs, key=lambda rung: (rung[1], -rung[2])):
        if not best or point[2] > best[-1][2]:
            best.append(point)
    return best


def _stretched(agreement: Any) -> Any:
    """The nearer to 1, the more room."""
    return -np.log10(np.maximum(1.0 + _NEAREST - np.asarray(agreement, float), _NEAREST / 10))


def _squeezed(place: Any) -> Any:
    return 1.0 + _NEAREST - 10.0 ** -np.asarray(place, float)
