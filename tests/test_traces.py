"""Links over time: when what is sent has left the wire, and files of every kind."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream import traces
from midstream.errors import InputError
from midstream.traces import Trace

HEADER = "t_s,uplink_kbps,rtt_ms\n"


def trace(lengths_s: list[float], kbps: list[float], down_kbps: list[float] | None = None) -> Trace:
    edges = np.cumsum([0.0, *lengths_s])
    rtt_ms = np.arange(1.0, len(kbps) + 1)
    return Trace("t", edges[:-1], np.array(kbps), np.array(down_kbps or kbps), rtt_ms, float(edges[-1]))


def slowly_sent_s(link: Trace, start_s: float, size_bytes: float, down: bool) -> float:
    """The same as `Trace.sent_s`, in exact fractions, row by row."""
    period = Fraction(link.period_s)
    edges = [*map(Fraction, link.starts_s.tolist()), period]
    rates = [Fraction(kbps) * 125 for kbps in (link.downlink_kbps if down else link.uplink_kbps).tolist()]
    left, now = Fraction(size_bytes), Fraction(start_s)
    if not left:
        return start_s
    if not any(rates):
        return math.inf
    base = now // period * period
    while True:
        for row, rate in enumerate(rates):
            begins, ends = max(now, base + edges[row]), base + edges[row + 1]
            if begins < ends:
                if left <= (ends - begins) * rate:
                    return float(begins + left / rate)
                left -= (ends - begins) * rate
        base += period


# Eighths of a second and whole rates: the sums of floats are exact, so that both see the same rows.
eighths = st.integers(1, 40).map(lambda count: count / 8)
rates = st.one_of(st.just(0.0), st.integers(1, 1_000_000).map(float))


@st.composite
def links(draw: st.DrawFn) -> Trace:
    lengths = draw(st.lists(eighths, min_size=1, max_size=8))
    column = st.lists(rates, min_size=len(lengths), max_size=len(lengths))
    return trace(lengths, draw(column), draw(column))


@given(links(), st.integers(-800, 8000), st.data(), st.booleans())
def test_sent_s_is_what_adding_up_row_by_row_gives(link: Trace, start: int, data: st.DataObject, down: bool) -> None:
    # Sizes of up to some periods' worth, many of them at the end of a row.
    edges = np.append(link.starts_s, link.period_s)
    column = link.downlink_kbps if down else link.uplink_kbps
    carried = np.cumsum(column * 125 * np.diff(edges))
    most = max(int(carried[-1] * 4), 100)
    size = data.draw(st.one_of(st.integers(0, most), st.sampled_from(carried.tolist())))
    expected = slowly_sent_s(link, start / 8, size, down)
    assert link.sent_s(start / 8, size, down=down) == pytest.approx(expected, rel=1e-12, abs=1e-9)


@given(links(), st.floats(-100, 1e6), st.floats(0, 1e9), st.floats(0, 1e9))
def test_more_bytes_are_sent_no_sooner(link: Trace, start_s: float, size: float, more: float) -> None:
    sent_s, later_s = link.sent_s(start_s, size), link.sent_s(start_s, size + more)
    assert start_s <= sent_s
    assert sent_s <= later_s or sent_s == pytest.approx(later_s, rel=1e-12)


def test_bytes_wait_for_outages_and_end_with_the_last_row_that_carries_them() -> None:
    link = trace([1, 2, 1], [8, 0, 16])  # 1000 bytes, none, 2000 bytes
    assert link.sent_s(0, 1000) == 1
    assert link.sent_s(0, 1000.5) == 3.00025
    assert link.sent_s(1, 1) == 3.0005
    assert link.sent_s(2.5, 2000) == 4
    assert link.sent_s(2.5, 0) == 2.5
    assert link.sent_s(0.5, 3000) == 4.5
    assert link.sent_s(0, 3000) == 4
    # Whole periods' worth of bytes, over a link that is down at a period's end, and at its start too.
    assert trace([1, 1], [8, 0]).sent_s(0, 3000) == 5
    assert trace([1, 1, 1], [0, 8, 0]).sent_s(0.5, 3000) == 8


def test_many_periods_are_counted_not_walked_through() -> None:
    link = trace([1, 2, 1], [8, 0, 16])
    assert link.sent_s(0, 3000 * 10**12) == 4e12
    assert link.sent_s(0, 3000 * 10**12 + 500) == 4e12 + 0.5
    assert link.sent_s(4e12 + 2, 2000) == 4e12 + 4
    assert link.sent_s(-1, 2000) == 0
    assert (link.kbps_at(4e12 + 3.5), link.rtt_at(4e12 + 1), link.rtt_at(-0.5)) == (16, 2, 3)


def test_a_link_that_is_always_down_never_sends() -> None:
    link = trace([1, 1], [0, 0], [8, 0])
    assert link.sent_s(0.5, 1) == math.inf
    assert link.sent_s(0.5, 0) == 0.5
    assert link.sent_s(math.inf, 1) == math.inf
    assert link.sent_s(0.5, 1000, down=True) == 2.5
    assert link.sent_s(0.5, math.inf, down=True) == math.inf


def test_few_bytes_after_very_many_are_not_sent_before_they_begin() -> None:
    link = trace([1e6, 1, 1], [1e9, 0, 1e9])
    assert 1e6 + 1 <= link.sent_s(1e6 + 0.5, 1e-6) <= 1e6 + 1 + 1e-9


def test_a_steady_link() -> None:
    link = Trace.steady(8000, 20.0, 16000)
    assert (link.sent_s(3.25, 500_000), link.sent_s(3.25, 500_000, down=True)) == (3.75, 3.5)
    assert link.sent_s(0.5, 10_000_000) == 10.5
    assert (link.kbps_at(77.7), link.kbps_at(77.7, down=True), link.rtt_at(77.7)) == (8000, 16000, 20)
    assert Trace.steady(8, 1).kbps_at(0, down=True) == 8


def test_the_arrays_are_copies_that_nobody_changes() -> None:
    kbps = np.array([8.0])
    link = Trace("t", np.zeros(1), kbps, kbps, np.ones(1), 1.0)
    kbps[0] = 99
    assert link.uplink_kbps.tolist() == [8]
    with pytest.raises(ValueError, match="read-only"):
        link.uplink_kbps[0] = 1


@pytest.mark.parametrize(
    ("starts", "kbps", "rtt", "period", "told"),
    [
        ([0, 1], [1], [1], 2, "shapes"),
        ([], [], [], 2, "shapes"),
        ([1, 2], [1, 1], [1, 1], 3, "the first starts at 0"),
        ([0, 1], [1, 1], [1, 1], 1, "its period is 1 s"),
        ([0, 1], [1, 1], [1, 1], math.nan, "its period is nan s"),
        ([0, 1], [1, -1], [1, 1], 2, "row 1: uplink_kbps is -1"),
        ([0, math.inf], [1, 1], [1, 1], 2, "row 1: t_s is inf"),
        ([0, 1], [1, 1], [0, 1], 2, "row 0: rtt_ms is 0"),
    ],
)
def test_what_is_no_trace_is_refused(
    starts: list[float], kbps: list[float], rtt: list[float], period: float, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        Trace("t", np.array(starts), np.array(kbps), np.array(kbps), np.array(rtt), period)


@given(links(), eighths, st.integers(0, 8), st.floats(0, 1000))
def test_outages_are_at_the_end_of_each_period_and_nothing_else_changes(
    link: Trace, every_s: float, share: int, t_s: float
) -> None:
    length_s = every_s * share / 8
    worse = link.with_outages(every_s, length_s)
    assert worse.period_s / every_s == round(worse.period_s / every_s)
    if len(link.starts_s) > 1:
        assert link.period_s <= worse.period_s < link.period_s + every_s
    at_s = t_s % worse.period_s
    is_down = at_s % every_s >= every_s - length_s
    assert worse.kbps_at(at_s) == (0 if is_down else link.kbps_at(at_s))
    assert worse.kbps_at(at_s, down=True) == (0 if is_down else link.kbps_at(at_s, down=True))
    assert worse.rtt_at(at_s) == link.rtt_at(at_s)


def test_outages_of_a_steady_link() -> None:
    link = Trace.steady(8, 5).with_outages(60, 5)
    assert (link.starts_s.tolist(), link.uplink_kbps.tolist(), link.period_s) == ([0, 55], [8, 0], 60)
    assert link.name == "steady, down 5 s in every 60 s"
    assert link.sent_s(54, 2000) == 61
    assert Trace.steady(8, 5).with_outages(0.3, 0.3).sent_s(0, 1) == math.inf


@pytest.mark.parametrize(("every_s", "length_s"), [(0, 0), (5, 6), (5, -1), (math.nan, 1), (5, math.nan), (1e11, 1)])
def test_outages_that_cannot_be_are_refused(every_s: float, length_s: float) -> None:
    with pytest.raises(InputError, match="cannot be down"):
        Trace.steady(8, 5).with_outages(every_s, length_s)


def test_outages_that_make_too_many_rows_are_refused() -> None:
    with pytest.raises(InputError, match="a trace has at most 1000000"):
        trace([1, 1], [1, 2]).with_outages(1e9, 1)


@given(links())
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, link: Trace) -> None:
    path = tmp_path_factory.mktemp("written") / "t.csv"
    again = opened(path, link.to_csv())
    assert (again.name, again.period_s) == (link.name, link.period_s)
    rows = len(link.starts_s)
    for column in ("starts_s", "uplink_kbps", "downlink_kbps", "rtt_ms"):
        assert getattr(again, column).tolist()[:rows] == getattr(link, column).tolist()
    # At most the second half of the last row is more.
    assert [each.tolist()[-1] for each in (again.uplink_kbps, again.downlink_kbps, again.rtt_ms)] == [
        each.tolist()[-1] for each in (link.uplink_kbps, link.downlink_kbps, link.rtt_ms)
    ]
    assert len(again.starts_s) <= rows + 1


def test_a_last_row_of_another_length_is_written_in_halves() -> None:
    assert trace([2, 1], [10, 20.5]).to_csv() == b"t_s,uplink_kbps,rtt_ms\n0,10,1\n2,20.5,2\n2.5,20.5,2\n"
    assert trace([1, 1], [10, 20], [30, 40]).to_csv() == (
        b"t_s,uplink_kbps,rtt_ms,downlink_kbps\n0,10,1,30\n1,20,2,40\n"
    )


def opened(path: Path, content: str | bytes) -> Trace:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Trace.open(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a walk.csv"


def test_a_file_is_read(file: Path) -> None:
    link = opened(file, "t_s,uplink_kbps,rtt_ms,downlink_kbps\n0,100,5.5,200\n1.5,0,6,1e3\n4,7,8,9\n")
    assert link.name == "a walk"
    assert link.starts_s.tolist() == [0, 1.5, 4]
    assert (link.uplink_kbps.tolist(), link.downlink_kbps.tolist()) == ([100, 0, 7], [200, 1000, 9])
    assert (link.rtt_ms.tolist(), link.period_s) == ([5.5, 6, 8], 6.5)


def test_times_are_shifted_a_single_row_lasts_a_second_and_the_downlink_is_as_the_uplink(file: Path) -> None:
    link = opened(file, HEADER + "1700000000,100,5\n1700000002,50,5\n")
    assert (link.starts_s.tolist(), link.period_s) == ([0, 2], 4)
    assert link.downlink_kbps.tolist() == [100, 50]
    link = opened(file, HEADER + "-7,100,5")
    assert (link.starts_s.tolist(), link.period_s) == ([0], 1)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + HEADER.encode() + b"0,1,2\n1,3,4\n",
        (HEADER + "0,1,2\n1,3,4\n").replace("\n", "\r\n").encode(),
        b"\n\n" + HEADER.encode() + b"\n  \n0,1,2\n\n1,3,4\n\n",
        b'"rtt_ms","uplink_kbps","t_s"\n2,1,0\n"4", 3 ,1',
    ],
    ids=["byte order mark", "CRLF", "blank lines", "quotes, spaces, another order"],
)
def test_files_of_other_programs_are_read(file: Path, content: bytes) -> None:
    link = opened(file, content)
    assert (link.uplink_kbps.tolist(), link.rtt_ms.tolist(), link.period_s) == ([1, 3], [2, 4], 2)


def test_a_file_without_any_capacity_is_read(file: Path) -> None:
    assert opened(file, HEADER + "0,0,5\n1,0,5\n").sent_s(0, 1) == math.inf


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "line 1: no row is there"),
        (HEADER, "line 1: no row is there"),
        ("0,1,2\n1,3,4\n", "line 1: no header is there but '0,1,2'; a trace begins with t_s,uplink_kbps,rtt_ms"),
        ("t_s,uplink_kbps\n0,1\n", "line 1: the column rtt_ms is missing"),
        ("t_s,uplink_kbps,rtt_ms,rtt_ms\n", "line 1: the column rtt_ms is there twice"),
        (
            "t_s,uplink_kbps,rtt_ms,downlink_kpbs\n",
            "'downlink_kpbs' is unknown; the nearest known one is downlink_kbps",
        ),
        ("t_s,uplink_kbps,rtt\n", "the column 'rtt' is unknown; the nearest known one is rtt_ms"),
        ("t_s,uplink_kbps,rtt_ms,\n", "the column '' is unknown"),
        (HEADER + "0,1,2\n1,3\n", "line 3: it has 2 cells; the header names 3 columns"),
        (HEADER + "0,1,2\n\n1,3,4,5\n", "line 4: it has 4 cells"),
        (HEADER + "0,one,2\n", "line 2: uplink_kbps is 'one'; it takes a number"),
        (HEADER + "0,,2\n", "line 2: uplink_kbps is ''; it takes a number"),
        (HEADER + "0,1_0,2\n", "line 2: uplink_kbps is '1_0'"),
        (HEADER + "0,١,2\n", "line 2: uplink_kbps is '١'"),
        (HEADER + "0,1,2\n1,nan,2\n", "line 3: uplink_kbps is nan; it takes 0 to 1e\\+09 kbit/s"),
        (HEADER + "0,inf,2\n", "line 2: uplink_kbps is inf"),
        (HEADER + "0,-1,2\n", "line 2: uplink_kbps is -1"),
        (HEADER + "0,1000000001,2\n", "line 2: uplink_kbps is 1000000001;"),
        (HEADER + "0,1,0\n", "line 2: rtt_ms is 0; it takes milliseconds above 0"),
        (HEADER + "0,1,100001\n", "line 2: rtt_ms is 100001;"),
        (HEADER + "0,1,2\n1,1,2\n1,1,2\n", "line 4: t_s is 1; it takes a time after that of the row before"),
        (HEADER + "nan,1,2\n", "line 2: t_s is nan"),
        (HEADER + "0,1,2\n1e300,1,2\n", "line 3: t_s is 1e\\+300"),
        (HEADER + "0,\x1b[31m,2\n", r"uplink_kbps is '\?\[31m'"),
        (HEADER + "0,\x00,2\n", "line 2: uplink_kbps is"),
        (HEADER + '0,"1,2\n', "line 2: it is no CSV"),
        (HEADER + "0,1,2" + " " * 5000, "line 2: it is longer than the 4096 bytes"),
        (HEADER.encode() + b"0,1,\xff\n", "line 2: it is not UTF-8"),
        ("t_s".encode("utf-16"), "line 1: it is not UTF-8"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(file: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(InputError, match=told) as raised:
        opened(file, content)
    assert str(raised.value).startswith(f"{file}: line ")
    assert str(raised.value).isprintable()


def test_a_file_that_is_too_large_is_left_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_FILE_BYTES", 100)
    with pytest.raises(InputError, match="line 14: the file is larger than the 100 bytes"):
        opened(file, HEADER + "0,1,2\n" * 100)


def test_a_file_with_too_many_rows_is_left_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_ROWS", 3)
    rows = "".join(f"{t_s},1,2\n" for t_s in range(5))
    with pytest.raises(InputError, match="line 5: there is more; a trace has at most 3 rows"):
        opened(file, HEADER + rows)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the trace cannot be read: No such file"):
        Trace.open(tmp_path / "none.csv")
    with pytest.raises(InputError, match="it is not a regular file"):
        Trace.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="it is not a regular file"):
        Trace.open(tmp_path / "pipe")
