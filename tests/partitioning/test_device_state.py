"""A device's load in the plan: how much it slows down, and that nothing is counted twice."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.partitioning import DeviceLoad, LearnedFactor, SystemState, device_state, slowdown

BASE = 3.0
IDLE = DeviceLoad(cores=4, others_share=0.0, others_threads=0.0, clock_limit_share=1.0)
HALF_CLOCK = DeviceLoad(cores=4, others_share=0.0, others_threads=0.0, clock_limit_share=0.5)

loads = st.builds(
    DeviceLoad,
    cores=st.integers(1, 16),
    others_share=st.none() | st.floats(0, 1),
    others_threads=st.none() | st.floats(0, 100),
    clock_limit_share=st.none() | st.floats(0, 1),
)
learned = st.builds(LearnedFactor, factor=st.floats(0.01, 100), slowdown=st.none() | st.floats(1, 8))


def foretold(load: DeviceLoad, factor: LearnedFactor) -> float:
    """How many times the bundle's times a stage is expected to take, as the planner's formula has it."""
    state = device_state(load, factor)
    return state.factor / (1.0 - state.device_load)


def runs(factor: LearnedFactor, load: DeviceLoad, ran: float, times: int) -> LearnedFactor:
    for _ in range(times):
        factor = factor.after(10.0, 10.0 * ran, slowdown(load))
    return factor


@pytest.mark.parametrize(
    ("cores", "used", "waiting", "threads", "expected"),
    [
        # Cores are free.
        (4, 0.0, 0, 1, 1.0),
        (4, 3.0, 3, 1, 1.0),
        (4, 2.0, 2, 2, 1.0),
        # One core and one other that always wants it: half each. One that wants less gets that, and we the rest.
        (1, 1.0, 1, 1, 2.0),
        (1, 0.5, 1, 1, 2.0),
        (1, 0.25, 0.25, 1, 1 / 0.75),
        # All are taken, by as many threads as there are cores: n + 1 threads share n cores.
        (2, 2.0, 2, 1, 1.5),
        (4, 4.0, 4, 1, 1.25),
        # As seen while ours runs beside them: two threads of others have 4/3 cores of two.
        (2, 4 / 3, 2, 1, 1.5),
        # A build with 16 jobs on 4 cores.
        (4, 4.0, 16, 1, 17 / 4),
        # All four threads of ours against four of others.
        (4, 4.0, 4, 4, 2.0),
        # No more of ours run than there are cores, and this is so on an idle machine too.
        (2, 0.0, 0, 8, 1.0),
    ],
)
def test_what_others_leave(cores: int, used: float, waiting: float, threads: int, expected: float) -> None:
    load = DeviceLoad(cores=cores, others_share=used / cores, others_threads=waiting)
    assert slowdown(load, threads) == pytest.approx(expected)


def test_a_system_that_does_not_count_threads_has_at_least_those_that_ran() -> None:
    assert slowdown(DeviceLoad(cores=2, others_share=1.0)) == pytest.approx(1.5)


def test_the_clock_and_the_others_multiply() -> None:
    assert slowdown(HALF_CLOCK) == pytest.approx(2.0)
    assert slowdown(DeviceLoad(clock_limit_share=0.5)) == pytest.approx(2.0)
    assert slowdown(DeviceLoad(cores=1, others_share=1.0, clock_limit_share=0.5)) == pytest.approx(4.0)


def test_what_tells_nothing_of_speed_changes_nothing() -> None:
    # The clock of an idle processor is low, and rises when there is work.
    silent = DeviceLoad(temperature_c=84.0, clock_share=0.3, battery_share=0.1, throttled=("under-voltage",))
    assert slowdown(silent) is None
    state = device_state(silent, LearnedFactor(BASE, 1.0))
    assert (state.factor, state.device_load, state.careful_factor) == (BASE, 0.0, BASE)


@given(loads, st.integers(1, 16))
def test_a_slowdown_is_bounded(load: DeviceLoad, threads: int) -> None:
    slower = slowdown(load, threads)
    assert slower is None or 1.0 <= slower <= 8.0


@given(loads.filter(lambda load: load.others_share is not None), st.floats(0, 1))
def test_more_of_others_never_makes_faster(load: DeviceLoad, share: float) -> None:
    less, more = sorted((load.others_share or 0.0, share))
    fields = {"cores": load.cores, "others_threads": load.others_threads, "clock_limit_share": load.clock_limit_share}
    first, second = (slowdown(DeviceLoad(others_share=used, **fields)) for used in (less, more))
    assert first is not None
    assert second is not None
    assert first <= second * (1 + 1e-9)


@given(loads, learned)
def test_what_comes_out_is_a_state_that_the_planner_takes(load: DeviceLoad, factor: LearnedFactor) -> None:
    state = device_state(load, factor)
    SystemState(None, device_load=state.device_load).check()
    assert 0 < state.factor < math.inf
    assert state.careful_factor >= factor.factor
    assert state.careful_factor >= foretold(load, factor) * (1 - 1e-9)


def test_throttling_counts_at_once_and_is_not_counted_twice() -> None:
    factor = runs(LearnedFactor(BASE), IDLE, BASE, 20)
    assert foretold(IDLE, factor) == pytest.approx(BASE)
    # Before anything ran at half the clock, and after each run there.
    for _ in range(30):
        assert foretold(HALF_CLOCK, factor) == pytest.approx(2 * BASE)
        factor = runs(factor, HALF_CLOCK, 2 * BASE, 1)
    # And when it is over, without a run here.
    assert foretold(IDLE, factor) == pytest.approx(BASE)
    # A deadline does not rely on that before it is seen.
    assert device_state(IDLE, factor).careful_factor == pytest.approx(2 * BASE, rel=0.01)


def test_the_table_of_candidates_stays_while_load_comes_and_goes() -> None:
    factor = runs(LearnedFactor(BASE), IDLE, BASE, 20)
    for load, ran in ((HALF_CLOCK, 2 * BASE), (IDLE, BASE)) * 10:
        factor = runs(factor, load, ran, 1)
        assert device_state(load, factor).factor == pytest.approx(BASE)


def test_a_false_alarm_fades_with_what_is_measured() -> None:
    factor = runs(LearnedFactor(BASE), IDLE, BASE, 20)
    assert foretold(HALF_CLOCK, factor) == pytest.approx(2 * BASE)
    errors = []
    for _ in range(12):
        factor = runs(factor, HALF_CLOCK, BASE, 1)
        errors.append(foretold(HALF_CLOCK, factor) / BASE - 1.0)
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.05


def test_a_load_that_stays_is_in_the_measured_times() -> None:
    factor = runs(LearnedFactor(1.0), HALF_CLOCK, 2 * BASE, 60)
    assert foretold(HALF_CLOCK, factor) == pytest.approx(2 * BASE, rel=1e-3)


def test_the_first_load_that_is_known_stands_for_the_past() -> None:
    factor = LearnedFactor(2 * BASE)
    assert foretold(HALF_CLOCK, factor) == 2 * BASE
    factor = factor.beside(slowdown(HALF_CLOCK))
    assert foretold(HALF_CLOCK, factor) == pytest.approx(2 * BASE)
    assert foretold(IDLE, factor) == pytest.approx(BASE)
    assert factor.beside(1.0) == factor


def test_runs_under_no_known_load_are_learned_from() -> None:
    factor = LearnedFactor(1.0, 2.0).after(10.0, 20.0, None)
    assert factor == LearnedFactor(1.2, 2.0)
    assert LearnedFactor(1.0).after(10.0, 20.0, None) == LearnedFactor(1.2)


def test_too_short_a_stage_and_a_single_slow_one() -> None:
    assert LearnedFactor(2.0, 1.0).after(0.01, 100.0, 5.0) == LearnedFactor(2.0, 1.0)
    assert LearnedFactor(2.0, 1.0).after(1.0, 1000.0, 1.0) == LearnedFactor(2.0 + 0.2 * 6.0, 1.0)
    # Slow, but no slower than this load foretells.
    slow = LearnedFactor(2.0, 1.0).after(1.0, 16.0, 8.0)
    assert (slow.factor, slow.slowdown) == pytest.approx((2.0 + 0.2 * 14.0, 2.4))
