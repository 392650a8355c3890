"""What a picture of a model shows and where: boxes with their words, lines, marks; pure, without a drawing library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count

import networkx as nx

from midstream.drawing.layout import Lanes, Layout, Line, Point, lay_out
from midstream.drawing.marks import Mark, abridged, place_marks
from midstream.drawing.ranks import find_links, find_ranks
from midstream.errors import printable
from midstream.manifest import Cut

OPERATOR_PX = 11.0
DETAIL_PX = 10.0

_MOST_LETTERS = 24
_BOX_HEIGHT = 34.0
_CONSTANT_HEIGHT = 18.0
_PADDING = 14.0
_BESIDE = 10.0

Measure = Callable[[str, float], float]
"""The width of a text in a size of letters, both in pixels."""


@dataclass(frozen=True, slots=True)
class Label:
    """The words in a box; ``detail`` is empty where there is one line only."""

    operator: str
    detail: str


@dataclass(frozen=True, slots=True)
class Note:
    """A few words, from ``at`` to the right, in the middle of the line."""

    at: Point
    text: str


@dataclass(frozen=True, slots=True)
class DrawnMark:
    """A mark: where its line begins and ends, where lines are crossed, and its words."""

    start: Point
    end: Point
    crossings: tuple[Point, ...]
    note: Note
    main: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """The picture. ``least_ms`` and ``most_ms`` are the ends of the scale of colours; 0 where no layer takes time."""

    ranks: dict[Hashable, int]
    layout: Layout
    labels: dict[Hashable, Label]
    bytes: dict[Line, int]
    sizes: tuple[Note, ...]
    marks: tuple[DrawnMark, ...]
    mark_px: float
    least_ms: float
    most_ms: float


def make_scene(graph: nx.DiGraph, cuts: Sequence[Cut], measure: Measure) -> Scene:
    """The scene of a resource map with these cuts."""
    ranks = find_ranks(graph)
    links = find_links(graph, ranks)
    constants = frozenset(node for node, data in graph.nodes(data=True) if data.get("static"))
    marks = place_marks(graph, ranks, links, {cut.id: cut.nodes for cut in cuts}, constants)
    words = _mark_words(marks, cuts)
    mark_px = _mark_pixels(len(graph), len(cuts))
    widths: dict[int, float] = {}
    for mark, text in zip(marks, words, strict=True):
        widths[mark.gap] = max(widths.get(mark.gap, 0.0), measure(text, mark_px) + 2 * _BESIDE)
    labels = {node: _label(node, data) for node, data in graph.nodes(data=True)}
    sizes = {
        node: (
            max(measure(label.operator, OPERATOR_PX), measure(label.detail, DETAIL_PX)) + _PADDING,
            _BOX_HEIGHT if label.detail else _CONSTANT_HEIGHT,
        )
        for node, label in labels.items()
    }
    lanes = Lanes(Counter(mark.gap for mark in marks), widths, round(1.4 * mark_px))
    layout = lay_out(graph, ranks, sizes, lanes, light=constants)
    crossing = {
        line: max(graph.edges[line.link.source, target]["bytes"] for target in line.link.targets)
        for line in layout.lines
    }
    times = [data["cpu_ms"] for _, data in graph.nodes(data=True) if data["cpu_ms"] > 0]
    most = max(times, default=0.0)
    return Scene(
        ranks,
        layout,
        labels,
        crossing,
        tuple(_sizes(graph, layout, crossing, constants, frozenset(lanes.counts), measure)),
        tuple(_drawn_marks(layout, marks, words)),
        mark_px,
        max(min(times, default=0.0), most / 1000),
        most,
    )


def share_of_scale(cpu_ms: float, scene: Scene) -> float:
    """Where on the scale of colours, 0…1, a time lies; the scale is logarithmic and spans three decades at most."""
    if cpu_ms <= scene.least_ms or scene.most_ms <= scene.least_ms:
        return 1.0 if 0 < scene.most_ms <= cpu_ms else 0.0
    return min(math.log(cpu_ms / scene.least_ms) / math.log(scene.most_ms / scene.least_ms), 1.0)


def duration(cpu_ms: float) -> str:
    """A time in three digits."""
    if cpu_ms == 0:
        return "0 ms"
    if cpu_ms < 0.00001:
        return "<0.01 µs"
    if cpu_ms < 0.9995:
        return f"{_three_digits(1000 * cpu_ms)} µs"
    return f"{_three_digits(cpu_ms)} ms"


def amount(number: int) -> str:
    """A number of bytes, in three digits and decimal units."""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{_three_digits(size)} {unit}"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.5 else f"{number:.3g}"


def _mark_pixels(layers: int, cuts: int) -> float:
    """The size of a cut's words: few cuts in a large picture are to be found in all of it at once."""
    if cuts > 24:
        return 10.0
    return 10.0 if layers < 100 else 15.0 if layers < 250 else 20.0


def shortened(text: str, letters: int = _MOST_LETTERS) -> str:
    """A text from a file, without what could break the picture, and not longer than this."""
    clean = printable(text)
    return clean if len(clean) <= letters else clean[: letters - 1] + "…"


def _label(node: Hashable, data: dict[str, object]) -> Label:
    operator = shortened(str(data["op"]))
    if data.get("static"):
        return Label(f"{node} {operator}", "")
    return Label(operator, f"{node} · {duration(float(str(data['cpu_ms'])))}")


def _mark_words(marks: Sequence[Mark], cuts: Sequence[Cut]) -> list[str]:
    payloads = {cut.id: cut.payload_bytes for cut in cuts}
    order = dict(zip(payloads, count()))
    return [
        f"{shortened(mark.cuts[0])} · {amount(payloads[mark.cuts[0]])}"
        if mark.main
        else f"also {abridged(mark.cuts, order)}"
        for mark in marks
    ]


def _drawn_marks(layout: Layout, marks: Sequence[Mark], words: Sequence[str]) -> list[DrawnMark]:
    lines = {line.link: line for line in layout.lines}
    drawn = []
    for mark, text in zip(marks, words, strict=True):
        y = layout.lane_y(mark.gap, mark.lane)
        crossings = tuple((lines[link].mark_x, y) for link in mark.links)
        right = layout.words[mark.gap] + _BESIDE
        left = min((x for x, _ in crossings), default=right - _BESIDE)
        drawn.append(DrawnMark((left, y), (right + 2, y), crossings, Note((right + 5, y), text), mark.main))
    return drawn


def _sizes(
    graph: nx.DiGraph,
    layout: Layout,
    crossing: dict[Line, int],
    constants: frozenset[Hashable],
    marked: frozenset[int],
    measure: Measure,
) -> list[Note]:
    """What layers hand on, where it is another size than what they got, and where there is room for the words."""
    upright: dict[int, list[float]] = {}
    for line in layout.lines:
        upright.setdefault(line.link.gap, []).append(line.mark_x)
    notes = []
    told: set[Hashable] = set()
    for line, size in crossing.items():
        source, gap = line.link.source, line.link.gap
        got = max((graph.edges[edge]["bytes"] for edge in graph.in_edges(source)), default=-1)
        if source in told or source in constants or size == got or gap in marked:
            continue
        left, text = line.mark_x + 6, amount(size)
        right = left + measure(text, DETAIL_PX)
        edge = layout.column_of(gap).area
        if right <= edge.right and not any(line.mark_x < x < right + 4 for x in upright[gap]):
            notes.append(Note((left, layout.beside_y(gap)), text))
            upright[gap].append((left + right) / 2)
            told.add(source)
    return notes
