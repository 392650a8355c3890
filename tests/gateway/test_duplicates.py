"""Requests that come again, by a clock that the test turns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from midstream.communication.codecs import encode
from midstream.communication.wire import Request, content_tag, encode_request, with_deadline
from midstream.gateway.duplicates import ANSWER_AGE_S, MAX_ANSWER_BYTES, MAX_ANSWERS, Ledger, identity

ASKED = Request(bytes(16), bytes(32), "c1", "raw", 500, 1.0, (), encode("raw", {"x": np.arange(5.0)}, {}))
MESSAGE = encode_request(ASKED)
LATER = replace(ASKED, deadline_ms=123)


def test_what_asks_the_same_has_the_same_tag_whatever_time_remains() -> None:
    assert content_tag(MESSAGE, 500) == MESSAGE[-4:]
    assert content_tag(encode_request(LATER), 500) == MESSAGE[-4:]
    assert content_tag(MESSAGE, 123) == with_deadline(MESSAGE, 123)[-4:]
    other = replace(ASKED, tensors=encode("raw", {"x": np.arange(5.0) + 1}, {}))
    assert content_tag(encode_request(other), 500) != MESSAGE[-4:]


def test_a_request_runs_once_and_is_answered_as_often_as_it_comes() -> None:
    ledger = Ledger()
    again = encode_request(LATER)
    assert not ledger.runs("pi", ASKED, MESSAGE)
    first = identity("pi", ASKED, MESSAGE)
    ledger.begin(first)
    assert ledger.runs("pi", ASKED, MESSAGE)
    assert ledger.runs("pi", LATER, again)
    assert not ledger.runs("other", ASKED, MESSAGE)
    assert ledger.answer("pi", LATER, again, 1.0) is None
    ledger.end(first, b"answer", 1.0)
    assert not ledger.runs("pi", LATER, again)
    assert ledger.answer("pi", LATER, again, 2.0) == b"answer"
    assert ledger.answer("other", LATER, again, 2.0) is None
    assert ledger.answer("pi", LATER, again, 1.1 + ANSWER_AGE_S) is None
    assert ledger.answer_bytes == 0


def test_another_request_under_the_same_id_gets_no_foreign_answer() -> None:
    ledger = Ledger()
    other = replace(ASKED, tensors=encode("raw", {"x": np.arange(5.0) + 1}, {}))
    different = encode_request(other)
    first, second = identity("pi", ASKED, MESSAGE), identity("pi", other, different)
    ledger.begin(first)
    assert not ledger.runs("pi", other, different)
    ledger.begin(second)
    ledger.end(first, b"first", 0.0)
    assert ledger.runs("pi", other, different)
    assert ledger.answer("pi", other, different, 0.0) is None
    ledger.end(second, b"second", 0.0)
    assert ledger.answer("pi", other, different, 0.0) == b"second"
    assert ledger.answer("pi", ASKED, MESSAGE, 0.0) is None


def test_what_was_refused_may_be_asked_again() -> None:
    ledger = Ledger()
    first = identity("pi", ASKED, MESSAGE)
    ledger.begin(first)
    ledger.end(first, None, 0.0)
    assert not ledger.runs("pi", ASKED, MESSAGE)
    assert ledger.answer("pi", ASKED, MESSAGE, 0.0) is None


def test_answers_are_bounded_in_number_and_in_bytes() -> None:
    ledger = Ledger()

    def answered(number: int, answer: bytes) -> bool:
        request = replace(ASKED, request_id=number.to_bytes(16, "big"))
        message = encode_request(request)
        known = identity("pi", request, message)
        ledger.begin(known)
        ledger.end(known, answer, 0.0)
        return ledger.answer("pi", request, message, 0.0) == answer

    assert all(answered(number, b"x" * 10) for number in range(2 * MAX_ANSWERS))
    assert ledger.answer_bytes == 10 * MAX_ANSWERS
    assert all(answered(number, bytes(MAX_ANSWER_BYTES // 4)) for number in range(10))
    assert ledger.answer_bytes == MAX_ANSWER_BYTES
    assert not answered(99, bytes(MAX_ANSWER_BYTES + 1))
    assert ledger.answer_bytes == MAX_ANSWER_BYTES
