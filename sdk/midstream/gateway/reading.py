"""The connection, read by a worker that has nothing else to do, so that what comes needs no other thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from midstream.communication.lanes import Lanes

# Who reads looks around at least so often.
_ATTEND_S = 10.0


class Reading:
    """The connection, as long as a worker reads it: while it waits, and while it runs what takes next to nothing.

    Handing it to another thread and back would take longer than that.
    """

    def __init__(self, transport: Lanes) -> None:
        self._transport = transport
        self._attended = ExitStack()
        self._attend: Callable[[Callable[[], bool], float], bool] | None = None

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait(self, done: Callable[[], bool]) -> bool:
        """Read until this is so; False where somebody else reads."""
        if self._attend is None:
            self._attend = self._attended.enter_context(self._transport.attended())
        attended = self._attend(done, _ATTEND_S)
        if not attended:
            self.end()
        return attended

    def end(self) -> None:
        """Leave the connection to its own thread."""
        self._attend = None
        self._attended.close()
