"""What this machine is: its name, cores and memory, which shipped board is nearest, and how busy it is."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from midstream.errors import printable
from midstream.sensing.reading import ROOT, text_in
from midstream.sensing.system import usable_cores

# What /proc/device-tree/model begins with.
_BOARDS = (
    ("Raspberry Pi Zero 2", "pi-zero-2w"),
    ("Raspberry Pi 3", "pi3"),
    ("Raspberry Pi 4", "pi4"),
    ("Raspberry Pi 400", "pi4"),
    ("Raspberry Pi Compute Module 4", "pi4"),
    ("Raspberry Pi 5", "pi5"),
    ("Raspberry Pi Compute Module 5", "pi5"),
    ("Freescale i.MX8MQ Phanbell", "coral-dev"),
    ("NVIDIA Jetson Nano", "jetson-nano"),
    ("NVIDIA Jetson Orin Nano", "jetson-orin-nano"),
)
_X86 = ("x86_64", "amd64", "i686")
_MOST_NAME = 60
_MOST_TEXT = 1 << 16


@dataclass(frozen=True, slots=True)
class Machine:
    """``nearest`` is the shipped profile whose figures stand in for those that cannot be measured here.

    ``memory_mb`` is None where the system does not say.
    """

    title: str
    cores: int
    memory_mb: int | None
    nearest: str


def this_machine(root: Path = ROOT) -> Machine:
    """The machine this runs on; ``cores`` are those that this process may use."""
    memory_mb = _memory_mb(text_in(root / "proc/meminfo", _MOST_TEXT))
    board = printable(text_in(root / "proc/device-tree/model", _MOST_TEXT).strip("\0\n "), _MOST_NAME)
    title = board or _processor(text_in(root / "proc/cpuinfo", _MOST_TEXT)) or platform.machine() or "this machine"
    cores = len(usable_cores())
    return Machine(title, cores, memory_mb, nearest_board(board, platform.machine(), cores))


def nearest_board(model: str, architecture: str, cores: int) -> str:
    """The shipped profile of a board by its device tree's model, else one of the same architecture."""
    for beginning, name in sorted(_BOARDS, key=lambda board: -len(board[0])):
        if model.startswith(beginning):
            return name
    if architecture.lower() in _X86:
        return "x86-laptop" if cores > 4 else "x86-mini"
    return "pi4"


def file_name(title: str) -> str:
    """A name for a profile of this machine: lower case, digits and hyphens."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:_MOST_NAME].strip("-")
    return words or "this-machine"


def load_average() -> float | None:
    """How many processes wanted a core in the last minute, on average."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _processor(cpuinfo: str) -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return printable(match[1].strip(), _MOST_NAME) if match else ""


def _memory_mb(meminfo: str) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d{4,15}) kB", meminfo, re.MULTILINE)
    return int(match[1]) // 1024 if match else None
