"""A limit on what this process may take while something hostile is read, where the system can limit it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXTRA_BYTES = 512 << 20
SECONDS = 5.0


@contextmanager
def confined(extra_bytes: int = EXTRA_BYTES, seconds: float = SECONDS) -> Iterator[None]:
    """Fail where the block takes more memory (a MemoryError comes of that) or more processor time."""
    status = Path("/proc/self/status")
    started = time.process_time()
    if status.exists():
        import resource

        before = resource.getrlimit(resource.RLIMIT_DATA)
        used = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if "VmData" in line)
        resource.setrlimit(resource.RLIMIT_DATA, (used + extra_bytes, before[1]))
    try:
        yield
    finally:
        if status.exists():
            resource.setrlimit(resource.RLIMIT_DATA, before)
    took = time.process_time() - started
    assert took < seconds, f"it took {took:.1f} s of processor time"
