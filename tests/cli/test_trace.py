"""``midstream trace``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from midstream.trace_making import KINDS, make_trace
from midstream.traces import Trace

from .conftest import Midstream


def test_a_link_is_made_and_shown(midstream: Midstream, tmp_path: Path) -> None:
    path = tmp_path / "a drive.csv"
    made = midstream("trace", "make", "lte-driving", "-o", path, "--seconds", 90, "--seed", 4, "--json").json
    assert path.read_bytes() == make_trace("lte-driving", 90, 4).to_csv()
    shown = midstream("trace", "show", path, "--json").json
    assert shown == made | {"name": "a drive"}
    assert (shown["file"], shown["rows"], shown["seconds"]) == (str(path), 90, 90)
    assert shown["uplink_kbps"]["mean"] == pytest.approx(4000, abs=1)
    out = midstream("trace", "show", path).out
    assert "round trip, ms" in out
    assert f"90 s in 90 rows, down for {shown['down_share']:.1%} of the time\n" in out


def test_mean_round_trip_and_outages(midstream: Midstream, tmp_path: Path) -> None:
    path = tmp_path / "link.csv"
    path.write_text("something that was there")
    options = ["--seconds", 60, "--mean-kbps", 500, "--rtt-ms", 7, "--outage-every", 20, "--outage-length", 2.5]
    told = midstream("trace", "make", "steady", "-o", path, *options, "--json").json
    assert (told["seconds"], told["down_share"], told["uplink_kbps"]["median"]) == (60, 0.125, 500)
    link = Trace.open(path)
    assert [link.kbps_at(t_s) for t_s in (0, 17.4, 17.5, 19.9, 20)] == [500, 500, 0, 0, 500]
    assert (link.period_s, link.rtt_at(3)) == (60, 7)
    assert [each.name for each in tmp_path.iterdir()] == ["link.csv"]


def test_the_help_names_every_kind(midstream: Midstream) -> None:
    told = " ".join(midstream("trace", "make", "--help").out.replace("│", " ").split())
    assert all(kind in told for kind in KINDS)


def test_mistakes_are_one_line(midstream: Midstream, tmp_path: Path) -> None:
    path = tmp_path / "link.csv"
    ended = midstream("trace", "make", "ltee", "-o", path)
    assert ended.code == 2
    assert "there is no kind of link 'ltee'; the nearest is lte," in ended.error
    assert "the nearest is lte," in midstream("trace", "make", "LTE", "-o", path).error
    assert (
        "both --outage-every and --outage-length"
        in midstream("trace", "make", "lte", "-o", path, "--outage-every", 5).error
    )
    outages = ["--outage-every", 5, "--outage-length", 6]
    assert "cannot be down for 6 s in every 5 s" in midstream("trace", "make", "lte", "-o", path, *outages).error
    assert not path.exists()
    for wrong in (tmp_path, tmp_path / "none" / "link.csv", ""):
        ended = midstream("trace", "make", "lte", "-o", wrong, cwd=tmp_path)
        assert ended.code == 2
        assert "the trace cannot be written there: " in ended.error
    assert list(tmp_path.iterdir()) == []
    path.write_text("t_s,uplink_kbps,rtt_ms\n0,fast,5\n")
    ended = midstream("trace", "show", path, "--json")
    assert ended.code == 2
    assert f"{path}: line 2: uplink_kbps is 'fast'; it takes a number" in ended.error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have names")
def test_what_is_no_file_is_left_as_it_is(midstream: Midstream, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ended = midstream("trace", "make", "lte", "-o", pipe)
    assert (ended.code, pipe.is_fifo()) == (2, True)
    assert "it is no regular file; give another --output" in ended.error
