"""Measures what several workers do at once on this machine, and keeps a worker's thread on its core."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from midstream.allocation.scaling import Scaling, candidates, choose
from midstream.sensing import usable_cores

_log = logging.getLogger("midstream.gateway")

# Each number of workers runs for so long, pinned and not, as often as this.
_MEASURE_S = 0.15
_ROUNDS = 2


def measured_scaling(runs: Sequence[Callable[[], object]]) -> Scaling:
    """What to use of as many workers as there are ``runs``, each of which does a worker's work once.

    More than can run at once, as where an accelerator's memory has no room for their copies, are not used. Raises what
    the first run raises alone.
    """
    cores = sorted(usable_cores())
    found: dict[tuple[int, bool], float] = {}
    for _ in range(_ROUNDS):
        for count in candidates(len(runs)):
            for pinned in (False, True) if can_pin() and count <= len(cores) else (False,):
                rate = _runs_per_s(runs[:count], cores[:count] if pinned else None)
                found[count, pinned] = max(rate, found.get((count, pinned), 0.0))
    chosen = choose(found)
    told = ", ".join(f"{count}{' pinned' if pinned else ''}: {rate:.0f}" for (count, pinned), rate in found.items())
    _log.info(
        "%d workers%s, by runs a second of %s", chosen.workers, " on cores of their own" if chosen.pinned else "", told
    )
    return chosen


def can_pin() -> bool:
    """Whether this system lets a thread choose its cores."""
    return hasattr(os, "sched_setaffinity")


def pin(core: int) -> None:
    """Keep the calling thread on this core; where the system does not let it, it stays as it was."""
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        _log.warning("a worker is not kept on core %d: %s", core, error.strerror)


def _runs_per_s(runs: Sequence[Callable[[], object]], cores: Sequence[int] | None) -> float:
    """What they do together, each in a thread of its own; 0 where one of several cannot."""
    counts = [0] * len(runs)
    failures: list[Exception] = []
    started = threading.Barrier(len(runs) + 1)
    ends = [math.inf]

    def work(place: int) -> None:
        if cores is not None:
            pin(cores[place])
        try:
            runs[place]()
            started.wait()
            while time.perf_counter() < ends[0]:
                runs[place]()
                counts[place] += 1
        except threading.BrokenBarrierError:
            pass
        except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
            failures.append(error)
            started.abort()

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(runs))]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):
        started.wait()
    began = time.perf_counter()
    ends[0] = began + _MEASURE_S
    for thread in threads:
        thread.join()
    if not failures:
        return sum(counts) / (time.perf_counter() - began)
    if len(runs) == 1:
        raise failures[0]
    _log.warning("%d workers cannot run at once: %s", len(runs), failures[0])
    return 0.0
