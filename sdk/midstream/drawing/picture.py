"""A scene as an SVG or PNG file, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from midstream.drawing.canvas import DPI, FAINT, INK, check_target, content_of, kind_of, plain_matplotlib, write
from midstream.drawing.layout import Box, Line
from midstream.drawing.scene import (
    DETAIL_PX,
    OPERATOR_PX,
    Label,
    Scene,
    duration,
    make_scene,
    share_of_scale,
    shortened,
)
from midstream.manifest import Cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 72.0 / DPI
_PNG_SCALE = 1.5
_MOST_SIDE = 12_000
_MOST_PIXELS = 40_000_000
_LEAST_WIDTH = 640.0
_MARGIN = 20.0

_MAP = "magma_r"
_MAP_FROM, _MAP_TO = 0.04, 0.86
_LINE = "#93a0ac"
_CONSTANT = "#e6e9ed"
_CONSTANT_LINE = "#c5ccd3"
_CUT = "#0067b1"
_CUT_BESIDE = "#6aa7d6"


def write_picture(path: Path, graph: nx.DiGraph, cuts: Sequence[Cut], *, name: str, whole_ms: float) -> None:
    """Draw a resource map with its cuts into a file, which takes the place of one that is there, whole or not at all.

    The ending decides between SVG and PNG. Raises as `check_target` does, and InputError where writing fails.
    """
    check_target(path)
    write(path, render(graph, cuts, kind_of(path), name=name, whole_ms=whole_ms))


def render(graph: nx.DiGraph, cuts: Sequence[Cut], kind: str, *, name: str, whole_ms: float) -> bytes:
    """The content of the file; ``kind`` is svg or png. The same model gives the same bytes."""
    with plain_matplotlib():
        scene = make_scene(graph, cuts, _text_width)
        figure, width, height = _figure(scene, graph, cuts, name, whole_ms)
        scale = min(_PNG_SCALE, _MOST_SIDE / max(width, height), math.sqrt(_MOST_PIXELS / (width * height)))
        return content_of(figure, kind, shortened(name, 200), DPI * scale)


def _text_width(text: str, pixels: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # Measured bold: a viewer's font may be a little wider than ours.
    prop = FontProperties(family="DejaVu Sans", weight="bold", size=pixels)
    return float(text_to_path.get_text_width_height_descent(text, prop, ismath=False)[0])


def _figure(
    scene: Scene, graph: nx.DiGraph, cuts: Sequence[Cut], name: str, whole_ms: float
) -> tuple[Figure, float, float]:
    """The figure, and its width and height in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = scene.layout
    width = max(layout.width + 2 * _MARGIN, _LEAST_WIDTH)
    legend = _Legend(scene, graph, cuts, name, whole_ms, width)
    shares = _column_words(scene, graph)
    left = (width - layout.width) / 2
    top = legend.height + (shares[0].pixels + 12 if shares else 0.0)
    height = top + layout.height + _MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    page = _axes(figure, (0, width), (height, 0))
    legend.draw(page)
    axes = _axes(figure, (-left, width - left), (height - top, -top))
    for words in shares:
        _text(axes, words.x, -4.0, words.text, words.pixels, FAINT, va="bottom")
    _draw_lines(axes, scene, graph)
    _draw_marks(axes, scene)
    _draw_boxes(axes, scene, graph)
    return figure, width, height


def _axes(figure: Figure, across: tuple[float, float], down: tuple[float, float]) -> Axes:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(*across)
    axes.set_ylim(*down)
    return axes


def _text(axes: Axes, x: float, y: float, text: str, pixels: float, colour: Any, **more: Any) -> None:
    """Words as they are: a dollar sign begins no formula."""
    given = {"va": "center", **more}
    axes.text(x, y, text, fontsize=pixels * _POINTS, color=colour, parse_math=False, clip_on=False, **given)


@dataclass(frozen=True, slots=True)
class _Words:
    x: float
    text: str
    pixels: float


def _column_words(scene: Scene, graph: nx.DiGraph) -> list[_Words]:
    """What share of the time each column takes, as large as fits all of them; nothing over a single one."""
    columns = scene.layout.columns
    spent = dict.fromkeys(columns, 0.0)
    for node, data in graph.nodes(data=True):
        spent[scene.layout.column_of(scene.ranks[node])] += data["cpu_ms"]
    whole = sum(spent.values())
    if len(columns) < 2 or whole <= 0:
        return []
    texts = [f"{duration(ms)} · {100 * ms / whole:.0f} %" for ms in spent.values()]
    room = min(
        (after.area.x - column.area.x - 12) / _text_width(text, 1.0)
        for (column, after), text in zip(pairwise(columns), texts, strict=False)
    )
    pixels = max(DETAIL_PX, min(room, scene.layout.width / 90, 28.0))
    return [_Words(column.area.x, text, pixels) for column, text in zip(columns, texts, strict=True)]


