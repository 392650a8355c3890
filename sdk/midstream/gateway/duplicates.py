"""Requests that come again: one that runs is not run twice, one that was answered is answered from here."""

from __future__ import annotations

from dataclasses import dataclass

from midstream.communication.wire import Buffer, Request, content_tag

MAX_ANSWERS = 512
MAX_ANSWER_BYTES = 32 << 20
ANSWER_AGE_S = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a request is known by: who asks, under which id, and what, but for the time that remains.

    ``tag`` is the CRC-32C of the message when ``deadline_ms`` remained.
    """

    device_id: str
    request_id: bytes
    size_bytes: int
    deadline_ms: int
    tag: bytes

    def is_of(self, device_id: str, request: Request, message: Buffer) -> bool:
        """Whether this message asks the same."""
        return (self.device_id, self.request_id, self.size_bytes) == (
            device_id,
            request.request_id,
            len(message),
        ) and self.tag == content_tag(message, self.deadline_ms)


def identity(device_id: str, request: Request, message: Buffer) -> Identity:
    """What this request is known by from now on."""
    tag = content_tag(message, request.deadline_ms)
    return Identity(device_id, request.request_id, len(message), request.deadline_ms, tag)


@dataclass(frozen=True, slots=True)
class _Answer:
    identity: Identity
    message: bytes
    at_s: float


class Ledger:
    """What runs, and the answers of the last 30 s: at most 512, and 32 MiB of them. Not thread-safe.

    Time is passed in, on one clock. How much runs at once is bounded by whoever lets it in.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, bytes], Identity] = {}
        self._answered: dict[tuple[str, bytes], _Answer] = {}
        self._bytes = 0

    @property
    def answer_bytes(self) -> int:
        """Bytes of the answers that are kept."""
        return self._bytes

    def runs(self, device_id: str, request: Request, message: Buffer) -> bool:
        """Whether this very request is waiting or running."""
        known = self._running.get((device_id, request.request_id))
        return known is not None and known.is_of(device_id, request, message)

    def answer(self, device_id: str, request: Request, message: Buffer, now_s: float) -> bytes | None:
        """The reply that this very request had, where it is still kept."""
        self._expire(now_s)
        entry = self._answered.get((device_id, request.request_id))
        return entry.message if entry is not None and entry.identity.is_of(device_id, request, message) else None

    def begin(self, identity: Identity) -> None:
        """A request was let in; another of this device under the same id is no longer known."""
        self._running[identity.device_id, identity.request_id] = identity

    def end(self, identity: Identity, answer: bytes | None, now_s: float) -> None:
        """It runs no longer; with an answer that stands."""
        key = (identity.device_id, identity.request_id)
        if self._running.get(key) is identity:
            del self._running[key]
        if answer is None or len(answer) > MAX_ANSWER_BYTES:
            return
        self._drop(key)
        self._answered[key] = _Answer(identity, answer, now_s)
        self._bytes += len(answer)
        while len(self._answered) > MAX_ANSWERS or self._bytes > MAX_ANSWER_BYTES:
            self._drop(next(iter(self._answered)))
        self._expire(now_s)

    def _expire(self, now_s: float) -> None:
        while self._answered:
            oldest, entry = next(iter(self._answered.items()))
            if now_s - entry.at_s <= ANSWER_AGE_S:
                return
            self._drop(oldest)

    def _drop(self, key: tuple[str, bytes]) -> None:
        entry = self._answered.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.message)
