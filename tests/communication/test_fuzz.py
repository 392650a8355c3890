"""Damaged frames of every kind: decoded or refused, within the memory that the bounds allow. A longer run is `long`."""

from __future__ import annotations

import resource
import tracemalloc

import pytest
from hostile.wire import MAX_BYTES, run

# What may wait, one message of the largest, and what decoding it takes.
ALLOWED_BYTES = 8 * MAX_BYTES


def test_hostile_frames_are_refused_in_bounded_memory() -> None:
    run(100, 0)  # what is loaded once
    tracemalloc.start()
    counts = run(4000, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < ALLOWED_BYTES
    # Both happen to each kind, or the fuzzer would not reach what lies behind the checksum.
    kinds = {kind for kind, _ in counts}
    assert len(kinds) == 8
    assert all(counts[kind, "taken"] and counts[kind, "refused"] for kind in kinds)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_hostile_frames_leave_memory_flat() -> None:
    run(20_000, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(1_000_000, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10