def _draw_boxes(axes: Axes, scene: Scene, graph: nx.DiGraph) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import FancyBboxPatch

    patches, fills, outlines, widths = [], [], [], []
    for node, box in scene.layout.boxes.items():
        data = graph.nodes[node]
        constant, critical = bool(data.get("static")), bool(data.get("critical"))
        fill = _rgb(_CONSTANT) if constant else _colour(share_of_scale(data["cpu_ms"], scene))
        patches.append(
            FancyBboxPatch(
                (box.x + 3, box.y + 3), box.width - 6, box.height - 6, boxstyle="round,pad=3,rounding_size=4"
            )
        )
        fills.append(fill)
        outlines.append(_rgb(INK if critical else _CONSTANT_LINE if constant else _LINE))
        widths.append((3.0 if critical else 0.8) * _POINTS)
        _draw_label(axes, box, scene.labels[node], fill, constant=constant)
    axes.add_collection(PatchCollection(patches, facecolors=fills, edgecolors=outlines, linewidths=widths, zorder=3))


def _draw_label(axes: Axes, box: Box, label: Label, fill: tuple[float, float, float], *, constant: bool) -> None:
    middle = box.x + box.width / 2
    if constant:
        _text(axes, middle, box.y + box.height / 2, label.operator, DETAIL_PX, FAINT, ha="center", zorder=4)
        return
    ink = "white" if _luminance(fill) < 0.18 else INK
    _text(axes, middle, box.y + 11, label.operator, OPERATOR_PX, ink, ha="center", weight="bold", zorder=4)
    _text(axes, middle, box.y + 24.5, label.detail, DETAIL_PX, ink, ha="center", zorder=4)


def _draw_lines(axes: Axes, scene: Scene, graph: nx.DiGraph) -> None:
    from matplotlib.collections import PathCollection, PolyCollection

    paths, widths, colours, heads = [], [], [], []
    for line, size in scene.bytes.items():
        constant = bool(graph.nodes[line.link.source].get("static"))
        paths.append(_path(line))
        widths.append(_line_width(size) * _POINTS)
        colours.append(_rgb(_CONSTANT_LINE if constant else _LINE))
        if line.link.target is not None:
            x, y = line.points[-1]
            heads.append([(x - 3.5, y - 6), (x + 3.5, y - 6), (x, y)])
    axes.add_collection(
        PathCollection(paths, facecolors="none", edgecolors=colours, linewidths=widths, zorder=1, capstyle="round")
    )
    axes.add_collection(PolyCollection(heads, facecolors=_LINE, edgecolors="none", zorder=1.5))
    for note in scene.sizes:
        _text(axes, *note.at, note.text, DETAIL_PX, FAINT, zorder=2)


def _path(line: Line) -> Any:
    """Upright and level pieces straight, the rest an S that starts and ends upright."""
    from matplotlib.path import Path as Outline

    points, codes = [line.points[0]], [Outline.MOVETO]
    for (x, y), (next_x, next_y) in pairwise(line.points):
        if x == next_x or y == next_y:
            points.append((next_x, next_y))
            codes.append(Outline.LINETO)
        else:
            half = (y + next_y) / 2
            points += [(x, half), (next_x, half), (next_x, next_y)]
            codes += [Outline.CURVE4] * 3
    return Outline(points, codes)


def _line_width(size: int) -> float:
    """In pixels: 1 up to 1 kB, then more with each factor of ten, up to 3 from 1 MB on."""
    return min(max(1.0 + math.log10(max(size, 1) / 1000) * 2 / 3, 1.0), 3.0)


def _draw_marks(axes: Axes, scene: Scene) -> None:
    from matplotlib.collections import LineCollection

    for main, colour in ((False, _CUT_BESIDE), (True, _CUT)):
        marks = [mark for mark in scene.marks if mark.main is main]
        lines = [(mark.start, mark.end) for mark in marks]
        bars = [((x - 5.5, y), (x + 5.5, y)) for mark in marks for x, y in mark.crossings]
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=0.9 * _POINTS, linestyles=(0, (3, 2)), zorder=1.8)
        )
        axes.add_collection(LineCollection(bars, colors=colour, linewidths=4.5 * _POINTS, zorder=2.5, capstyle="butt"))
        for mark in marks:
            _text(
                axes,
                *mark.note.at,
                mark.note.text,
                scene.mark_px,
                colour,
                weight="bold" if main else "normal",
                zorder=2,
            )


