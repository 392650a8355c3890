"""What waits for its turn on a connection: by class, bounded, and taken back where nobody waits for it any more."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from midstream.communication.mqtt import variable_length
from midstream.communication.wire import Priority

# Of so many messages one is that which waits longest, whatever its class: so bulk never waits for ever.
FAIR_TURN: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Publish:
    """A message to send, with its properties as they are on the wire.

    ``sent_s`` is when it was handed over, ``expires_s`` until when it is of use, both on `time.perf_counter`.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: bytes
    on_ack: Callable[[float], None] | None
    sent_s: float
    expires_s: float | None = None
    correlation: bytes | None = None
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True, eq=False)
class Subscribe:
    """Topics to ask for."""

    topic_filter: str
    qos: int


@dataclass(frozen=True, slots=True, eq=False)
class Unsubscribe:
    """Topics to ask for no longer."""

    topic_filter: str


Item = Publish | Subscribe | Unsubscribe


class Outbox:
    """A queue of at most ``max_bytes`` of payload and one message more. Thread-safe.

    Critical messages go before normal ones, those before bulk, and of one class the oldest; but every eighth that goes
    is the oldest of all.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # By class; each item with its number, which tells its age.
        self._items: dict[Priority, deque[tuple[int, Item]]] = {each: deque() for each in Priority}
        self._number = 0
        self._turn = 0
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of payload that wait."""
        return self._bytes

    def put(self, item: Item) -> bool:
        """Add it at the end; False where it has a payload and as much as is allowed waits already."""
        size = _size(item)
        with self._lock:
            if size and self._bytes >= self._max_bytes:
                return False
            self._items[_class(item)].append((self._number, item))
            self._number += 1
            self._bytes += size
        return True

    def take(self, now_s: float) -> Item | None:
        """The next one, without those that have expired by now; None where there is none."""
        with self._lock:
            while waiting := [items for items in self._items.values() if items]:
                fair = self._turn % FAIR_TURN == FAIR_TURN - 1
                items = min(waiting, key=lambda items: items[0][0]) if fair else waiting[0]
                _, item = items.popleft()
                self._bytes -= _size(item)
                if not isinstance(item, Publish) or item.expires_s is None or now_s <= item.expires_s:
                    # Where nothing else waits, nobody is passed over.
                    self._turn = self._turn + 1 if len(waiting) > 1 else 0
                    return item
        return None

    def withdraw(self, correlation: bytes) -> None:
        """Drop every message with this correlation data."""
        with self._lock:
            for each, items in self._items.items():
                if items:
                    self._items[each] = deque(
                        entry
                        for entry in items
                        if not isinstance(entry[1], Publish) or entry[1].correlation != correlation
                    )
            self._bytes = sum(_size(item) for items in self._items.values() for _, item in items)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            for items in self._items.values():
                items.clear()
            self._bytes = 0


def pack_properties(correlation: bytes | None, response_topic: str | None, expiry_s: int | None) -> bytes:
    """What travels beside a payload (section 3.3.2.3 of the MQTT 5 standard); empty where there is nothing."""
    body = b""
    if expiry_s is not None:
        body += struct.pack("!BI", 0x02, expiry_s)
    if response_topic is not None:
        name = response_topic.encode()
        body += struct.pack("!BH", 0x08, len(name)) + name
    if correlation is not None:
        body += struct.pack("!BH", 0x09, len(correlation)) + correlation
    return variable_length(len(body)) + body if body else b""


def _size(item: Item) -> int:
    return len(item.payload) if isinstance(item, Publish) else 0


def _class(item: Item) -> Priority:
    return item.priority if isinstance(item, Publish) else Priority.CRITICAL
