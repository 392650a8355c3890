"""A file that follows what is in memory: how often it is written, and that nobody waits for that."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from midstream.background_file import WRITE_EVERY_S, BackgroundFile


class Watched:
    """A content that counts how often it is asked for, and can be held up; and the clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.asked = 0
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()

    def content(self) -> bytes:
        self.asked += 1
        self.begun.set()
        assert self.free.wait(20)
        return b"%d" % self.asked

    def clock(self) -> float:
        return self.now_s


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "midstream-state"]


def test_it_is_written_at_most_once_a_minute_and_once_at_the_end(tmp_path: Path) -> None:
    watched = Watched()
    file = BackgroundFile(tmp_path / "state", watched.content, watched.clock)
    for second in range(int(3 * WRITE_EVERY_S)):
        watched.begun.clear()
        file.changed()
        if second and not second % WRITE_EVERY_S:
            assert watched.begun.wait(20)
            for thread in writers():
                thread.join()
        watched.now_s += 1
    file.flush()
    assert watched.asked == 3
    assert (tmp_path / "state").read_bytes() == b"3"
    file.flush()
    assert watched.asked == 3


def test_who_reports_a_change_does_not_wait_for_a_slow_write(tmp_path: Path) -> None:
    watched = Watched()
    file = BackgroundFile(tmp_path / "state", watched.content, watched.clock)
    watched.free.clear()
    watched.now_s += WRITE_EVERY_S
    file.changed()
    assert watched.begun.wait(20)
    watched.now_s += WRITE_EVERY_S
    file.changed()  # comes back, though the write before is not done
    watched.free.set()
    file.flush()
    assert (tmp_path / "state").read_bytes() == b"2"
    assert not writers()


def test_what_cannot_be_written_is_said_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    file = BackgroundFile(tmp_path / "not yet" / "state", watched.content, watched.clock)
    file.changed()
    with caplog.at_level(logging.WARNING):
        file.flush()
    assert "could not be written" in caplog.text
    (tmp_path / "not yet").mkdir()
    file.flush()
    assert (tmp_path / "not yet" / "state").read_bytes() == b"2"
