"""Where everything of a drawing goes: rows folded into columns of a page, read down and then to the right.

The unit of length is a pixel at 96 dots an inch, y grows downwards. No box touches another, and no line enters a box
that it does not lead to: within a gap lines bend only above or below its lanes, and from one column to the next they go
round, through the gutter between the two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from midstream.drawing.order import Rows, Slot, centres, ends, order_rows, spread
from midstream.drawing.ranks import Link, find_links, find_spine

Point = tuple[float, float]

_APART = 14.0
_PORT = 12.0
_BEND = 16.0
_STRAIGHT = 12.0
_ARROW = 8.0
_TRACK = 7.0
_GUTTER = 26.0
_MOST_COLUMNS = 80
_MARGIN = 4.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: its left upper corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Lanes:
    """Room for marks: in which gaps, how many lines of them, how high, and how wide the words beside
    them are: those stand right of the gap's rightmost line."""

    counts: Mapping[int, int] = field(default_factory=dict)
    words: Mapping[int, float] = field(default_factory=dict)
    height: float = 14.0


@dataclass(frozen=True, slots=True)
class Column:
    """Rows ``first`` to ``last`` of the drawing. ``inner`` is the width of boxes and lines alone."""

    first: int
    last: int
    area: Box
    inner: float


@dataclass(frozen=True, slots=True)
class Line:
    """A link as it is drawn.

    ``points`` are the ends of straight pieces; those neither upright nor level are to be drawn as an S. In the
    lanes of its gap the line stands upright at ``mark_x``.
    """

    link: Link
    points: tuple[Point, ...]
    mark_x: float


@dataclass(frozen=True, slots=True)
class Layout:
    """The finished page.

    ``lanes`` holds the y of the first lane of every gap, ``words`` the x from which on no line is in the way of words.
    """

    boxes: dict[Hashable, Box]
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    lanes: dict[int, float]
    words: dict[int, float]
    lane_height: float
    width: float
    height: float

    def lane_y(self, gap: int, lane: int) -> float:
        """The middle of a lane."""
        return self.lanes[gap] + lane * self.lane_height

    def beside_y(self, gap: int) -> float:
        """The middle of small words beside a line, in a gap without lanes."""
        return self.lanes[gap] + (_STRAIGHT - self.lane_height) / 2

    def column_of(self, rank: int) -> Column:
        """The column with this row, and the gap under it."""
        return next(column for column in self.columns if column.first <= rank <= column.last)


def lay_out(
    graph: nx.DiGraph,
    ranks: Mapping[Hashable, int],
    sizes: Mapping[Hashable, tuple[float, float]],
    lanes: Lanes | None = None,
    light: frozenset[Hashable] = frozenset(),
    aspect: float = 1.5,
) -> Layout:
    """Place a graph whose rows are known. ``sizes`` are widths and heights; ``aspect`` is the page's width : height.

    ``light`` nodes give way where others want to stand in line. The same arguments give the same layout.
    """
    lanes = lanes or Lanes()
    links = find_links(graph, dict(ranks))
    rows = order_rows(ranks, links, find_spine(graph), light)
    widths: dict[Slot, float] = {}
    for row in rows.rows:
        for node, rank in row:
            slot = (node, rank)
            real = ranks[node] == rank
            # A trunk needs room for its branches only, a box for all its lines.
            ports = max(len(rows.above.get(slot, ())), len(rows.below.get(slot, ())))
            widths[slot] = max(sizes[node][0] if real else 0.0, _PORT * ports)
    if not rows.rows:
        return Layout({}, (), (), {}, {}, lanes.height, 0.0, 0.0)
    return _Page(ranks, sizes, lanes, links, rows, widths).folded(aspect)


