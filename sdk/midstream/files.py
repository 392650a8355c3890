"""Files that somebody else named: opened only where they are regular ones, never waited for, and known again."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path

# Without O_NONBLOCK a pipe in a file's place would wait for a writer for ever. Windows has only O_BINARY of these.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_PART = re.compile(r"\.midstream-[0-9a-f]{16}\.part")


@contextmanager
def regular_file(path: Path, *, follow_links: bool = True) -> Iterator[BufferedReader]:
    """A regular file to be read; raises OSError for anything else too: a folder, a pipe, a device, an unasked link."""
    try:
        if not follow_links and path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link", str(path))
        descriptor = os.open(path, _FLAGS | (0 if follow_links else _NO_LINK))
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        file = os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise
    with file:
        yield file


def read_at_most(path: Path, limit: int) -> bytes:
    """A regular file, whole; raises OSError as `regular_file` does, and where it is larger than ``limit``."""
    with regular_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return content


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file that takes the place of one that is there, whole or not at all. Raises OSError.

    A ``private`` one is its owner's alone from the first moment on.
    """
    with writing_whole(path, private=private) as file:
        file.write(content)


@contextmanager
def writing_whole(path: Path, *, private: bool = False) -> Iterator[BufferedWriter]:
    """`write_whole` of what is written within the block; where that raises, nothing has happened."""
    part = _part(path)
    mode = 0o600 if private else 0o666
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise OSError where `write_whole` could not begin to write this file."""
    part = _part(path)
    part.touch(exist_ok=False)
    part.unlink()


def is_part(name: str) -> bool:
    """Whether `write_whole` leaves a file of this name where it is killed."""
    return _PART.fullmatch(name) is not None


def _part(path: Path) -> Path:
    return path.with_name(f".midstream-{secrets.token_hex(8)}.part")


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file it was, and as of when: another file in its place, or a change to it, gives another identity."""

    device: int
    inode: int
    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity of a file whose status this is."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
