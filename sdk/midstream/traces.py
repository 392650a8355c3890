"""Links over time, as a CSV file tells of them: when what is sent has left a wire whose rate changes.

A file begins with ``t_s,uplink_kbps,rtt_ms`` and perhaps ``downlink_kbps``, in any order; `docs/traces.md` says more.
"""

from __future__ import annotations

import csv
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError, printable
from midstream.files import regular_file

MAX_FILE_BYTES = 64 << 20
MAX_ROWS = 1_000_000
MAX_KBPS = 1e9
MAX_RTT_MS = 1e5
# Times in a file may be those of a clock, from 1970 on.
MAX_S = 1e10
REQUIRED = ("t_s", "uplink_kbps", "rtt_ms")
OPTIONAL = ("downlink_kbps",)
_KNOWN = (*REQUIRED, *OPTIONAL)
_MAX_LINE_BYTES = 4096
_SHOWN_LETTERS = 60
# How long the only row of a file lasts.
_ONLY_ROW_S = 1.0
_BYTES_PER_S = 125  # one kbit/s


class _Wire(NamedTuple):
    """One direction, as plain floats: bytes/s of each row, and the bytes that the rows before each edge carry."""

    bytes_per_s: list[float]
    carried: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A link over time: rows of a constant rate and round trip; after the last row it begins anew.

    The arrays are float64 of shape (rows,), and read-only here. A rate of 0 says that the link is down. Times may be
    anything, also beyond the period or negative: the trace repeats for ever. Raises InputError for what is no trace.
    """

    name: str
    starts_s: NDArray[np.float64]
    uplink_kbps: NDArray[np.float64]
    downlink_kbps: NDArray[np.float64]
    rtt_ms: NDArray[np.float64]
    period_s: float
    _edges: list[float] = field(init=False, repr=False)
    _up: _Wire = field(init=False, repr=False)
    _down: _Wire = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("starts_s", "uplink_kbps", "downlink_kbps", "rtt_ms"):
            column = np.array(getattr(self, name), np.float64)
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        starts = self.starts_s
        rows = starts.size
        shapes = {each.shape for each in (starts, self.uplink_kbps, self.downlink_kbps, self.rtt_ms)}
        if shapes != {(rows,)} or not 1 <= rows <= MAX_ROWS:
            raise InputError(f"the columns of a trace have the shapes {shapes}; they take one, (1 to {MAX_ROWS},)")
        problem = _problem(starts, self.uplink_kbps, self.downlink_kbps, self.rtt_ms)
        if problem is not None:
            raise InputError(f"trace {printable(self.name)}: row {problem[0]}: {problem[1]}")
        if starts[0] != 0 or not starts[-1] < self.period_s < math.inf:
            raise InputError(
                f"trace {printable(self.name)}: its rows start from {starts[0]:g} to {starts[-1]:g} s and its period "
                f"is {self.period_s:g} s; the first starts at 0, and the period ends after the start of the last"
            )
        period = float(self.period_s)
        edges = np.append(starts, period)
        up = _wire(self.uplink_kbps, edges)
        same = np.array_equal(self.uplink_kbps, self.downlink_kbps)
        object.__setattr__(self, "period_s", period)
        object.__setattr__(self, "_edges", edges.tolist())
        object.__setattr__(self, "_up", up)
        object.__setattr__(self, "_down", up if same else _wire(self.downlink_kbps, edges))

    @classmethod
    def open(cls, path: str | Path) -> Trace:
        """Read a CSV file; its name without the ending becomes the trace's.

        The first time may be any, and becomes 0; the last row lasts as long as the one before it, a single row 1 s.
        Without a downlink, that is as the uplink. Raises InputError naming the file, and the line where one is wrong.
        """
        path = Path(path)
        try:
            with regular_file(path) as file:
                return _read(path, file)
        except OSError as error:
            raise InputError(f"{path}: the trace cannot be read: {error.strerror or error}") from None

    @classmethod
    def steady(cls, uplink_kbps: float, rtt_ms: float, downlink_kbps: float | None = None) -> Trace:
        """A link that never changes; without a downlink, that is as the uplink."""
        down_kbps = uplink_kbps if downlink_kbps is None else downlink_kbps
        starts_s, up, down, rtt = np.array([[0.0], [uplink_kbps], [down_kbps], [rtt_ms]], np.float64)
        return cls("steady", starts_s, up, down, rtt, _ONLY_ROW_S)

    def to_csv(self) -> bytes:
        """The file that `open` makes this trace of again; without a downlink where that is as the uplink.

        Where the last row is not as long as the one before it, it is written as two halves.
        """
        starts = self.starts_s
        rows = list(range(len(starts)))
        last_s = self.period_s - starts.item(-1)
        before_s = starts.item(-1) - starts.item(-2) if len(starts) > 1 else _ONLY_ROW_S
        times = starts.tolist()
        if last_s != before_s:
            rows.append(rows[-1])
            times.append(times[-1] + last_s / 2)
        both = not np.array_equal(self.uplink_kbps, self.downlink_kbps)
        columns = [self.uplink_kbps, self.rtt_ms, *([self.downlink_kbps] if both else [])]
        lines = [",".join([*REQUIRED, *(OPTIONAL if both else ())])]
        for time_s, *figures in zip(times, *(column[rows].tolist() for column in columns), strict=True):
            lines.append(",".join(repr(figure).removesuffix(".0") for figure in (time_s, *figures)))
        return "\n".join([*lines, ""]).encode()

    def rtt_at(self, t_s: float) -> float:
        """The round trip at a time, in milliseconds."""
        return self.rtt_ms.item(self._row(t_s))

    def kbps_at(self, t_s: float, *, down: bool = False) -> float:
        """The rate at a time, in kbit/s."""
        return (self.downlink_kbps if down else self.uplink_kbps).item(self._row(t_s))

    def sent_s(self, start_s: float, size_bytes: float, *, down: bool = False) -> float:
        """When the last byte has left a wire that begins to send them at ``start_s``.

        No bytes have left at once; `math.inf` where the whole trace carries nothing. Takes about a microsecond, however
        long that is, and is as exact as floats are.
        """
        if size_bytes <= 0 or start_s == math.inf:
            return start_s
        edges = self._edges
        rates, carried = self._down if down else self._up
        offset_s = start_s % self.period_s
        row = bisect_right(edges, offset_s, 0, len(rates)) - 1
        rate = rates[row]
        size_here = (edges[row + 1] - offset_s) * rate
        if size_bytes <= size_here:
            return start_s + size_bytes / rate
        # Where the wire is done, in bytes since the trace began.
        goal, total = carried[row + 1] + (size_bytes - size_here), carried[-1]
        if goal == carried[row + 1]:
            # Too few to count beside all before them; sent they are after those.
            goal = math.nextafter(goal, math.inf)
        later_s = -offset_s
        if goal > total:
            if not total or goal == math.inf:
                return math.inf
            periods, goal = divmod(goal, total)
            if not goal:
                # Done with the last byte of a period, not with the first moment of the next.
                periods, goal = periods - 1, total
            later_s += periods * self.period_s
        row = bisect_left(carried, goal, 1) - 1
        return start_s + (later_s + edges[row] + (goal - carried[row]) / rates[row])

    def with_outages(self, every_s: float, length_s: float) -> Trace:
        """The same link, but down for the last ``length_s`` of every ``every_s``; round trips stay.

        It lasts a whole number of ``every_s``, the fewest that hold the whole trace, which begins anew where they are
        longer. Raises InputError for lengths that do not fit each other, or more than `MAX_ROWS` rows.
        """
        if not (0 < every_s <= MAX_S and 0 <= length_s <= every_s):
            raise InputError(
                f"a link cannot be down for {length_s:g} s in every {every_s:g} s: it takes seconds above 0, up to "
                f"{MAX_S:g}, of which it is down for some or all"
            )
        rows = len(self.starts_s)
        outages = math.ceil(self.period_s / every_s)
        # A single row lasts as long as it is asked to.
        repeats = 1 if rows == 1 else math.ceil(outages * every_s / self.period_s)
        if (most := repeats * rows + 2 * outages) > MAX_ROWS:
            raise InputError(
                f"an outage in every {every_s:g} s makes up to {most} rows of the {rows} of trace "
                f"{printable(self.name)}, which lasts {self.period_s:g} s; a trace has at most {MAX_ROWS}"
            )
        tiled = (np.arange(repeats)[:, None] * self.period_s + self.starts_s).ravel()
        counts = np.arange(outages)
        begins, ends = counts * every_s + (every_s - length_s), (counts + 1) * every_s
        starts = np.union1d(tiled, np.concatenate([begins, ends]))
        starts = starts[starts < ends[-1]]
        row = (np.searchsorted(tiled, starts, "right") - 1) % rows
        is_up = np.searchsorted(begins, starts, "right") == np.searchsorted(ends, starts, "right")
        return Trace(
            f"{self.name}, down {length_s:g} s in every {every_s:g} s",
            starts,
            self.uplink_kbps[row] * is_up,
            self.downlink_kbps[row] * is_up,
            self.rtt_ms[row],
            float(ends[-1]),
        )

    def _row(self, t_s: float) -> int:
        return bisect_right(self._edges, t_s % self.period_s, 0, len(self._edges) - 1) - 1


def _wire(kbps: NDArray[np.float64], edges: NDArray[np.float64]) -> _Wire:
    bytes_per_s = kbps * _BYTES_PER_S
    return _Wire(bytes_per_s.tolist(), [0.0, *np.cumsum(bytes_per_s * np.diff(edges)).tolist()])


def _problem(
    starts_s: NDArray[np.float64],
    uplink_kbps: NDArray[np.float64],
    downlink_kbps: NDArray[np.float64],
    rtt_ms: NDArray[np.float64],
) -> tuple[int, str] | None:
    """The first row with something wrong, from 0, and what that is."""
    with np.errstate(invalid="ignore"):
        later = np.concatenate([[True], np.diff(starts_s) > 0])
    checks = [
        ("t_s", starts_s, np.abs(starts_s) <= MAX_S, f"a number of seconds, at most {MAX_S:g}"),
        ("t_s", starts_s, later, "a time after that of the row before"),
        ("uplink_kbps", uplink_kbps, _within(uplink_kbps, MAX_KBPS), f"0 to {MAX_KBPS:g} kbit/s"),
        ("downlink_kbps", downlink_kbps, _within(downlink_kbps, MAX_KBPS), f"0 to {MAX_KBPS:g} kbit/s"),
        ("rtt_ms", rtt_ms, _within(rtt_ms, MAX_RTT_MS) & (rtt_ms > 0), f"milliseconds above 0, at most {MAX_RTT_MS:g}"),
    ]
    found: tuple[int, str] | None = None
    for name, column, good, needed in checks:
        row = int(np.argmin(good))
        if not good[row] and (found is None or row < found[0]):
            found = row, f"{name} is {column[row]:.15g}; it takes {needed}"
    return found


def _within(column: NDArray[np.float64], most: float) -> NDArray[np.bool_]:
    return (column >= 0) & (column <= most)


def _read(path: Path, file: BinaryIO) -> Trace:
    """The trace in an open CSV file; raises InputError."""
    reader = csv.reader(_lines(path, file), strict=True)
    columns: dict[str, array[float]] = {}
    numbers = array("l")
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if cells in ([], [""]):
                continue
            if not columns:
                columns = {name: array("d") for name in _header(path, reader.line_num, cells)}
                continue
            if len(numbers) == MAX_ROWS:
                raise _wrong(path, reader.line_num, f"there is more; a trace has at most {MAX_ROWS} rows")
            if len(cells) != len(columns):
                raise _wrong(
                    path, reader.line_num, f"it has {len(cells)} cells; the header names {len(columns)} columns"
                )
            for (name, column), cell in zip(columns.items(), cells, strict=True):
                column.append(_figure(path, reader.line_num, name, cell))
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise _wrong(path, reader.line_num, f"it is no CSV: {error}") from None
    if not numbers:
        raise _wrong(path, max(reader.line_num, 1), f"no row is there; a trace takes {','.join(REQUIRED)} and rows")
    read = {name: np.array(column, np.float64) for name, column in columns.items()}
    times, up, rtt = (read[name] for name in REQUIRED)
    down = read.get("downlink_kbps", up)
    problem = _problem(times, up, down, rtt)
    if problem is not None:
        raise _wrong(path, numbers[problem[0]], problem[1])
    starts = times - times[0]
    last_s = _ONLY_ROW_S if len(starts) == 1 else float(starts[-1] - starts[-2])
    return Trace(path.stem, starts, up, down, rtt, float(starts[-1]) + last_s)


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """Its lines as text, each as long as a line of numbers can be; raises InputError."""
    number = size = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number, size = number + 1, size + len(line)
        if size > MAX_FILE_BYTES:
            raise _wrong(path, number, f"the file is larger than the {MAX_FILE_BYTES} bytes a trace may have")
        if len(line) > _MAX_LINE_BYTES:
            raise _wrong(path, number, f"it is longer than the {_MAX_LINE_BYTES} bytes a line may have")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _wrong(path, number, "it is not UTF-8; save the trace as CSV in UTF-8") from None


def _header(path: Path, number: int, cells: list[str]) -> list[str]:
    """The names of the columns; raises InputError where they are others than those of a trace."""
    needed = f"a trace begins with {','.join(REQUIRED)} and perhaps {','.join(OPTIONAL)}"
    if not any(name in _KNOWN for name in cells):
        raise _wrong(path, number, f"no header is there but {_shown(','.join(cells))}; {needed}")
    for name in cells:
        if name not in _KNOWN:
            nearest = get_close_matches(name, _KNOWN, n=1, cutoff=0.0)
            raise _wrong(path, number, f"the column {_shown(name)} is unknown; the nearest known one is {nearest[0]}")
    if twice := _twice(cells):
        raise _wrong(path, number, f"the column {twice} is there twice")
    if missing := [name for name in REQUIRED if name not in cells]:
        raise _wrong(path, number, f"the column {missing[0]} is missing; {needed}")
    return cells


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _figure(path: Path, number: int, name: str, cell: str) -> float:
    # Python's own numbers may have underscores and digits of any script.
    try:
        if not cell.isascii() or "_" in cell:
            raise ValueError
        return float(cell)
    except ValueError:
        raise _wrong(path, number, f"{name} is {_shown(cell)}; it takes a number") from None


def _shown(text: str) -> str:
    return repr(printable(text, _SHOWN_LETTERS))


def _wrong(path: Path, number: int, problem: str) -> InputError:
    return InputError(f"{path}: line {number}: {problem}")
