"""A request under way: where it was sent, what is expected of it, what has come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstream.communication.attempts import Attempts
from midstream.communication.destination import Destination
from midstream.communication.wire import Reply, Request, Status


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of the way to a gateway: round trip, queue and the request's work there, ms; the uplink, kbit/s.

    ``takes_parity`` says that the gateway can use parity chunks; ``reply_ms`` is what the reply takes on the downlink.
    """

    round_trip_ms: float
    queue_ms: float
    work_ms: float
    uplink_kbps: float
    takes_parity: bool = False
    reply_ms: float = 0.0

    def answer_s(self, size_bytes: int) -> float:
        """When the answer to so many bytes should be there."""
        transfer_ms = size_bytes * 8 / self.uplink_kbps if self.uplink_kbps > 0 else 0.0
        return (self.round_trip_ms + self.queue_ms + self.work_ms + transfer_ms + self.reply_ms) / 1e3


@dataclass
class InFlight:
    """A message of which the broker has not acknowledged every chunk; ``way`` is what its way up is known by.

    Of one of quality of service 0, nobody says whether it has arrived anywhere.
    """

    size_bytes: int
    chunks: int
    qos: int
    unacked: int
    way: Any


@dataclass
class Pending:
    """A request, under way or done. ``problem`` says why there is no reply; with ``lost`` another gateway may be asked.

    ``destination`` is where it was sent, ``bearers`` are who has it, or may, and at last who has answered;
    ``elsewhere`` says whether they are silent since then, and somebody else could be asked, and ``silent`` that it was
    lost because of that. Of several stages, ``partial`` are the replies of those before the last, and ``outputs`` is
    how many outputs they all bring (None: as many as the reply). ``held_ms`` is how long it waited for others to be
    sent with; ``sent_bytes`` is its share of what they took. ``urgent`` is one that goes, and is answered, over the
    second connection. ``attempts`` is there once it was sent and may be sent again, ``transfer`` is how it was sent
    last and ``first`` at first, ``trouble`` says what came instead of an answer, ``damaged`` how many answers could not
    be read.
    """

    request: Request
    destination: Destination
    expected: Expected
    started: float
    until: float
    bearers: frozenset[str]
    outputs: int | None = None
    reply: Reply | None = None
    partial: tuple[Reply, ...] = ()
    taken: bool = False
    lost: bool = False
    silent: bool = False
    elsewhere: Callable[[frozenset[str], float], bool] = lambda _bearers, _since_s: False
    sent_bytes: int = 0
    received_bytes: int = 0
    problem: str | None = None
    held_ms: float = 0.0
    urgent: bool = False
    rouse: Callable[[], None] = lambda: None
    asker: int = field(default_factory=threading.get_ident)
    message_id: bytes | None = None
    attempts: Attempts | None = None
    transfer: InFlight | None = None
    first: InFlight | None = None
    trouble: str | None = None
    damaged: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def request_id(self) -> bytes:
        """The id of the request."""
        return self.request.request_id

    def add(self, reply: Reply) -> bool:
        """A reply has come: whether nothing more is to come. What one brings a second time is passed over."""
        if reply.partial and self.outputs is not None:
            if all(reply.outputs != other.outputs for other in self.partial):
                self.partial += (reply,)
        elif self.reply is None:
            self.reply = reply
        if self.reply is None:
            return False
        brought = sum(len(each.outputs) for each in (self.reply, *self.partial))
        return self.reply.status is not Status.OK or self.outputs is None or brought >= self.outputs

    def fail(self, problem: str) -> None:
        """No reply will come, for this reason."""
        if not self.done.is_set():
            self.problem = problem
            self.finish()

    def finish(self) -> None:
        """Nothing more is to come; who waits for it may be reading the other connection."""
        self.done.set()
        if self.asker != threading.get_ident():
            self.rouse()


def fail(asked: Sequence[Pending], problem: str) -> None:
    """No reply will come to these, for this reason."""
    for pending in asked:
        pending.fail(problem)
