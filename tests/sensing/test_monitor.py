"""The monitor, with counters and boards that the test makes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from boards import files, vcgencmd

from midstream.partitioning import DeviceLoad, slowdown
from midstream.sensing import LoadMonitor
from midstream.sensing.monitor import RARELY
from midstream.sensing.system import Battery, CpuCounters

START = CpuCounters(cores=4, total_s=1000.0, busy_s=300.0, own_s=20.0, runnable=1)


class Machine:
    """Its counters, which a test moves on."""

    def __init__(self) -> None:
        self.counters: CpuCounters | None = START

    def passes(self, seconds: float, others: float, own: float, runnable: int | None = 1) -> None:
        """So many seconds go by in which so many cores are used."""
        now = self.counters
        assert now is not None
        self.counters = replace(
            now,
            total_s=now.total_s + seconds * now.cores,
            busy_s=now.busy_s + seconds * (others + own),
            own_s=now.own_s + seconds * own,
            runnable=runnable,
        )


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def monitor(machine: Machine, tmp_path: Path, no_program: None) -> LoadMonitor:
    return LoadMonitor(tmp_path, counters=lambda: machine.counters, battery=lambda: None)


def test_nothing_is_known_before_the_first_sample_and_no_share_before_the_second(monitor: LoadMonitor) -> None:
    assert monitor.now() == DeviceLoad()
    monitor.sample()
    assert monitor.now().cores == 4
    assert monitor.now().others_share is None


def test_what_others_use_is_all_but_ours(monitor: LoadMonitor, machine: Machine) -> None:
    monitor.sample()
    machine.passes(1.0, others=1.0, own=2.0)
    monitor.sample()
    assert monitor.now().others_share == pytest.approx(0.25)
    # It is what they used since the sample before, not since ever.
    machine.passes(1.0, others=0.0, own=4.0)
    monitor.sample()
    assert monitor.now().others_share == pytest.approx(0.0)


def test_threads_of_others_are_without_ours_and_smoothed(monitor: LoadMonitor, machine: Machine) -> None:
    monitor.sample()
    machine.passes(1.0, others=2.0, own=1.0, runnable=8)
    monitor.sample()
    # Eight, less the one that asks and one of ours.
    assert monitor.now().others_threads == pytest.approx(6.0)
    machine.passes(1.0, others=2.0, own=1.0, runnable=2)
    monitor.sample()
    assert monitor.now().others_threads == pytest.approx(6.0 * 0.7)
    machine.passes(1.0, others=2.0, own=1.0, runnable=None)
    monitor.sample()
    assert monitor.now().others_threads is None


def test_too_little_time_tells_nothing_new(monitor: LoadMonitor, machine: Machine) -> None:
    monitor.sample()
    machine.passes(1.0, others=4.0, own=0.0)
    monitor.sample()
    machine.passes(0.05, others=0.0, own=0.0)
    monitor.sample()
    assert monitor.now().others_share == pytest.approx(1.0)
    # But nothing of it is lost.
    machine.passes(0.05, others=4.0, own=0.0)
    monitor.sample()
    assert monitor.now().others_share == pytest.approx(0.5)


def test_counters_that_run_backwards_or_fail(monitor: LoadMonitor, machine: Machine) -> None:
    monitor.sample()
    machine.passes(1.0, others=-0.2, own=0.1)
    monitor.sample()
    assert monitor.now().others_share == 0.0
    machine.counters = None
    monitor.sample()
    assert monitor.now().others_share is None
    # Another number of cores: what they all have counted is no longer to be compared.
    machine.counters = replace(START, cores=2, total_s=5000.0)
    monitor.sample()
    assert monitor.now().others_share is None
    assert monitor.now().cores == 2


def test_counters_that_begin_anew_are_followed_from_there(monitor: LoadMonitor, machine: Machine) -> None:
    monitor.sample()
    machine.passes(1.0, others=1.0, own=0.0)
    monitor.sample()
    machine.counters = replace(START, total_s=0.0, busy_s=0.0, own_s=0.0)
    monitor.sample()
    assert monitor.now().others_share == pytest.approx(0.25)
    machine.passes(1.0, others=3.0, own=0.0)
    monitor.sample()
    assert monitor.now().others_share == pytest.approx(0.75)


def test_a_throttled_raspberry_pi_is_asked_rarely(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "asked"
    answers = (
        'case "$1" in get_throttled) echo throttled=0x60002;; measure_clock) echo "frequency(48)=900000000";; esac'
    )
    vcgencmd(tmp_path / "bin", monkeypatch, f'echo "$1" >> "{log}"', answers)
    files(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq", scaling_cur_freq="1800000", cpuinfo_max_freq="1800000")
    files(tmp_path, "sys/devices/system/cpu/cpufreq/policy0", scaling_max_freq="1800000", cpuinfo_max_freq="1800000")
    files(tmp_path, "sys/class/thermal/thermal_zone0", type="cpu-thermal", temp="80600")
    batteries = iter([Battery(0.5, False), Battery(0.4, True)])
    monitor = LoadMonitor(tmp_path, counters=lambda: machine.counters, battery=lambda: next(batteries))
    for _ in range(RARELY):
        monitor.sample()
    load = monitor.now()
    assert load.throttled is not None
    assert "clock capped" in load.throttled
    assert (load.temperature_c, load.clock_share, load.clock_limit_share) == (80.6, 1.0, 0.5)
    assert (load.battery_share, load.on_mains) == (0.5, False)
    assert log.read_text().split() == ["get_throttled", "measure_clock"]
    # Cool again.
    vcgencmd(tmp_path / "cool", monkeypatch, "echo throttled=0x60000")
    monitor.sample()
    assert monitor.now().clock_limit_share == 1.0
    assert (monitor.now().battery_share, monitor.now().on_mains) == (0.4, True)


def test_nobody_waits_for_a_sensor_that_hangs(machine: Machine, tmp_path: Path, no_program: None) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hangs() -> Battery | None:
        asked.set()
        answer.wait(20.0)
        return Battery(0.25, None)

    with LoadMonitor(tmp_path, counters=lambda: machine.counters, battery=hangs, interval_s=0.01) as monitor:
        assert asked.wait(20.0)
        assert monitor.now() == DeviceLoad()
        answer.set()
        until(lambda: monitor.now().battery_share == 0.25)


def test_the_thread_ends_and_can_be_started_again(monitor: LoadMonitor) -> None:
    for _ in range(2):
        with monitor:
            until(lambda: monitor.now().cores == 4)
            assert "load monitor" in names()
        assert "load monitor" not in names()


def test_other_processes_of_this_machine_are_seen() -> None:
    with LoadMonitor(interval_s=0.3) as monitor:
        until(lambda: monitor.now().others_share is not None)
        cores = monitor.now().cores
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores + 1)]
        try:
            until(lambda: (slowdown(monitor.now()) or 0.0) > 1.2)
            assert (monitor.now().others_share or 0.0) > 0.5
        finally:
            for process in busy:
                process.kill()
                process.wait()


def until(true: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait for what the monitor's thread brings about."""
    pause, end = threading.Event(), time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end
        pause.wait(0.01)


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}
