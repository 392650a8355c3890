"""The recorder: how often it writes, that nobody waits for that, and what it says where it cannot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from usages import numbers, usage

from midstream.allocation.usage import Usage
from midstream.errors import InputError
from midstream.history import History, Recorder, for_device, for_gateway
from midstream.history.recorder import DEVICE_EVERY_S, RETRY_S
from midstream.history.store import MIN_BYTES, Store

WAIT_S = 20.0


class Watched:
    """A clock that stands, and a disk that can be held up or be full; counts the writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.fails: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()
        self.writes: list[list[int]] = []
        self.tried = threading.Semaphore(0)
        append = Store.append

        def watched(store: Store, usages: Sequence[Usage]) -> int:
            self.begun.set()
            assert self.free.wait(WAIT_S)
            try:
                if self.fails is not None:
                    raise self.fails
                done = append(store, usages)
                self.writes.append(numbers(list(usages)))
                return done
            finally:
                self.tried.release()

        monkeypatch.setattr(Store, "append", watched)

    def clock(self) -> float:
        return self.now_s

    def wait(self) -> None:
        """For a write, or an attempt at one."""
        assert self.tried.acquire(timeout=WAIT_S)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@contextmanager
def running(recorder: Recorder) -> Iterator[Recorder]:
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.close()
        assert not [each for each in threading.enumerate() if each.name == "midstream-history"]


def kept(path: Path) -> list[int]:
    with History.open(path) as history:
        return numbers(list(history))


def test_a_device_writes_at_most_once_a_minute_and_at_the_end(tmp_path: Path, watched: Watched) -> None:
    recorder = Recorder(tmp_path / "h", MIN_BYTES, DEVICE_EVERY_S, clock=watched.clock)
    with running(recorder):
        for second in range(185):
            recorder.record(usage(second))
            if second and not second % DEVICE_EVERY_S:
                watched.wait()
            watched.now_s += 1
        assert [len(write) for write in watched.writes] == [61, 60, 60]
    assert watched.writes[3:] == [[181, 182, 183, 184]]
    assert kept(tmp_path / "h") == list(range(185))


def test_a_gateway_writes_without_being_told_of_more(tmp_path: Path, watched: Watched) -> None:
    recorder = Recorder(tmp_path / "h", MIN_BYTES, 0.01)
    with running(recorder):
        recorder.record(usage(1))
        watched.wait()
        assert kept(tmp_path / "h") == [1]
    assert watched.writes == [[1]]


def test_it_can_be_started_again(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "h", MIN_BYTES, 60)
    recorder.close()
    recorder.record(usage(0))
    for number in (1, 2):
        with running(recorder):
            recorder.record(usage(number))
    recorder.close()
    assert kept(tmp_path / "h") == [0, 1, 2]


def test_nothing_is_there_where_nothing_was_recorded(tmp_path: Path) -> None:
    with running(Recorder(tmp_path / "h", MIN_BYTES, 60)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_for_a_slow_disk_and_the_newest_are_kept(
    tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "h", MIN_BYTES, 60, capacity=100, clock=watched.clock)
    with caplog.at_level(logging.WARNING), running(recorder):
        watched.free.clear()
        watched.now_s += 60
        recorder.record(usage(0))
        assert watched.begun.wait(WAIT_S)
        for number in range(1, 1001):
            recorder.record(usage(number))
        assert (recorder.lost, recorder.waiting) == (900, 100)
        watched.free.set()
    assert kept(tmp_path / "h") == [0, *range(901, 1001)]
    assert [message for message in caplog.messages if "rows were not kept" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_trouble_is_said_once_and_tried_again(
    tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "h", MIN_BYTES, 1.0, capacity=5, clock=watched.clock)
    watched.fails = OSError(28, "No space left on device")
    with caplog.at_level(logging.WARNING), running(recorder):
        for attempt in range(3):
            watched.now_s += RETRY_S
            recorder.record(usage(attempt))
            watched.wait()
            watched.now_s += RETRY_S / 2
            recorder.record(usage(10 + attempt))  # not yet
        watched.fails = None
        watched.now_s += RETRY_S
        recorder.record(usage(20))
        watched.wait()
    assert caplog.messages[0] == (
        f"{tmp_path / 'h'}: what requests use is not kept: [Errno 28] No space left on device; it is tried again "
        "every 30 s"
    )
    assert [message.split(": ", 1)[1].split(",")[0] for message in caplog.messages[1:]] == [
        "what requests use is kept again",
        "2 rows were not kept",
    ]
    assert kept(tmp_path / "h") == [1, 2, 11, 12, 20]
    assert (recorder.lost, watched.tried._value) == (2, 0)


def test_what_is_no_usage_is_counted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "h", MIN_BYTES, 60)
    with running(recorder):
        recorder.record(usage(0, time_s=float("inf")))
        recorder.record(usage(1))
    assert (kept(tmp_path / "h"), recorder.lost) == ([1], 1)


def test_rows_come_from_many_threads(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "h", 4 << 20, 0.001)

    def ask(caller: int) -> None:
        for number in range(500):
            recorder.record(usage(1000 * caller + number))

    with running(recorder):
        threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(kept(tmp_path / "h")) == [1000 * caller + number for caller in range(4) for number in range(500)]


@pytest.mark.parametrize("make", [for_gateway, for_device])
def test_another_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], Recorder]) -> None:
    (tmp_path / "notes").write_text("these are mine")
    for wrong in (tmp_path / "notes", tmp_path, tmp_path / "none" / "h"):
        with pytest.raises(InputError):
            make(wrong)
    assert (tmp_path / "notes").read_text() == "these are mine"


def test_a_file_put_in_its_place_later_is_left_alone(
    tmp_path: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "h"
    recorder = Recorder(path, MIN_BYTES, 1.0, clock=watched.clock)
    with running(recorder):
        path.write_text("these are mine")
        with caplog.at_level(logging.WARNING):
            watched.now_s += 1
            recorder.record(usage(1))
            watched.wait()
        assert path.read_text() == "these are mine"
        path.unlink()
    assert "is there, and is no history" in caplog.text
    assert kept(path) == [1]
