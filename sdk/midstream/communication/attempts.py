"""When a request is sent again whose answer does not come: a decision on a clock that is passed in."""

from __future__ import annotations

# What a loaded machine may be late without that something is lost.
_SLACK_S = 0.1
_EXPECTED_TIMES = 2.0
_MOST_UNHEARD = 5


class Attempts:
    """Of one request: it is expected to be answered ``expected_s`` after it was sent, and is of use until ``until_s``.

    The first answer is waited for twice as long as expected and 0.1 s more, each further one twice as long as the one
    before. It is sent again as long as it could still be answered in time, and at most five times without a sign of
    life. Not thread-safe.
    """

    def __init__(self, sent_s: float, expected_s: float, until_s: float) -> None:
        self._expected_s = expected_s
        self._until_s = until_s
        self._wait_s = _EXPECTED_TIMES * expected_s + _SLACK_S
        self._heard_s = sent_s
        self.sent_s = sent_s
        self.count = 1
        self._unheard = 0

    @property
    def ignored(self) -> bool:
        """Whether it was sent again, and not even that was heard of."""
        return self._unheard > 0

    @property
    def due_s(self) -> float | None:
        """When something is to be done if nothing has been heard by then; None where that is of no more use."""
        due_s = self._heard_s + self._wait_s
        return due_s if self._in_time(due_s) else None

    def may_send(self, now_s: float) -> bool:
        """Whether one more attempt may be made, and could be answered in time."""
        return self._unheard < _MOST_UNHEARD and self._in_time(now_s)

    def heard(self, now_s: float) -> None:
        """The peer has it, or is getting it: there is no hurry."""
        self._heard_s = max(self._heard_s, now_s)
        self._unheard = 0

    def put_off(self, now_s: float) -> None:
        """It is not sent again: wait as long as for the last attempt."""
        self._heard_s = max(self._heard_s, now_s)

    def _in_time(self, now_s: float) -> bool:
        return now_s + self._expected_s < self._until_s

    def sent(self, now_s: float) -> None:
        """It was sent again."""
        self.count += 1
        self._unheard += 1
        self._wait_s *= 2
        self._heard_s = self.sent_s = now_s
