"""Asks the machine in the background, so that whoever decides finds an answer and waits for none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from midstream.partitioning.device_state import DeviceLoad
from midstream.sensing.board import Board, slows, throttled
from midstream.sensing.memory import free_memory_bytes
from midstream.sensing.reading import ROOT
from midstream.sensing.system import Battery, CpuCounters, battery, cpu_counters

INTERVAL_S = 1.0
# The firmware is asked by a process of its own, the battery by a slow bus: only every so many samples.
RARELY = 10
# The kernel counts in 10 ms: less time than this tells nothing.
_LEAST_S = 0.1
_SMOOTHING = 0.3


class LoadMonitor:
    """A thread samples the machine once a second while this is entered; `now` gives the last sample at once.

    The readers can be others in tests. May be entered again; leaving waits for a sample that is being taken.
    """

    def __init__(
        self,
        root: Path = ROOT,
        *,
        counters: Callable[[], CpuCounters | None] = cpu_counters,
        battery: Callable[[], Battery | None] = battery,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._root = root
        self._board = Board(root)
        self._read_counters = counters
        self._read_battery = battery
        self._interval_s = interval_s
        self._load = DeviceLoad()
        self._before: CpuCounters | None = None
        self._samples = 0
        self._throttled: tuple[str, ...] | None = None
        self._firmware_clock: float | None = None
        self._battery: Battery | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LoadMonitor:
        self._done.clear()
        self._thread = threading.Thread(target=self._run, name="load monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def now(self) -> DeviceLoad:
        """The last sample; nothing is known before the first, and of the processors before the second."""
        return self._load

    def sample(self) -> None:
        """Ask the machine; the thread's work, for one thread at a time."""
        if self._samples % RARELY == 0:
            self._throttled = throttled()
            self._firmware_clock = self._board.firmware_clock_share() if slows(self._throttled) else None
            self._battery = self._read_battery()
        self._samples += 1
        cores, share, threads = self._others()
        limits = [limit for limit in (self._board.clock_limit_share(), self._firmware_clock) if limit is not None]
        power = self._battery
        self._load = DeviceLoad(
            cores=cores,
            others_share=share,
            others_threads=threads,
            temperature_c=self._board.temperature_c(),
            clock_share=self._board.clock_share(),
            clock_limit_share=min(limits, default=None),
            throttled=self._throttled,
            free_memory_bytes=free_memory_bytes(self._root),
            gpu_share=self._board.gpu_share(),
            battery_share=None if power is None else power.share,
            on_mains=None if power is None else power.on_mains,
        )

    def _others(self) -> tuple[int, float | None, float | None]:
        """Cores, the share of them that other processes had since the sample before, and how many threads theirs are.

        What was known stays where too little time has passed.
        """
        before, now, known = self._before, self._read_counters(), self._load
        if now is None:
            return known.cores, None, None
        if before is None or before.cores != now.cores:
            self._before = now
            return now.cores, None, None
        passed_s = now.total_s - before.total_s
        if passed_s < _LEAST_S * now.cores:
            if passed_s < 0:
                # They began anew, as on a machine that was moved: not to be waited for until they are where they were.
                self._before = now
            return now.cores, known.others_share, known.others_threads
        self._before = now
        own_s = now.own_s - before.own_s
        share = min(1.0, max(0.0, (now.busy_s - before.busy_s - own_s) / passed_s))
        if now.runnable is None:
            return now.cores, share, None
        # Without the thread that asks, and ours as far as they ran.
        threads = max(0.0, now.runnable - 1 - own_s / passed_s * now.cores)
        if known.others_threads is not None:
            threads = known.others_threads + _SMOOTHING * (threads - known.others_threads)
        return now.cores, share, threads

    def _run(self) -> None:
        while True:
            self.sample()
            if self._done.wait(self._interval_s):
                return
