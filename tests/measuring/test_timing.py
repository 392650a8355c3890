from __future__ import annotations

import pytest

from midstream.measuring.timing import measure


class Clock:
    """Time that passes only as runs say."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *seconds: float) -> Run:
        return Run(self, seconds)


class Run:
    """Takes these times one after another, then the last one for ever."""

    def __init__(self, clock: Clock, seconds: tuple[float, ...]) -> None:
        self.clock, self.seconds, self.count = clock, seconds, 0

    def __call__(self) -> None:
        self.clock.now += self.seconds[min(self.count, len(self.seconds) - 1)]
        self.count += 1


def test_the_first_runs_do_not_count_and_the_median_does() -> None:
    clock = Clock()
    run = clock.takes(0.1, 0.05, 0.01, 0.5, 0.01, 0.01, 0.02)
    timing = measure({"a": run}, 0.7, clock)["a"]
    # Two of warm-up, then 10, 500, 10, 10, 20 … ms until 0.7 s are over.
    assert timing.ms == pytest.approx(10.0)
    assert timing.rounds == run.count - 2
    assert timing.spread > 0


def test_runs_take_turns() -> None:
    clock, order = Clock(), []

    def run(name: str) -> None:
        order.append(name)
        clock.now += 0.05

    measure({"a": lambda: run("a"), "b": lambda: run("b")}, 0.5, clock)
    assert order[:8] == ["a", "a", "b", "b", "a", "b", "a", "b"]


def test_short_runs_are_repeated_until_the_clock_can_time_them() -> None:
    clock = Clock()
    run = clock.takes(1e-6)
    timing = measure({"a": run}, 0.1, clock)["a"]
    assert timing.ms == pytest.approx(1e-3)
    assert run.count > 2000 * timing.rounds


def test_a_clock_that_stands_still_ends() -> None:
    clock = Clock()
    timing = measure({"a": clock.takes(0.0)}, 1.0, clock)["a"]
    assert (timing.ms, timing.spread, timing.drift) == (0.0, 0.0, 0.0)


def test_slow_runs_are_run_twice_whatever_the_budget() -> None:
    clock = Clock()
    run = clock.takes(30.0)
    timing = measure({"a": run}, 5.0, clock)["a"]
    assert (timing.ms, timing.rounds, run.count) == (30_000.0, 1, 2)


def test_a_machine_that_slows_down_drifts() -> None:
    clock = Clock()
    run = clock.takes(*(0.01,) * 22, *(0.02,) * 100)
    assert measure({"a": run}, 0.6, clock)["a"].drift == pytest.approx(1.0, abs=0.6)
    steady = clock.takes(0.01)
    assert measure({"a": steady}, 0.6, clock)["a"].drift == pytest.approx(0.0)
