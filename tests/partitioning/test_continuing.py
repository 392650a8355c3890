from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from midstream.partitioning import (
    Candidate,
    Inputs,
    LinkState,
    MachineTimes,
    Objective,
    Power,
    SystemState,
    Table,
    continued,
    decide_from,
)

POWER = Power(idle_w=2.0, busy_w=6.0, radio_uj_per_byte=0.5)
STATE = SystemState(LinkState(8000, 8000, 10))
DEVICE = MachineTimes(100.0, {"a": 20.0, "b": 60.0}, {"a": 85.0, "b": 41.0})
LOCAL = Candidate(None, (0, 1, 2), (), 100.0)
INPUT = Candidate(None, (), (0, 1, 2), 0.0, 10.0, 60_000, 1000, 2.0, codec="raw", sends_input=True)
EARLY = Candidate("a", (0,), (1, 2), 20.0, 8.0, 30_000, 1000, 3.0, codec="raw")
OTHERWISE = replace(EARLY, codec="lossless", payload_bytes=25_000, encode_ms=6.0)
LATE = Candidate("b", (0, 1), (2,), 60.0, 4.0, 2000, 1000, 1.0, codec="raw")
OPTIONS = (LOCAL, INPUT, EARLY, OTHERWISE, LATE, replace(LOCAL, exit="a", device_ms=21.0, rest_ms=85.0))


def left(begun: Candidate, can_run: bool = True) -> dict[tuple[str | None, str], tuple[float, float]]:
    found = continued(OPTIONS, begun, DEVICE, lambda first, second: can_run)
    assert (found[0].cut, found[0].codec) == (begun.cut, begun.codec)
    return {(each.cut, each.codec): (each.device_ms, each.encode_ms) for each in found}


def test_what_was_done_costs_nothing_any_more() -> None:
    assert left(EARLY) == {
        ("a", "raw"): (0.0, 0.0),
        (None, "none"): (85.0, 0.0),
        (None, "raw"): (0.0, 2.0),
        ("a", "lossless"): (0.0, 6.0),
        ("b", "raw"): (40.0, 1.0),
    }


def test_a_later_cut_needs_a_slice_and_an_earlier_one_is_past() -> None:
    assert ("b", "raw") not in left(EARLY, can_run=False)
    assert ("a", "raw") not in left(LATE)


def test_where_the_input_was_to_be_sent_everything_is_left() -> None:
    assert left(INPUT) == {
        (None, "raw"): (0.0, 0.0),
        (None, "none"): (100.0, 0.0),
        ("a", "raw"): (20.0, 3.0),
        ("a", "lossless"): (20.0, 6.0),
        ("b", "raw"): (60.0, 1.0),
    }


@pytest.mark.parametrize(
    ("payload_bytes", "kbps", "expected"),
    [
        # As predicted: 30 ms of upload, 10 of round trip, 8 there, 1 back.
        (30_000, 8000, ("a", "raw")),
        # Larger than predicted, by so much that another codec, whose size is not known yet, looks better.
        (60_000, 8000, ("a", "lossless")),
        # The link has slowed down: 40 ms more here, and 16 for the 2 kB.
        (30_000, 1000, ("b", "raw")),
        # It is gone but for a little: 85 ms here.
        (30_000, 100, (None, "none")),
    ],
)
def test_the_same_decision_from_there_on(payload_bytes: int, kbps: int, expected: tuple[str | None, str]) -> None:
    table = Table(continued(OPTIONS, EARLY, DEVICE, lambda first, second: True), POWER)
    payloads = table.payload_bytes.copy()
    payloads[0] = payload_bytes
    state = replace(STATE, link=LinkState(kbps, 8000, 10))
    plan = decide_from(table, state, Objective(), Inputs(np.asarray(payloads)), standing=0)
    assert (plan.cut, plan.codec) == expected
