"""The circuit breaker, on a clock that is a number."""

from __future__ import annotations

from itertools import pairwise

import pytest

from midstream.communication.breaker import FIRST_REST_S, LONGEST_REST_S, Breaker


def probes(breaker: Breaker, start_s: float, end_s: float) -> list[float]:
    """When it is probed by a device that looks every 10 ms."""
    found = []
    for step in range(int((end_s - start_s) * 100)):
        now = start_s + step / 100
        if breaker.probe_due(now):
            breaker.probed(now)
            found.append(now - start_s)
    return found


def test_a_failure_opens_it_and_a_probe_closes_it() -> None:
    breaker = Breaker()
    assert breaker.closed
    breaker.failed(100.0)
    assert not breaker.closed
    assert not breaker.probe_due(100.0 + 0.9 * FIRST_REST_S)
    assert breaker.rest_left_s(100.2) == pytest.approx(FIRST_REST_S - 0.2)
    assert breaker.probe_due(100.0 + FIRST_REST_S)
    breaker.probed(100.6)
    assert breaker.echoed()
    assert breaker.closed
    assert not breaker.probe_due(200.0)


def test_a_dead_one_stays_open_and_is_probed_for_ever() -> None:
    breaker = Breaker()
    breaker.failed(0.0)
    found = probes(breaker, 0.0, 60.0)
    assert not breaker.closed
    assert found[:4] == pytest.approx([0.5, 0.75, 1.25, 2.25], abs=0.02)
    # A link that comes back is noticed within two seconds, however long it was away.
    assert max(later - earlier for earlier, later in pairwise(found)) <= 2.02
    assert len(found) == pytest.approx(32, abs=2)


def test_one_that_answers_probes_and_no_requests_is_asked_ever_more_rarely() -> None:
    breaker = Breaker()
    now, rests = 0.0, []
    for _ in range(8):
        breaker.failed(now)
        began = now
        while not breaker.probe_due(now):
            now += 0.01
        rests.append(now - began)
        breaker.probed(now)
        assert breaker.echoed()
    assert rests == pytest.approx([0.5, 1, 2, 4, 8, 15, 15, 15], abs=0.05)
    assert rests[-1] <= LONGEST_REST_S + 0.02
    breaker.answered()
    breaker.failed(now)
    assert breaker.rest_left_s(now) == FIRST_REST_S


def test_requests_that_failed_together_count_once() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0)
    assert breaker.rest_left_s(0.0) == FIRST_REST_S


def test_a_late_echo_of_before_the_rest_does_not_count() -> None:
    breaker = Breaker()
    assert not breaker.echoed()
    breaker.failed(0.0)
    assert not breaker.echoed()
    assert not breaker.closed
