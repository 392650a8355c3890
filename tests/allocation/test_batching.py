"""How many run at once: as many as pays, by what runs have taken."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.allocation.batching import BatchTimes

SIZES = (2, 4, 8)


def test_until_it_was_tried_a_batch_takes_as_long_as_one_after_another() -> None:
    times = BatchTimes(SIZES)
    assert [times.ratio(size) for size in (1, 2, 3, 8)] == [1.0, 2.0, math.inf, 8.0]
    assert times.size(8, behind=False) == 1
    # It is tried where more come than can be run, and not again where it does take longer.
    assert times.size(8, behind=True) == 8
    for size in SIZES:
        times.ran(size, 1.5 * size)
    assert times.size(8, behind=True) == 1


def test_of_what_is_about_as_cheap_the_larger_one_is_made_where_more_come_than_can_be_run() -> None:
    times = BatchTimes(SIZES, {2: 2 * 0.94, 4: 4 * 0.92, 8: 8 * 0.935})
    assert times.size(8, behind=True) == 8
    times.ran(8, 8 * 1.05)
    assert times.size(8, behind=True) == 4


def test_what_once_took_long_is_tried_again() -> None:
    times = BatchTimes(SIZES, {2: 2 * 0.95, 4: 4 * 0.95, 8: 8 * 0.9})
    for _ in range(3):
        times.ran(8, 20.0)
    assert times.size(8, behind=True) == 4
    runs = 0
    while times.size(8, behind=True) != 8:
        times.ran(4, 4 * 0.95)
        runs += 1
    assert 50 < runs < 5000


@pytest.mark.parametrize(("measured", "really"), [(0.95, 1.4), (0.5, 1.2), (0.5, 3.0), (1.0, 1.5)])
def test_trying_what_does_not_pay_costs_next_to_nothing(measured: float, really: float) -> None:
    """Also where the whole model gains by it, and this tail does not."""
    times = BatchTimes(SIZES, {size: measured * size for size in SIZES})
    took = count = 0.0
    for _ in range(5000):
        size = times.size(99, behind=True)
        took, count = took + (1.0 if size == 1 else really * size), count + size
        times.ran(size, 1.0 if size == 1 else really * size)
    assert took / count < 1.05


def test_what_is_cheaper_together_runs_together_as_far_as_there_are_so_many() -> None:
    times = BatchTimes(SIZES, {2: 1.1, 4: 1.3, 8: 1.7})
    assert [times.size(waiting, behind=True) for waiting in (1, 2, 3, 4, 7, 8, 99)] == [1, 2, 2, 4, 4, 8, 8]
    assert [times.size(waiting, behind=False) for waiting in (1, 2, 8)] == [1, 2, 8]


def test_a_batch_that_is_hardly_cheaper_is_made_only_where_more_come_than_can_be_run() -> None:
    times = BatchTimes((4,), {4: 3.6})
    assert times.size(4, behind=False) == 1
    assert times.size(4, behind=True) == 4


def test_what_was_measured_in_a_bad_moment_is_tried_all_the_same() -> None:
    times = BatchTimes(SIZES, {2: 6.0, 4: 12.0, 8: 24.0})
    for _ in range(2000):
        size = times.size(99, behind=True)
        times.ran(size, 1.0 if size == 1 else 0.5 * size)
    assert times.size(99, behind=True) == 8


@given(st.integers(1, 40), st.lists(st.floats(1.0, 8.0), min_size=3, max_size=3), st.booleans())
def test_the_size_is_never_more_than_wait(waiting: int, ratios: list[float], behind: bool) -> None:
    size = BatchTimes(SIZES, dict(zip(SIZES, ratios, strict=True))).size(waiting, behind=behind)
    assert size == 1 or size in SIZES
    assert size <= waiting


def test_it_learns_what_runs_take_and_what_each_costs() -> None:
    times = BatchTimes(SIZES)
    for _ in range(50):
        times.ran(4, 2.0)
    assert math.isclose(times.ratio(4), 2.0, rel_tol=0.01)
    assert math.isclose(times.each, 0.5, rel_tol=0.01)
    assert times.size(4, behind=False) == 4
    # One hiccup is no news.
    times.ran(4, 1000.0)
    assert times.ratio(4) < 4.0
    for _ in range(50):
        times.ran(1, 1.0)
    assert math.isclose(times.each, 1.0, rel_tol=0.01)


def test_sizes_go_down_to_one_alone() -> None:
    times = BatchTimes(SIZES)
    assert [times.smaller(size) for size in (8, 4, 2)] == [4, 2, 1]
