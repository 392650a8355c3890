"""Small files of the kernel's, and the Raspberry Pi's program. Nothing here raises: what cannot be read is empty."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

ROOT = Path("/")
_TIMEOUT_S = 2.0
_MAX_TEXT = 1 << 16


def text_in(path: Path, most_bytes: int = 256) -> str:
    """The beginning of a file, without white space around it; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(most_bytes).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def number_in(path: Path) -> float | None:
    """A file's one number; what a driver without a value writes, such as ``nan``, is none."""
    try:
        value = float(text_in(path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def vcgencmd(*arguments: str) -> str:
    """What the Raspberry Pi's program prints within 2 s; "" where there is none, or it fails. Starts a process."""
    program = shutil.which("vcgencmd")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout[:_MAX_TEXT].decode("utf-8", "replace")
