"""Ways of deciding held against each other: what each came to, and how that went over time beside the link."""

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

_WIDTH, _HEIGHT = 13.0, 6.0
_PNG_DPI = 1.5 * DPI
_OURS, _IDEAL, _OTHER, _P95 = "#c2410c", "#3f7d58", "#9fb3c8", "#1f2933"
_COLOURS = {"adaptive": _OURS, "clairvoyant": _IDEAL, "local": "#627d98", "best_static": "#b08bbf"}
_GRID = "#e3e7eb"
# So many stretches of time are drawn at most, each as the median of what came in it.
_MOST_STRETCHES = 150
_LEAST_IN_STRETCH = 3
# Where the slowest policy takes so many times as long as the median one, bars are drawn to a logarithmic scale.
_WIDE = 20.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What a policy came to, in ms."""

    name: str
    mean_ms: float
    p95_ms: float
    missed_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Course:
    """How a policy went: when inputs came, ascending, and what each took."""

    name: str
    began_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Link:
    """The rate of a link from each of these times on, and until when it is drawn."""

    starts_s: NDArray[np.float64]
    uplink_kbps: NDArray[np.float64]
    until_s: float


def write_comparison(
    path: Path, bars: Sequence[Bar], courses: Sequence[Course], link: Link, *, title: str, deadline_ms: float | None
) -> None:
    """Draw the comparison into an .svg or .png file. Raises as `canvas.check_target` does, and InputError."""
    check_target(path)
    write(path, render(bars, courses, link, kind_of(path), title=title, deadline_ms=deadline_ms))


def render(
    bars: Sequence[Bar],
    courses: Sequence[Course],
    link: Link,
    kind: str,
    *,
    title: str,
    deadline_ms: float | None = None,
) -> bytes:
    """The content of the file; ``kind`` is svg or png. The same figures give the same bytes."""
    with plain_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, color=INK, x=0.01, ha="left", fontsize=12, parse_math=False)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.5), height_ratios=(2.6, 1.0))
        left, above = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
        below = figure.add_subplot(grid[1, 1], sharex=above)
        _draw_bars(left, sorted(bars, key=lambda bar: bar.mean_ms), deadline_ms)
        _draw_courses(above, courses, link.until_s, deadline_ms)
        _draw_link(below, link)
        return content_of(figure, kind, title, _PNG_DPI)


def _draw_bars(axes: Axes, bars: Sequence[Bar], deadline_ms: float | None) -> None:
    means, tails = [bar.mean_ms for bar in bars], [bar.p95_ms for bar in bars]
    places = range(len(bars))
    colours = [_COLOURS.get(bar.name, _OTHER) for bar in bars]
    wide = bool(means) and min(means) > 0 and max(tails) > _WIDE * float(np.median(means))
    if wide:
        # A bar's length says nothing where the axis has no zero.
        axes.scatter(means, places, s=90, color=colours, zorder=3)
    else:
        axes.barh(places, means, height=0.62, color=colours)
    axes.hlines(places, means, tails, color=_P95, linewidth=0.9)
    axes.scatter(tails, places, marker="|", s=110, color=_P95, linewidth=1.8, zorder=2)
    if wide:
        axes.set_xscale("log")
        axes.set_xlim(min(means) / 2, max(tails) * 4)
    else:
        axes.set_xlim(0.0, max([*tails, *means, 1e-3]) * 1.28)
    for place, bar in enumerate(bars):
        missed = f", {bar.missed_share:.1%} missed" if bar.missed_share else ""
        axes.annotate(
            f"{_shown(bar.mean_ms)}{missed}",
            (max(bar.mean_ms, bar.p95_ms), place),
            (7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.set_yticks(places, [bar.name for bar in bars], fontsize=9, color=INK)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlabel(
        "latency in ms: mean, and the 95th percentile"
        + (" (logarithmic)" if wide else "")
        + ("; dotted: deadline" if deadline_ms is not None else ""),
        color=INK,
    )
    _mark_deadline(axes, deadline_ms, down=True)
    _plain(axes, "x")
    axes.tick_params(axis="y", length=0)


def _draw_courses(axes: Axes, courses: Sequence[Course], until_s: float, deadline_ms: float | None) -> None:
    for course in sorted(courses, key=lambda each: each.name == "adaptive"):
        at_s, median_ms = stretches(course, until_s)
        colour = _COLOURS.get(course.name, _OTHER)
        width = 2.0 if course.name == "adaptive" else 1.3
        axes.plot(at_s, median_ms, label=course.name, color=colour, linewidth=width, marker=".", markersize=2 + width)
    drawn = np.concatenate([each.latency_ms for each in courses]) if courses else np.zeros(0)
    if drawn.size and drawn.min() > 0 and np.percentile(drawn, 99) > _WIDE * np.median(drawn):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0.0)
    _mark_deadline(axes, deadline_ms, down=False)
    axes.set_ylabel("latency, ms (medians)", color=INK)
    if courses:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(courses), frameon=False, fontsize=9)
    _plain(axes, "y")
    axes.tick_params(labelbottom=False)


def _draw_link(axes: Axes, link: Link) -> None:
    mbps = link.uplink_kbps / 1e3
    edges = np.append(link.starts_s, link.until_s)
    axes.stairs(mbps, edges, color="#2563a8", fill=True, alpha=0.25)
    axes.stairs(mbps, edges, color="#2563a8", linewidth=1.0)
    axes.set_xlim(0.0, link.until_s)
    axes.set_ylim(0.0, max(float(mbps.max(initial=0.0)) * 1.1, 1e-3))
    axes.set_ylabel("uplink, Mbit/s", color=INK)
    axes.set_xlabel("seconds", color=INK)
    _plain(axes, "y")


def stretches(course: Course, until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middles of stretches of time in which inputs came, and the median latency in each."""
    count = max(1, min(_MOST_STRETCHES, len(course.began_s) // _LEAST_IN_STRETCH))
    edges = np.linspace(0.0, until_s, count + 1)
    bounds = np.searchsorted(course.began_s, edges)
    filled = [at for at in range(count) if bounds[at] < bounds[at + 1]]
    medians = [float(np.median(course.latency_ms[bounds[at] : bounds[at + 1]])) for at in filled]
    return (edges[:-1] + edges[1:])[filled] / 2, np.array(medians)


def _mark_deadline(axes: Axes, deadline_ms: float | None, *, down: bool) -> None:
    if deadline_ms is not None:
        (axes.axvline if down else axes.axhline)(deadline_ms, color=_OURS, linewidth=1.0, linestyle=":")


def _plain(axes: Axes, lines: str) -> None:
    axes.grid(True, axis="x" if lines == "x" else "y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if lines == "x":
        axes.tick_params(axis="y", labelcolor=INK, labelsize=9)


def _shown(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.1f}"
