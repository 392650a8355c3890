from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from midstream.communication.chunks import split
from midstream.communication.transport import Message
from midstream.communication.wire import Reply, Status, encode_reply
from midstream.errors import InputError, PeerError
from midstream.measuring.transport import Pair, tensor_of


class Line:
    """In place of the transport: what was asked is answered at once, or never."""

    last_error: str | None = None

    def __init__(self, status: Status | None) -> None:
        self._status = status
        self._asked = b""
        self.pair: Pair

    def payload_limit(self, _topic: str, correlation: bytes, expiry_s: int) -> int:
        return 1 << 18

    def publish(self, topic: str, _payload: bytes, correlation: bytes, expiry_s: int) -> None:
        self._asked = correlation

    @contextmanager
    def attended(self) -> Iterator[Callable[[Callable[[], bool], float], bool]]:
        yield self._attend

    def _attend(self, _done: Callable[[], bool], _seconds: float) -> bool:
        if self._status is not None:
            reply = Reply(self._asked, self._status, (), "raw", 0.0, 0.0, message="no such bundle")
            for chunk in split(encode_reply(reply), self._asked):
                self.pair.take(Message("midstream/1/dev/d/rep/big", bytes(chunk)))
        return True


def pair_over(line: Line) -> Pair:
    line.pair = Pair(line, "d", "big")  # type: ignore[arg-type]
    return line.pair


def test_a_gateway_that_answers_in_place_of_the_other_process_is_named() -> None:
    with pytest.raises(InputError, match="gateway big answers by itself on this broker; stop it"):
        pair_over(Line(Status.UNKNOWN_BUNDLE)).there_and_back(tensor_of(4))


def test_silence_says_that_the_other_process_may_need_credentials() -> None:
    with pytest.raises(PeerError, match=r"did not come back in time.*--peer-credentials"):
        pair_over(Line(None)).there_and_back(tensor_of(4), wait_s=0.01)
