"""Messages over a link that loses chunks, both ways: kept for whoever asks again, asked for again, or made up for.

It belongs to one connection: a device's, whose peers are gateways, or a gateway's. How it publishes is passed in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from midstream.communication.checksum import Buffer, is_sealed
from midstream.communication.chunks import Peeked, Reassembler, chunk_count, peek, split
from midstream.communication.control import TAG_BYTES, Cancel, Control, Missing, Taken, decode_control, encode_control
from midstream.communication.fec import fec_available
from midstream.communication.redundancy import LossEstimate, Way, parity_chunks
from midstream.communication.repair import Repair, RepairRules, Resend
from midstream.errors import WireError

_Key = TypeVar("_Key")

_log = logging.getLogger("midstream.mail")

# Of what was sent, so much is kept for those who ask again.
_MAX_KEPT_BYTES = 64 << 20
_MAX_PEERS = 1024
_MAX_SINGLES = 256
_MAX_COMING = 256
_LONGEST_KEEP_S = 30.0
# A half-finished message of which nothing comes for so long is given up.
_GIVE_UP_S = 10.0
# Until it is known how quickly a peer's chunks follow each other; then so many times that.
_FIRST_QUIET_S = 1.0
_QUIET_GAPS = 4.0
_SMOOTHING = 0.2
# With more losses than these an acknowledgement by the broker says little, and a small message goes without one.
LOSSY = 0.005
_SMALL_BYTES = 64 << 10


@dataclass
class _Kept:
    """A message that was sent, until ``until_s``."""

    chunks: Resend
    size_bytes: int
    until_s: float


@dataclass
class _Coming:
    """A message of which chunks are missing."""

    repair: Repair
    heard_s: float


@dataclass
class _Peer:
    """What is known of the link with a peer: what it loses each way, and the time between two of its chunks."""

    sent: LossEstimate = field(default_factory=LossEstimate)
    came: LossEstimate = field(default_factory=LossEstimate)
    gap_s: float | None = None


class Mail:
    """Cuts messages into chunks and puts them together, and repairs what is lost. Thread-safe.

    ``publish`` sends chunks of a message to a peer again: peer, message id, chunks. ``control`` sends a peer a control
    message. With ``answers`` peers are told which of their messages came complete although chunks were lost. A thread
    of its own asks for chunks that nothing is heard of; `close` ends it.
    """

    def __init__(
        self,
        reassembler: Reassembler,
        publish: Callable[[str, bytes, list[bytes]], None],
        control: Callable[[str, bytes], None],
        *,
        answers: bool,
    ) -> None:
        self.round_trip_s = 0.0
        self._reassembler = reassembler
        self._publish = publish
        self._control = control
        self._answers = answers
        self._changed = threading.Condition()
        # All guarded by _changed.
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[tuple[str, bytes], _Coming] = {}
        self._copied: OrderedDict[tuple[str, bytes, bytes], None] = OrderedDict()
        self._singles: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closed = False

    def chunks(
        self, peer: str, message: bytes, message_id: bytes, chunk_bytes: int, keep_s: float, *, parity: bool, way: Way
    ) -> list[bytes]:
        """The chunks of a message to this peer, with parity where it takes that and it pays; raises WireError.

        For ``keep_s`` seconds they are kept for a peer that asks for some again.
        """
        parts = chunk_count(len(message), chunk_bytes)
        with self._changed:
            loss = self._loss(peer)
        extra = parity_chunks(loss, parts, len(message), way) if parity and fec_available() else 0
        chunks = split(message, message_id, chunk_bytes, extra)
        if parts > 1:
            self.keep(peer, message_id, message, chunks, keep_s)
        return chunks

    def keep(self, peer: str, message_id: bytes, message: bytes, chunks: list[bytes], keep_s: float) -> None:
        """Keep the chunks of a message for a peer that asks for some again, as `chunks` does: at most 30 s."""
        key, now = (peer, message_id), time.monotonic()
        with self._changed:
            self._drop(key)
            for old in [old for old, kept in self._kept.items() if kept.until_s < now]:
                self._drop(old)
            while self._kept and self._kept_bytes + len(message) > _MAX_KEPT_BYTES:
                self._drop(next(iter(self._kept)))
            self._kept[key] = _Kept(
                Resend(message[-TAG_BYTES:], chunks), len(message), now + min(keep_s, _LONGEST_KEEP_S)
            )
            self._kept_bytes += len(message)

    def qos(self, peer: str, size_bytes: int) -> int:
        """The quality of service for a message of this size: without acknowledgement where that would say little."""
        with self._changed:
            return 0 if size_bytes <= _SMALL_BYTES and self._loss(peer) > LOSSY else 1

    def loss(self, peer: str) -> float:
        """The share of chunks, 0 to 1, that the link with this peer has lost lately, the worse way."""
        with self._changed:
            return self._loss(peer)

    def observed(self, peer: str, received: int, sent: int) -> None:
        """Of so many chunks sent to this peer, so many have come."""
        with self._changed:
            about = self._about(peer)
            about.sent = about.sent.after(received, sent)

    def add(self, peer: str, chunk: bytes) -> Buffer | None:
        """The message that this chunk completes, or None. What is missing is asked for.

        Raises WireError as `Reassembler.add` does, but not where the chunk was damaged on the way and its message has
        others, which come anyway or can be asked for.
        """
        now = time.monotonic()
        with self._changed:
            whole, control = self._add(peer, chunk, now)
        if control is not None:
            self._control(peer, encode_control(control))
        return whole

    def control(self, peer: str, payload: bytes) -> Control:
        """Take in a peer's control message; what it asks for is sent. Raises WireError where it is none."""
        control = decode_control(payload)
        if isinstance(control, Cancel):
            self.forget(peer, control.message_id)
            return control
        with self._changed:
            about = self._about(peer)
            about.sent = about.sent.after(control.received, control.span)
            kept = self._kept.get((peer, control.message_id))
            wanted = kept.chunks.answer(control) if kept is not None and isinstance(control, Missing) else []
        if wanted:
            self._publish(peer, control.message_id, wanted)
        return control

    def forget(self, peer: str, message_id: bytes) -> None:
        """Drop what was kept of a message, and what has come of one with this id."""
        with self._changed:
            self._drop((peer, message_id))
            self._coming.pop((peer, message_id), None)
            self._reassembler.forget(peer, message_id)

    def close(self) -> None:
        """Ask for nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _add(self, peer: str, chunk: bytes, now: float) -> tuple[Buffer | None, Control | None]:
        about = peek(chunk)
        if about is not None and (peer, about.message_id, about.tag) in self._copied:
            return None, None
        before = None if about is None else self._reassembler.progress(peer, about.message_id)
        try:
            whole = self._reassembler.add(peer, chunk)
        except WireError:
            if about is None or about.count + about.parity == 1 or is_sealed(memoryview(chunk)):
                raise
            _log.debug("a chunk from %s was damaged on the way", peer)
            return None, None
        if about is None:
            return whole, None
        if about.count == 1:
            self._note_single(peer, about)
            return whole, None
        key = (peer, about.message_id)
        if whole is not None:
            self._coming.pop(key, None)
            received = 1 + (before.received if before is not None else 0)
            span = max(about.index + 1, before.span if before is not None else 0)
            known = self._about(peer)
            known.came = known.came.after(received, span)
            lost = self._answers and received < span
            return whole, Taken(about.message_id, about.tag, received, span) if lost else None
        progress = self._reassembler.progress(peer, about.message_id)
        if progress is None:
            return None, None
        coming = self._coming.get(key)
        if coming is None or (before is not None and before.tag != progress.tag):
            coming = self._coming[key] = _Coming(Repair(now, RepairRules(quiet_s=self._quiet_s(peer))), now)
            if len(self._coming) > _MAX_COMING:
                # Those that the reassembler has dropped, and it holds few: so no flood drops who else sends.
                self._coming = {key: each for key, each in self._coming.items() if self._reassembler.progress(*key)}
            self._tick()
        else:
            self._note_gap(peer, now - coming.heard_s)
        coming.heard_s = now
        return None, coming.repair.arrived(progress, now)

    def _note_single(self, peer: str, chunk: Peeked) -> None:
        """A message of one chunk that comes a second time, as another attempt, has lost itself or its answer before.

        Its parity chunks are copies of it, which are passed over from now on.
        """
        if chunk.parity:
            _remember(self._copied, (peer, chunk.message_id, chunk.tag))
        again = (peer, chunk.message_id) in self._singles
        _remember(self._singles, (peer, chunk.message_id))
        known = self._about(peer)
        known.came = known.came.after(0 if again else 1, 1)

    def _quiet_s(self, peer: str) -> float:
        gap_s = self._about(peer).gap_s
        quiet_s = _FIRST_QUIET_S if gap_s is None else _QUIET_GAPS * gap_s
        return max(RepairRules().quiet_s, quiet_s, self.round_trip_s)

    def _note_gap(self, peer: str, gap_s: float) -> None:
        about = self._about(peer)
        about.gap_s = gap_s if about.gap_s is None else about.gap_s + _SMOOTHING * (gap_s - about.gap_s)

    def _about(self, peer: str) -> _Peer:
        about = self._peers.setdefault(peer, _Peer())
        self._peers.move_to_end(peer)
        if len(self._peers) > _MAX_PEERS:
            self._peers.popitem(last=False)
        return about

    def _loss(self, peer: str) -> float:
        about = self._peers.get(peer)
        return 0.0 if about is None else max(about.sent.share, about.came.share)

    def _drop(self, key: tuple[str, bytes]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._kept_bytes -= kept.size_bytes

    def _tick(self) -> None:
        """See to it that what is missing now is asked for in time."""
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._ask_overdue, name="midstream-repair", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _ask_overdue(self) -> None:
        while True:
            with self._changed:
                due_s = min((self._due_s(coming) for coming in self._coming.values()), default=None)
                if self._closed:
                    return
                now = time.monotonic()
                if due_s is None or due_s > now:
                    self._changed.wait(None if due_s is None else due_s - now)
                    continue
                overdue = self._overdue(now)
            for peer, missing in overdue:
                self._control(peer, encode_control(missing))

    def _due_s(self, coming: _Coming) -> float:
        give_up_s = coming.heard_s + _GIVE_UP_S
        return give_up_s if coming.repair.due_s is None else min(coming.repair.due_s, give_up_s)

    def _overdue(self, now: float) -> list[tuple[str, Missing]]:
        found: list[tuple[str, Missing]] = []
        for (peer, message_id), coming in list(self._coming.items()):
            if self._due_s(coming) > now:
                continue
            progress = self._reassembler.progress(peer, message_id)
            if progress is None or now >= coming.heard_s + _GIVE_UP_S:
                del self._coming[peer, message_id]
                self._reassembler.forget(peer, message_id)
                continue
            missing = coming.repair.overdue(progress, now)
            if missing is not None:
                found.append((peer, missing))
        return found


def _remember(seen: OrderedDict[_Key, None], key: _Key) -> None:
    seen[key] = None
    if len(seen) > _MAX_SINGLES:
        seen.popitem(last=False)
