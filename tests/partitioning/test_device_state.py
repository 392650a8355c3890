"""A device's load in the plan: how much it slows down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.partitioning import DeviceLoad, SystemState, slowdown

loads = st.builds(
    DeviceLoad,
    cores=st.integers(1, 16),
    others_share=st.none() | st.floats(0, 1),
    others_threads=st.none() | st.floats(0, 100),
    clock_limit_share=st.none() | st.floats(0, 1),
)


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
    assert slowdown(DeviceLoad(clock_limit_share=0.5)) == pytest.approx(2.0)
    assert slowdown(DeviceLoad(cores=1, others_share=1.0, clock_limit_share=0.5)) == pytest.approx(4.0)


def test_what_tells_nothing_of_speed_changes_nothing() -> None:
    # The clock of an idle processor is low, and rises when there is work.
    silent = DeviceLoad(temperature_c=84.0, clock_share=0.3, battery_share=0.1, throttled=("under-voltage",))
    assert slowdown(silent) is None


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


@given(loads)
def test_what_comes_out_is_a_state_that_the_planner_takes(load: DeviceLoad) -> None:
    SystemState(None, device_load=1.0 - 1.0 / (slowdown(load) or 1.0)).check()
