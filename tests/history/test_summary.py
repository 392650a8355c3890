"""What a history comes to."""

from __future__ import annotations

import math

import pytest
from usages import DIGEST, usage

from midstream.allocation.usage import Outcome
from midstream.history.summary import Spread, summarise


def test_a_partition_is_summed_up() -> None:
    given = [
        usage(
            number,
            latency_ms=float(number),
            timings_ms={"queue": number / 10},
            codec="raw" if number % 4 else "int8",
            peak_bytes=None if number % 2 else 1000 + number,
        )
        for number in range(101)
    ]
    given.append(usage(101, outcome=Outcome.EXPIRED, latency_ms=9999.0, cpu_ms={}, timings_ms={}, peak_bytes=None))
    (found,) = summarise(given)
    assert (found.machine, found.bundle, found.cut, found.next_cut) == ("gateway", DIGEST, "c12", "")
    assert (found.requests, found.outcomes) == (102, {"ok": 101, "expired": 1})
    assert (found.first_s, found.last_s, found.rate_hz) == (1.7e9, 1.7e9 + 101, 1.0)
    # Of those that were answered, and of those that had a worker.
    assert found.latency_ms == Spread(50.0, 50.0, 95.0, 99.0)
    assert found.queue_ms == Spread(*(pytest.approx(value) for value in (5.0, 5.0, 9.5, 9.9)))
    assert found.cpu_ms == {"decode": 0.5, "run": 2.25}
    assert (found.received_bytes, found.sent_bytes) == (102 * 4321, 102 * 99)
    assert found.codecs == {"raw": 75, "int8": 27}
    assert found.peak_bytes == 1100


def test_machines_and_stages_are_apart_and_the_busiest_comes_first() -> None:
    given = [usage(1), usage(2, machine="device", cut="", next_cut="c12"), usage(3, next_cut="c20"), usage(4)]
    assert [(each.machine, each.cut, each.next_cut, each.requests) for each in summarise(given)] == [
        ("gateway", "c12", "", 2),
        ("device", "", "c12", 1),
        ("gateway", "c12", "c20", 1),
    ]
    assert summarise([]) == []


def test_what_peers_make_up_is_one_line() -> None:
    asked = (Outcome.UNKNOWN_BUNDLE, Outcome.UNKNOWN_CUT, Outcome.BAD_REQUEST)
    given = [
        usage(n, bundle=f"{n}", cut=f"c{n}", codec=f"x{n}", outcome=asked[n % 3], cpu_ms={}, timings_ms={})
        for n in range(9)
    ]
    (found,) = summarise(given)
    assert (found.bundle, found.cut, found.requests, found.codecs) == ("", "", 9, {})
    assert found.outcomes == {"unknown_bundle": 3, "unknown_cut": 3, "bad_request": 3}
    assert (found.latency_ms, found.queue_ms) == (None, None)


def test_numbers_that_are_none_do_not_spoil_the_others() -> None:
    odd = {"latency_ms": math.nan, "timings_ms": {"queue": math.inf}, "cpu_ms": {"run": math.nan}, "time_s": 1.7e9}
    (found,) = summarise([usage(0), usage(0, **odd)])
    assert found.latency_ms == Spread(3.5, 3.5, 3.5, 3.5)
    assert found.queue_ms == Spread(0.75, 0.75, 0.75, 0.75)
    assert found.cpu_ms == {"decode": 0.5, "run": 2.25}
    assert found.rate_hz is None
