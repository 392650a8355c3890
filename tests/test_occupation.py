"""Who runs on a device, and how often inputs come."""

from __future__ import annotations

import pytest

from midstream.occupation import Occupied, Pace


def test_who_comes_when_nobody_runs_is_not_taken_to_have_begun_before() -> None:
    occupied = Occupied()
    # In floats something is left of these.
    for expected_ms in (0.1, 0.2):
        occupied.enter(expected_ms, 100.0)
    for expected_ms in (0.1, 0.2):
        occupied.leave(expected_ms, 100.0)
    occupied.enter(50.0, 200.0)
    assert occupied.wait_ms(200.0) == 50.0


def test_one_that_comes_waits_for_what_is_left_of_those_before() -> None:
    occupied = Occupied()
    occupied.enter(50.0, 10.0)
    occupied.enter(50.0, 10.02)
    assert occupied.wait_ms(10.03) == pytest.approx(70.0)
    occupied.leave(50.0, 10.06)
    assert occupied.wait_ms(10.06) == pytest.approx(50.0)
    # What takes longer than expected is over at any moment.
    assert occupied.wait_ms(11.0) == 0.0


def test_the_period_follows_what_comes_and_a_pause_counts_little() -> None:
    pace = Pace()
    pace.came(0.0)
    assert pace.period_ms is None
    for number in range(1, 60):
        pace.came(number / 10)
    assert pace.period_ms == pytest.approx(100.0)
    pace.came(3600.0)
    assert pace.period_ms == pytest.approx(130.0)
