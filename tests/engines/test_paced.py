"""Pacing stretches runs, not a runtime's own setting up, and leaves state as it was."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from midstream.engines.paced import Pace, PacedSession
from midstream.tensors import Tensor, Tensors

WORK_S = 0.01


class Counting:
    """A session with a hidden state: it answers how often it ran since the last reset."""

    def __init__(self) -> None:
        self.runs = 0
        self.state = 0

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        time.sleep(WORK_S)
        self.runs += 1
        self.state += 1
        return {"count": np.array(self.state)}

    def reset(self) -> None:
        self.state = 0

    def close(self) -> None:
        self.runs = -1


def size(width: int) -> dict[str, Tensor]:
    return {"x": np.zeros((1, width), np.float32)}


def test_a_run_takes_the_stretched_time() -> None:
    session = PacedSession(Counting(), Pace(5.0))
    session.run(size(1))
    start = time.perf_counter()
    session.run(size(1))
    assert time.perf_counter() - start >= 5.0 * WORK_S


def test_warm_runs_come_once_a_size_and_leave_no_state() -> None:
    inner = Counting()
    session = PacedSession(inner, Pace(2.0))
    assert session.run(size(1))["count"] == 1
    assert inner.runs == 3
    assert session.run(size(1))["count"] == 2
    session.reset()
    assert session.run(size(1))["count"] == 1
    assert inner.runs == 5
    session.reset()
    assert session.run(size(2))["count"] == 1
    assert inner.runs == 8


def test_state_is_not_lost_to_a_new_size() -> None:
    session = PacedSession(Counting(), Pace(2.0))
    session.run(size(1))
    assert session.run(size(2))["count"] == 2


def test_the_pace_may_change() -> None:
    inner, pace = Counting(), Pace()
    session = PacedSession(inner, pace)
    session.run(size(1))
    assert inner.runs == 1
    pace.slowdown = 5.0
    start = time.perf_counter()
    assert session.run(size(1))["count"] == 2
    assert time.perf_counter() - start >= 5.0 * WORK_S
    session.close()
    assert inner.runs == -1
