"""How much memory is free to take: what the system has, or what the limit of a container or service leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from midstream.sensing.reading import ROOT, number_in, text_in
from midstream.sensing.system import available_bytes

_MOST_TEXT = 1 << 16


def free_memory_bytes(root: Path = ROOT) -> int | None:
    """Bytes that this process could still take; None where the system does not say."""
    free = [left for left in (available_bytes(), limit_leaves_bytes(root)) if left is not None]
    return min(free, default=None)


def limit_leaves_bytes(root: Path = ROOT) -> int | None:
    """What the tightest limit of this process's control groups leaves; None where there is no limit.

    File pages that were not used of late can be given up at once and count as free, as in the working set of
    Kubernetes: limit − (usage − inactive_file).
    """
    return min(_left(root), default=None)


def _left(root: Path) -> Iterator[int]:
    for line in text_in(root / "proc/self/cgroup", _MOST_TEXT).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield from _left_below(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_below(root / "sys/fs/cgroup/memory", path, *names)


def _left_below(mounted: Path, path: str, limit: str, usage: str, inactive: str) -> Iterator[int]:
    """What is left in a group and all around it; a container sees its own group as the outermost one."""
    inner = PurePosixPath(path.lstrip("/"))
    if ".." in inner.parts:
        inner = PurePosixPath()
    for group in (mounted / inner, *(mounted / outer for outer in inner.parents)):
        most, used = number_in(group / limit), number_in(group / usage)
        if most is not None and used is not None:
            match = re.search(rf"^{inactive} (\d{{1,18}})$", text_in(group / "memory.stat", _MOST_TEXT), re.MULTILINE)
            yield max(0, int(most - used) + (int(match[1]) if match else 0))
