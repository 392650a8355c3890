"""An emulated link that follows a trace."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from midstream.link import LinkEmulator
from midstream.traces import Trace


def changes(trace: Trace) -> Iterator[tuple[float, int]]:
    """When each row begins, in seconds from the start of the trace, and its number; for ever."""
    for period in itertools.count():
        for row, start_s in enumerate(trace.starts_s.tolist()):
            yield period * trace.period_s + start_s, row


def first_up(trace: Trace) -> int | None:
    """The first row in which the link is up both ways; None where it never is."""
    both = (trace.uplink_kbps > 0) & (trace.downlink_kbps > 0)
    return int(both.argmax()) if both.any() else None


def shape(link: LinkEmulator, trace: Trace, row: int) -> None:
    """Make the link what it is in this row; down in one direction is down."""
    up, down = trace.uplink_kbps.item(row), trace.downlink_kbps.item(row)
    if not up or not down:
        link.cut()
        return
    link.set(uplink_kbps=up, downlink_kbps=down, rtt_ms=trace.rtt_ms.item(row))
    link.restore()


def unshape(link: LinkEmulator) -> None:
    """As fast as it goes."""
    link.set(uplink_kbps=None, downlink_kbps=None, rtt_ms=0.0)
    link.restore()


@contextmanager
def following(link: LinkEmulator, trace: Trace, start_s: float) -> Iterator[None]:
    """The link follows the trace, which begins at this time of `time.monotonic`, until the block ends."""
    ended = threading.Event()

    def follow() -> None:
        for at_s, row in changes(trace):
            if ended.wait(max(0.0, start_s + at_s - time.monotonic())):
                return
            shape(link, trace, row)

    thread = threading.Thread(target=follow, name="midstream-trace", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
