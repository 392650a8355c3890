"""What psutil tells on any system: processor time, memory, battery. What it cannot find out is None."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from midstream.sensing.reading import ROOT, text_in

# Drivers that write what psutil does not expect, and systems that lack a file.
_UNTOLD = (OSError, RuntimeError, ValueError, LookupError, AttributeError, psutil.Error)


@dataclass(frozen=True, slots=True)
class CpuCounters:
    """Seconds since the system started, added up over the ``cores`` that this process may use.

    ``busy_s`` has all work on them, a host's other machines too, and not what waits for a disk; ``own_s`` this
    process's. ``runnable`` are the threads on the whole machine that run or wait for a core at this moment, the one
    that asks among them; None where the system does not say.
    """

    cores: int
    total_s: float
    busy_s: float
    own_s: float
    runnable: int | None = None


@dataclass(frozen=True, slots=True)
class Battery:
    """The share of its charge that is left, and whether the machine is on mains (None: unknown)."""

    share: float
    on_mains: bool | None


def usable_cores() -> frozenset[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_counters(root: Path = ROOT) -> CpuCounters | None:
    """The counters now."""
    cores = usable_cores()
    try:
        every = psutil.cpu_times(percpu=True)
        own = psutil.Process().cpu_times()
    except _UNTOLD:
        return None
    # With cores switched off, places in the list are no longer their numbers: then all of them count.
    chosen = [every[core] for core in cores] if max(cores) < len(every) else every
    if not chosen:
        return None
    # Time of guests is counted as their host's user time already.
    guests = ("guest", "guest_nice")
    total_s = sum(value for times in chosen for name, value in times._asdict().items() if name not in guests)
    idle_s = sum(times.idle + getattr(times, "iowait", 0.0) for times in chosen)
    return CpuCounters(len(chosen), total_s, total_s - idle_s, own.user + own.system, _runnable(root))


def available_bytes() -> int | None:
    """Memory that processes could still take without swapping (Linux: MemAvailable)."""
    try:
        return int(psutil.virtual_memory().available)
    except _UNTOLD:
        return None


def peak_bytes() -> int | None:
    """The most memory that this process has held resident so far; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def battery() -> Battery | None:
    """The machine's battery, None where it has none."""
    try:
        found = psutil.sensors_battery()
        return None if found is None else Battery(min(1.0, max(0.0, found.percent / 100.0)), found.power_plugged)
    except _UNTOLD:
        return None


def _runnable(root: Path) -> int | None:
    match = re.search(r" (\d{1,9})/\d{1,9} ", text_in(root / "proc/loadavg"))
    return int(match[1]) if match else None
