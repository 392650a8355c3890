"""Workers measured at once, and kept on cores."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from midstream.allocation.scaling import Scaling
from midstream.errors import AcceleratorError
from midstream.gateway.scaling import can_pin, measured_scaling, pin
from midstream.sensing import usable_cores


def test_workers_that_wait_for_each_other_are_not_more_than_one() -> None:
    lock = threading.Lock()

    def run() -> None:
        with lock:
            time.sleep(0.01)

    found = measured_scaling([run, run, run])
    assert found.workers == 1
    assert {count for count, _ in found.runs_per_s} == {1, 2, 3}


def test_workers_that_do_not_are_all_of_use() -> None:
    assert measured_scaling([lambda: time.sleep(0.01)] * 2).workers == 2


@pytest.mark.parametrize("fails_at", [1, 2])
def test_workers_for_which_there_is_no_room_are_not_used(fails_at: int) -> None:
    """A copy that cannot run, at first or later, ends nothing but the attempt with so many."""
    ran = 0

    def no_room() -> None:
        nonlocal ran
        ran += 1
        if ran >= fails_at:
            raise AcceleratorError("out of memory")

    found: list[Scaling] = []
    runs = [lambda: time.sleep(0.01), no_room]
    thread = threading.Thread(target=lambda: found.append(measured_scaling(runs)), daemon=True)
    thread.start()
    thread.join(60.0)
    assert [each.workers for each in found] == [1]


def test_where_not_even_one_can_run_it_says_why() -> None:
    def no_room() -> None:
        raise AcceleratorError("out of memory")

    with pytest.raises(AcceleratorError, match="out of memory"):
        measured_scaling([no_room, no_room])


@pytest.mark.skipif(not can_pin(), reason="this system keeps no thread on a core")
def test_a_thread_is_kept_on_its_core_and_no_other_is() -> None:
    before, core = os.sched_getaffinity(0), max(usable_cores())

    def pinned() -> set[int]:
        pin(core)
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(pinned).result() == {core}
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not can_pin(), reason="this system keeps no thread on a core")
def test_a_core_that_is_not_there_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pin, 100_000).result()
    assert "is not kept on core 100000" in caplog.text
