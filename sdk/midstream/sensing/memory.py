"""How much memory is free to take: what the system has, or what the limit of a container or service leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from midstream.sensing.reading import ROOT, number_in, text_in
from midstream.sensing.system import available_bytes

_MOST_TEXT = 1 << 16
# The older groups have a number for none: 2⁶³ less a page.
_NO_LIMIT = 1 << 62


def free_memory_bytes(root: Path = ROOT) -> int | None:
    """Bytes that this process could still take; None where the system does not say."""
    free = [left for left in (available_bytes(), limit_leaves_bytes(root)) if left is not None]
    return min(free, default=None)


def limit_leaves_bytes(root: Path = ROOT) -> int | None:
    """What the tightest limit of this process's control groups leaves; None where there is no limit.

    File pages that were not used of late can be given up at once and count as free, as in the working set of
    Kubernetes: limit − (usage − inactive_file).
    """
    left = [group.left_bytes() for group in _groups(root)]
    return min((free for free in left if free is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Group:
    """The files of a control group; ``inactive`` is the name in its ``stat`` of what can be given up."""

    limit: Path
    usage: Path
    stat: Path
    inactive: str

    def left_bytes(self) -> int | None:
        most = number_in(self.limit)
        if most is None or most >= _NO_LIMIT:
            return None
        used = number_in(self.usage)
        found = re.search(rf"^{self.inactive} (\d{{1,18}})$", text_in(self.stat, _MOST_TEXT), re.MULTILINE)
        return None if used is None else max(0, int(most - used) + (int(found[1]) if found else 0))


@cache
def _groups(root: Path) -> tuple[_Group, ...]:
    """The groups that this process is in, of both kinds; it stays in them."""
    groups: list[_Group] = []
    for line in text_in(root / "proc/self/cgroup", _MOST_TEXT).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            groups += _around(root / "sys/fs/cgroup", path, *names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            groups += _around(root / "sys/fs/cgroup/memory", path, *names)
    return tuple(groups)


def _around(mounted: Path, path: str, limit: str, usage: str, inactive: str) -> Iterator[_Group]:
    """A group and all around it; a container sees its own group as the outermost one."""
    inner = PurePosixPath(path.lstrip("/"))
    if ".." in inner.parts:
        inner = PurePosixPath()
    for folder in (mounted / inner, *(mounted / outer for outer in inner.parents)):
        if (folder / limit).exists():
            yield _Group(folder / limit, folder / usage, folder / "memory.stat", inactive)
