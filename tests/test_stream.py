"""Streams of frames: the newest waits, older ones are dropped and counted."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from midstream.stream import FrameStream

Frame = np.ndarray


def frame(number: int) -> Frame:
    return np.full((2, 2), number)


def number_of(one: Frame) -> int:
    return int(one[0, 0])


def test_only_the_newest_waits() -> None:
    with FrameStream(number_of) as stream:
        assert all(stream.offer(frame(number)) for number in range(5))
        stream.end()
        assert [(number_of(one), answer) for one, answer in stream] == [(4, 4)]
    assert (stream.offered, stream.dropped) == (5, 4)


def test_frames_that_come_while_one_is_worked_on_replace_each_other() -> None:
    stream = FrameStream(number_of)
    stream.offer(frame(0))
    found = []
    for _, answer in stream:
        found.append(answer)
        if answer < 30:
            for step in range(1, 4):
                stream.offer(frame(answer + step))
        else:
            stream.end()
    assert found == list(range(0, 31, 3))
    assert (stream.offered, stream.dropped) == (31, 20)


def test_it_waits_for_a_frame_of_another_thread_and_ends_with_the_block() -> None:
    found: list[int] = []
    with FrameStream(number_of) as stream:
        consumer = threading.Thread(target=lambda: found.extend(answer for _, answer in stream))
        consumer.start()
        stream.offer(frame(7))
    consumer.join(20)
    assert not consumer.is_alive()
    assert found == [7]
    assert not stream.offer(frame(8))


def test_what_answering_raises_comes_out_of_the_iteration() -> None:
    def fail(_: Frame) -> int:
        raise RuntimeError("no answer")

    stream = FrameStream(fail)
    stream.offer(frame(1))
    with pytest.raises(RuntimeError, match="no answer"):
        next(iter(stream))
