"""Replies that go out together: those to one device's packed requests, as far as they are ready at once."""

from __future__ import annotations

from midstream.communication.packing import FULL_BYTES, SMALL_BYTES
from midstream.communication.packs import MAX_PACKED, packed_bytes, request_id_of

# The first reply waits no longer than this for the next to be ready, and only where it has ten times as long.
_LONGEST_HOLD_S = 0.002
_ENOUGH_S = 10 * _LONGEST_HOLD_S


class HeldReplies:
    """The encoded replies to one device that a worker has ready while it goes on to the next request. Not thread-safe.

    ``pack_bytes`` is how long a pack may be. Time is passed in.
    """

    def __init__(self) -> None:
        self.device_id = ""
        self.messages: list[bytes] = []
        self.deadline = 0.0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self.messages)

    def waits_for(self, device_id: str, work_s: float, now: float) -> bool:
        """Whether these may wait for the reply to a request of this device that takes so long."""
        return device_id == self.device_id and now + work_s <= self._since + _LONGEST_HOLD_S

    def takes(self, device_id: str, message: bytes, deadline: float, now: float, pack_bytes: int) -> bool:
        """Whether this reply may wait, with those that do already."""
        together = [*self.messages, message]
        return (
            deadline - now >= _ENOUGH_S
            and len(message) <= SMALL_BYTES
            and (not self.messages or device_id == self.device_id)
            and len(together) <= MAX_PACKED
            and packed_bytes(together) <= min(pack_bytes, FULL_BYTES)
            # A device may ask two things under one id.
            and request_id_of(message) not in map(request_id_of, self.messages)
        )

    def add(self, device_id: str, message: bytes, deadline: float, now: float) -> None:
        """Keep a reply."""
        if not self.messages:
            self.device_id, self._since, self.deadline = device_id, now, deadline
        self.messages.append(message)
        self.deadline = max(self.deadline, deadline)

    def take(self) -> list[bytes]:
        """All of them; none waits any more."""
        messages, self.messages = self.messages, []
        return messages
