"""A stream of frames of which only the newest counts: what comes while one is worked on replaces what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Frame = TypeVar("Frame")
Answer = TypeVar("Answer")


class FrameStream(Generic[Frame, Answer]):
    """Frames in, from any thread; each frame that was worked on, and its answer, out. Thread-safe.

    One frame waits at most. Iterating answers it on the iterating thread, so a slow consumer makes no queue either;
    what answering raises ends the iteration. ``offered`` and ``dropped`` count frames. Leaving the ``with`` block, or
    `end`, ends the iteration after the frame that waits.
    """

    def __init__(self, answer: Callable[[Frame], Answer]) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._waiting: list[Frame] = []
        self._ended = False
        self.offered = 0
        self.dropped = 0

    def __enter__(self) -> FrameStream[Frame, Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def offer(self, frame: Frame) -> bool:
        """Let this frame be the next; never blocks. The one that waited is dropped. False where the stream has ended.

        The frame is not copied: a camera's buffer that is filled again must be.
        """
        with self._changed:
            if self._ended:
                return False
            self.offered += 1
            self.dropped += len(self._waiting)
            self._waiting = [frame]
            self._changed.notify()
        return True

    def end(self) -> None:
        """Take no more frames; what waits is still answered."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[tuple[Frame, Answer]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._waiting)
                if not self._waiting:
                    return
                (frame,), self._waiting = self._waiting, []
            yield frame, self._answer(frame)
