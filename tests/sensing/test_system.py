"""What psutil tells, of this machine and of others."""

from __future__ import annotations

import os
import time
from collections import namedtuple
from pathlib import Path

import psutil
import pytest
from boards import files

from midstream.sensing.system import Battery, available_bytes, battery, cpu_counters, usable_cores

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest guest_nice")
Found = namedtuple("Found", "percent secsleft power_plugged")


def test_what_is_busy_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "proc", loadavg="0.52 0.58 0.59 3/602 21044")
    # The guest's second is in user already; waiting for a disk is no work.
    times = [Times(10, 1, 2, 80, 4, 0.5, 0.5, 2, 1, 0), Times(*[50] * 10), Times(1, 0, 0, 9, 0, 0, 0, 0, 0, 0)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    counters = cpu_counters(tmp_path)
    assert counters is not None
    assert (counters.cores, counters.total_s, counters.busy_s, counters.runnable) == (2, 110, 17, 3)
    # Core 1 is switched off: places are no numbers any more.
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times[:2])
    counters = cpu_counters(tmp_path / "nothing")
    assert counters is not None
    assert (counters.total_s, counters.runnable) == (100 + 400, None)


def test_own_work_is_counted_as_own() -> None:
    before, end = cpu_counters(), time.process_time() + 0.1
    while time.process_time() < end:
        pass
    after = cpu_counters()
    assert before is not None
    assert after is not None
    assert 0 <= before.own_s < after.own_s <= after.busy_s <= after.total_s
    assert after.cores == len(usable_cores())


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        (Found(57.5, 3600, False), Battery(0.575, False)),
        (Found(100.7, -2, True), Battery(1.0, True)),
        (Found(80, -1, None), Battery(0.8, None)),
    ],
)
def test_batteries(monkeypatch: pytest.MonkeyPatch, found: Found | None, expected: Battery | None) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: found)
    assert battery() == expected


@pytest.mark.parametrize("error", [FileNotFoundError("/proc/stat"), ValueError("line"), psutil.AccessDenied(1)])
def test_what_psutil_cannot_find_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for name in ("cpu_times", "virtual_memory", "sensors_battery"):
        monkeypatch.setattr(psutil, name, fail)
    assert (cpu_counters(), available_bytes(), battery()) == (None, None, None)


def test_a_system_without_batteries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "sensors_battery")
    assert battery() is None