class _Page:
    """The measures of one drawing while it is laid out."""

    def __init__(
        self,
        ranks: Mapping[Hashable, int],
        sizes: Mapping[Hashable, tuple[float, float]],
        lanes: Lanes,
        links: Sequence[Link],
        rows: Rows,
        widths: Mapping[Slot, float],
    ) -> None:
        self._ranks, self._sizes, self._lanes, self._rows, self._widths = ranks, sizes, lanes, rows, widths
        self._links: list[list[Link]] = [[] for _ in rows.rows]
        for link in links:
            self._links[link.gap].append(link)
        self._tall = [
            max((sizes[node][1] for node, rank in row if ranks[node] == rank), default=0.0) for row in rows.rows
        ]
        self._wide = [sum(widths[slot] + _APART for slot in row) for row in rows.rows]
        self._gaps = [
            _BEND + max(_STRAIGHT, lanes.height * lanes.counts.get(gap, 0) + _ARROW) for gap in range(len(rows.rows))
        ]

    def folded(self, aspect: float) -> Layout:
        """The layout with the number of columns that comes nearest to this aspect."""
        most = min(len(self._tall), _MOST_COLUMNS)
        folds = [self._fold(count) for count in range(1, most + 1)]
        return self._place(min(folds, key=lambda fold: self._misfit(fold, aspect)))

    def _fold(self, count: int) -> list[tuple[int, int]]:
        """First and last rows of about ``count`` columns of like height, ended where few links run."""
        ends_at = []
        total = 0.0
        for tall, gap in zip(self._tall, self._gaps, strict=True):
            total += tall + gap
            ends_at.append(total)
        column = total / count
        breaks: list[int] = []
        for number in range(1, count):
            aim = number * column
            near = [
                row
                for row in range(breaks[-1] + 1 if breaks else 0, len(ends_at) - 1)
                if abs(ends_at[row] - aim) < 0.2 * column
            ]
            if near:
                costs = {row: len(self._links[row]) + 6 * abs(ends_at[row] - aim) / column for row in near}
                breaks.append(min(near, key=lambda row: costs[row]))
        starts = [0, *(row + 1 for row in breaks)]
        return list(zip(starts, [*breaks, len(ends_at) - 1], strict=True))

    def _misfit(self, fold: Sequence[tuple[int, int]], aspect: float) -> float:
        width = sum(max(self._wide[first : last + 1]) + self._beside(first, last) for first, last in fold)
        height = max(sum(self._tall[first : last + 1]) + sum(self._gaps[first : last + 1]) for first, last in fold)
        shape = width / height / aspect
        return max(shape, 1 / shape)

    def _beside(self, first: int, last: int) -> float:
        """About how much wider than its boxes a column is."""
        words = max((self._lanes.words.get(gap, 0.0) for gap in range(first, last + 1)), default=0.0)
        return words / 2 + _GUTTER + _TRACK * len(self._links[last])

    def _words(self, first: int, last: int, middle: Mapping[Slot, float], left: float) -> dict[int, float]:
        """The x right of all lines of each gap."""
        free = {}
        for gap in range(first, last + 1):
            # Words lie below the bends, where lines stand over their lower ends; at a fold, over their upper ones.
            slots = {ends(link, self._ranks)[0 if gap == last else 1] for link in self._links[gap]}
            free[gap] = max(
                (middle[slot] + self._widths[slot] / 2 - _PORT / 2 for slot in slots if slot in middle), default=left
            )
        return free

    def _place(self, fold: Sequence[tuple[int, int]]) -> Layout:
        boxes: dict[Hashable, Box] = {}
        middle: dict[Slot, float] = {}
        tops: list[float] = []
        words: dict[int, float] = {}
        columns: list[Column] = []
        left = _MARGIN
        entering = 0
        height = 0.0
        for first, last in fold:
            x = centres(self._rows, first, last, self._widths, _APART)
            start = min(x[slot] - self._widths[slot] / 2 for row in self._rows.rows[first : last + 1] for slot in row)
            end = max(x[slot] + self._widths[slot] / 2 for row in self._rows.rows[first : last + 1] for slot in row)
            top = _MARGIN + (_BEND + _TRACK * entering if entering else 0.0)
            for rank in range(first, last + 1):
                tops.append(top)
                for slot in self._rows.rows[rank]:
                    middle[slot] = x[slot] - start + left
                    node = slot[0]
                    if self._ranks[node] == rank:
                        tall, wide = self._sizes[node][1], self._widths[slot]
                        upper = top + (self._tall[rank] - tall) / 2
                        boxes[node] = Box(middle[slot] - wide / 2, upper, wide, tall)
                top += self._tall[rank] + self._gaps[rank]
            leaving = len(self._links[last]) if last + 1 < len(self._tall) else 0
            bottom = top + _TRACK * leaving
            inner = end - start
            end_x = left + inner
            words.update(self._words(first, last, middle, left))
            beside = max(
                [0.0, *(words[gap] + wide - end_x for gap, wide in self._lanes.words.items() if first <= gap <= last)]
            )
            if leaving:
                beside += _GUTTER + _TRACK * leaving
            columns.append(Column(first, last, Box(left, _MARGIN, inner + beside, bottom - _MARGIN), inner))
            left += inner + beside
            entering = leaving
            height = max(height, bottom)
        lines, lanes = self._draw_lines(columns, middle, tops, boxes)
        return Layout(
            boxes, tuple(lines), tuple(columns), lanes, words, self._lanes.height, left + _MARGIN, height + _MARGIN
        )

    def _draw_lines(
        self,
        columns: Sequence[Column],
        middle: Mapping[Slot, float],
        tops: Sequence[float],
        boxes: Mapping[Hashable, Box],
    ) -> tuple[list[Line], dict[int, float]]:
        breaks = {column.last: number for number, column in enumerate(columns[:-1])}
        leave, enter = self._ports(middle, breaks)
        lines: list[Line] = []
        lanes: dict[int, float] = {}
        for gap, links in enumerate(self._links):
            floor = tops[gap] + self._tall[gap]
            folded = gap in breaks
            # Lanes lie where each line stands alone: above the bends where they go round, else below them.
            lanes[gap] = floor + self._lanes.height / 2 + (0.0 if folded else _BEND)
            if folded:
                ways = _ways_round(links, columns[breaks[gap]], columns[breaks[gap] + 1], leave, enter, tops)
                ways = {link: [(leave[link], floor), *way] for link, way in ways.items()}
            else:
                ways = {link: [(leave[link], floor), (enter[link], floor + _BEND)] for link in links}
            for link, way in ways.items():
                trunk = self._ranks[link.source] < gap
                start = (middle[link.source, gap], tops[gap]) if trunk else (leave[link], boxes[link.source].bottom)
                end = tops[gap + 1] if link.target is None else boxes[link.target].y
                points = _without_repeats([start, *way, (enter[link], end)])
                lines.append(Line(link, points, leave[link] if folded else enter[link]))
        return lines, lanes

    def _ports(
        self, middle: Mapping[Slot, float], breaks: Mapping[int, int]
    ) -> tuple[dict[Link, float], dict[Link, float]]:
        """The x at which each link leaves its upper end, and at which it enters its lower one."""
        joined = {link: ends(link, self._ranks) for row in self._links for link in row}
        leaving: dict[Slot, list[Link]] = defaultdict(list)
        entering: dict[Slot, list[Link]] = defaultdict(list)
        for link, (upper, lower) in joined.items():
            leaving[upper].append(link)
            entering[lower].append(link)
        leave: dict[Link, float] = {}
        for slot, links in leaving.items():
            # Where lines go round to the next column, what is straight below says nothing.
            wanted = {link: middle[slot if slot[1] in breaks else joined[link][1]] for link in links}
            ordered = sorted(links, key=lambda link: middle[joined[link][1]])
            leave.update(self._beside_each_other(ordered, wanted, slot, middle))
        enter: dict[Link, float] = {}
        for slot, links in entering.items():
            wanted = {link: middle[slot] if slot[1] - 1 in breaks else leave[link] for link in links}
            ordered = sorted(links, key=lambda link: leave[link])
            enter.update(self._beside_each_other(ordered, wanted, slot, middle))
            enter.update({link: middle[slot] for link in links if link.target is None})
        return leave, enter

    def _beside_each_other(
        self, links: Sequence[Link], wanted: Mapping[Link, float], slot: Slot, middle: Mapping[Slot, float]
    ) -> Iterable[tuple[Link, float]]:
        """The ports of a slot's links in this order, as near as may be to where they are wanted."""
        reach = (self._widths[slot] - _PORT) / 2
        left, right = middle[slot] - reach, middle[slot] + reach
        places = spread([wanted[link] for link in links], [_PORT] * (len(links) - 1), [1.0] * len(links))
        for number, (link, place) in enumerate(zip(links, places, strict=True)):
            yield link, min(max(place, left + _PORT * number), right - _PORT * (len(links) - 1 - number))


def _ways_round(
    links: Sequence[Link],
    column: Column,
    following: Column,
    leave: Mapping[Link, float],
    enter: Mapping[Link, float],
    tops: Sequence[float],
) -> dict[Link, list[Point]]:
    """The lines from one column to the next: along under it, up the gutter, and in from above."""
    under = column.area.bottom - _TRACK * len(links)
    above = tops[following.first] - _BEND
    gutter = following.area.x - _GUTTER / 2 - _TRACK * (len(links) - 1)
    ways = {}
    # The rightmost line turns first, so that none crosses another on the way down.
    for track, link in enumerate(sorted(links, key=lambda link: -leave[link])):
        along, up, back = under + _TRACK * track, gutter + _TRACK * track, above - _TRACK * (len(links) - 1 - track)
        ways[link] = [(leave[link], along), (up, along), (up, back), (enter[link], back)]
    return ways


def _without_repeats(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(point for i, point in enumerate(points) if i == 0 or point != points[i - 1])