class _Legend:
    """The title and what the signs mean, larger on a larger page."""

    def __init__(
        self, scene: Scene, graph: nx.DiGraph, cuts: Sequence[Cut], name: str, whole_ms: float, width: float
    ) -> None:
        self._scene, self._width = scene, width
        self._scale = min(max(width / 1300, 1.0), 2.6)
        constants = sum(bool(data.get("static")) for _, data in graph.nodes(data=True))
        layers = f"{len(graph)} layers" + (f", {constants} of them constant" if constants else "")
        self._title = shortened(name, 60)
        self._facts = f"{duration(whole_ms)} for the whole model · {layers} · {len(cuts)} cuts"
        signs: list[tuple[str, Callable[[Axes, float, float, float], None]]] = [
            ("tensor; thicker with more bytes", _sample_line)
        ]
        if cuts:
            signs.append(("a cut, its payload, and the tensors it cuts", _sample_cut))
        if any(not mark.main for mark in scene.marks):
            signs.append(("what cuts marked elsewhere cut besides", _sample_beside))
        if constants:
            signs.append(("constant", _sample_constant))
        if any(data.get("critical") for _, data in graph.nodes(data=True)):
            signs.append(("on the critical path", _sample_critical))
        self._placed = self._flow(signs)
        lowest = max(y for _, y, _, _ in self._placed)
        self.height = lowest + 24 * self._scale

    def _flow(self, signs: Sequence[tuple[str, Any]]) -> list[tuple[float, float, str, Any]]:
        """The signs in lines, right of the scale of colours."""
        scale = self._scale
        start = _MARGIN + (290 * scale if self._scene.most_ms > 0 else 0.0)
        x, y = start, 74 * scale
        placed = []
        for text, sample in signs:
            needed = 34 * scale + _text_width(text, 11 * scale)
            if x > start and x + needed > self._width - _MARGIN:
                x, y = start, y + 19 * scale
            placed.append((x, y, text, sample))
            x += needed + 8 * scale
        if self._scene.most_ms > 0:
            placed.append((_MARGIN, max(y, 92 * scale), "", None))
        return placed

    def draw(self, axes: Axes) -> None:
        """Draw it at the top of the page."""
        scale = self._scale
        _text(axes, _MARGIN, 24 * scale, self._title, 19 * scale, INK, weight="bold")
        _text(axes, _MARGIN, 48 * scale, self._facts, 12 * scale, INK)
        for x, y, text, sample in self._placed:
            if sample is not None:
                sample(axes, x, y, scale)
                _text(axes, x + 34 * scale, y, text, 11 * scale, INK)
        if self._scene.most_ms > 0:
            self._draw_colours(axes)

    def _draw_colours(self, axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        scale, steps = self._scale, 48
        left, top, width, height = _MARGIN, 66 * scale, 250 * scale, 12 * scale
        for step in range(steps):
            colour = _colour((step + 0.5) / steps)
            # A little wider than a step, so that no seam shows.
            cell = width / steps
            axes.add_patch(
                Rectangle((left + cell * step, top), min(cell * 1.2, width - cell * step), height, color=colour, lw=0)
            )
        least, most = self._scene.least_ms, self._scene.most_ms
        _text(axes, left, top + 20 * scale, duration(least), 10 * scale, INK)
        _text(axes, left + width, top + 20 * scale, duration(most), 10 * scale, INK, ha="right")
        words = "time of a layer, logarithmic"
        _text(axes, left + width / 2, top + 20 * scale, words, 9 * scale, FAINT, ha="center")


def _sample_line(axes: Axes, x: float, y: float, scale: float) -> None:
    axes.plot([x, x + 12 * scale], [y, y], color=_LINE, lw=1.0 * _POINTS)
    axes.plot([x + 14 * scale, x + 28 * scale], [y, y], color=_LINE, lw=3.0 * _POINTS)


def _sample_cut(axes: Axes, x: float, y: float, scale: float, colour: str = _CUT) -> None:
    axes.plot([x + 9 * scale] * 2, [y - 8 * scale, y + 8 * scale], color=_LINE, lw=2.0 * _POINTS)
    axes.plot([x, x + 28 * scale], [y, y], color=colour, lw=0.9 * _POINTS, ls=(0, (3, 2)))
    axes.plot([x + 9 * scale - 5.5, x + 9 * scale + 5.5], [y, y], color=colour, lw=4.5 * _POINTS, solid_capstyle="butt")


def _sample_beside(axes: Axes, x: float, y: float, scale: float) -> None:
    _sample_cut(axes, x, y, scale, _CUT_BESIDE)


def _sample_constant(axes: Axes, x: float, y: float, scale: float) -> None:
    _sample_box(axes, x, y, scale, _CONSTANT, _CONSTANT_LINE, 0.8)


def _sample_critical(axes: Axes, x: float, y: float, scale: float) -> None:
    _sample_box(axes, x, y, scale, "white", INK, 3.0)


def _sample_box(axes: Axes, x: float, y: float, scale: float, fill: str, outline: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    corner = (x + 2 * scale, y - 6 * scale)
    axes.add_patch(Rectangle(corner, 24 * scale, 12 * scale, fc=fill, ec=outline, lw=width * _POINTS))


def _colour(share: float) -> tuple[float, float, float]:
    from matplotlib import colormaps

    red, green, blue, _ = colormaps[_MAP](_MAP_FROM + (_MAP_TO - _MAP_FROM) * share)
    return red, green, blue


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance, 0…1 (WCAG 2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
