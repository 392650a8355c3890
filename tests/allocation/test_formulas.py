"""Queueing formulas: known values, limits, and simulated queues."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.allocation.formulas import (
    erlang_c,
    mdk_ratio,
    mean_wait_s,
    mgk_wait_s,
    mmk_wait_s,
    reflected_mean,
    wait_after_s,
)


@pytest.mark.parametrize(
    ("workers", "offered", "known"),
    # Of one worker it is the load; the others are in tables of Erlang's C, as in Cooper (1981).
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (3, 0.0, 0.0), (2, 2.5, 1.0)],
)
def test_erlangs_c(workers: int, offered: float, known: float) -> None:
    assert erlang_c(workers, offered) == pytest.approx(known, abs=5e-5)


def test_many_workers_are_no_trouble() -> None:
    assert erlang_c(1000, 1.0) == 0.0
    assert 0 < erlang_c(1000, 990.0) < 1


def test_one_worker_is_pollaczek_and_khinchine() -> None:
    rate_hz, service_s = 60.0, 0.01
    for cv2 in (0.0, 0.3, 1.0, 2.5):
        exact = rate_hz * service_s**2 * (1 + cv2) / (2 * (1 - rate_hz * service_s))
        assert mgk_wait_s(1, rate_hz, service_s, cv2) == pytest.approx(exact)


def test_nothing_comes_and_too_much_comes() -> None:
    assert mmk_wait_s(2, 0.0, 0.01) == mgk_wait_s(2, 0.0, 0.01, 0.2) == 0.0
    assert mmk_wait_s(2, 200.0, 0.01) == mgk_wait_s(2, 250.0, 0.01, 0.2) == math.inf


def test_constant_service_halves_the_wait_near_full_load_and_less_below() -> None:
    assert mdk_ratio(1, 0.3) == 0.5
    assert mdk_ratio(4, 0.999) == pytest.approx(0.5, abs=1e-3)
    assert 0.5 < mdk_ratio(4, 0.7) < mdk_ratio(4, 0.3) <= 0.8


def simulated_wait_s(workers: int, rate_hz: float, service_s: float, cv: float, requests: int) -> float:
    """The mean wait in a queue of first come, first served."""
    stream = np.random.default_rng(workers)
    arrivals = np.cumsum(stream.exponential(1 / rate_hz, requests)).tolist()
    sigma = math.sqrt(math.log(1 + cv * cv))
    services = (service_s * np.exp(sigma * stream.standard_normal(requests) - sigma * sigma / 2)).tolist()
    free = [0.0] * workers
    waited = 0.0
    for arrives, takes in zip(arrivals, services, strict=True):
        begins = max(arrives, free[0])
        waited += begins - arrives
        heapq.heapreplace(free, begins + takes)
    return waited / requests


@pytest.mark.parametrize("cv", [0.0, 0.04, 0.5])
@pytest.mark.parametrize(("workers", "utilisation"), [(1, 0.6), (2, 0.5), (2, 0.8), (4, 0.7)])
def test_mgk_is_within_some_hundredths_of_a_simulation(workers: int, utilisation: float, cv: float) -> None:
    service_s = 0.01
    rate_hz = utilisation * workers / service_s
    came = simulated_wait_s(workers, rate_hz, service_s, cv, 200_000)
    assert mgk_wait_s(workers, rate_hz, service_s, cv * cv) == pytest.approx(came, rel=0.06)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_after_long_it_is_the_steady_state(workers: int) -> None:
    rate_hz = 0.7 * workers / 0.01
    steady = mgk_wait_s(workers, rate_hz, 0.01, 0.1)
    assert wait_after_s(0.5, 1000.0, workers, rate_hz, 0.01, 0.1) == pytest.approx(steady, rel=1e-6)
    assert wait_after_s(0.0, 1000.0, workers, rate_hz, 0.01, 0.1) == pytest.approx(steady, rel=1e-6)


def test_at_once_it_is_the_queue() -> None:
    assert wait_after_s(0.3, 0.0, 2, 100.0, 0.01, 0.1) == 0.3


def test_a_long_queue_falls_and_grows_as_a_fluid_does() -> None:
    assert wait_after_s(5.0, 2.0, 2, 100.0, 0.01, 0.1) == pytest.approx(4.0, rel=1e-3)
    assert wait_after_s(5.0, 2.0, 2, 300.0, 0.01, 0.1) == pytest.approx(6.0, rel=1e-3)
    assert mean_wait_s(5.0, 2.0, 2, 300.0, 0.01, 0.1) == pytest.approx(5.5, rel=1e-3)


def test_a_queue_that_empties_is_as_simulated() -> None:
    stream = np.random.default_rng(3)
    rate_hz, service_s, start_s, after_s, runs = 70.0, 0.01, 0.15, 0.6, 20_000
    # Work of one worker, by Lindley's recursion on a grid of half a service time.
    work, step_s = np.full(runs, start_s), service_s / 2
    for _ in range(round(after_s / step_s)):
        work = np.maximum(work - step_s, 0) + service_s * stream.poisson(rate_hz * step_s, runs)
    assert wait_after_s(start_s, after_s, 1, rate_hz, service_s, 0.0) == pytest.approx(float(work.mean()), rel=0.1)


@given(
    st.floats(0, 1e3), st.floats(-1, 10), st.floats(1e-9, 10), st.floats(1e-6, 1e3)
)  # fmt: skip
def test_a_reflected_motion_is_never_below_the_free_one_nor_below_0(
    start: float, drift: float, variance: float, after: float
) -> None:
    mean = reflected_mean(start, drift, variance, after)
    assert math.isfinite(mean)
    rounded = 1e-6 * (1 + start + (1 + abs(drift)) * after)
    assert mean >= max(0.0, start + drift * after) - rounded


@given(
    st.floats(0, 100), st.integers(1, 64), st.floats(0, 1e4), st.floats(0, 10), st.floats(0, 10)
)  # fmt: skip
def test_any_load_has_a_wait(start_s: float, workers: int, rate_hz: float, service_s: float, cv2: float) -> None:
    wait_s = mean_wait_s(start_s, 1.0, workers, rate_hz, service_s, cv2)
    assert math.isfinite(wait_s)
    assert wait_s >= 0
