"""When a request is sent again. The clock is a number."""

from __future__ import annotations

import pytest

from midstream.communication.attempts import Attempts


def times(attempts: Attempts) -> list[float]:
    """When it is sent again if nothing is ever heard."""
    found = []
    while (due_s := attempts.due_s) is not None and attempts.may_send(due_s):
        attempts.sent(due_s)
        found.append(due_s)
    return found


def test_each_further_answer_is_waited_for_twice_as_long() -> None:
    assert times(Attempts(10.0, 0.2, 60.0)) == pytest.approx([10.5, 11.5, 13.5, 17.5, 25.5])


def test_it_is_sent_again_only_where_an_answer_could_come_in_time() -> None:
    assert times(Attempts(10.0, 0.2, 10.69)) == []
    assert times(Attempts(10.0, 0.2, 10.71)) == pytest.approx([10.5])
    assert not Attempts(10.0, 0.2, 10.3).may_send(10.15)


def test_a_sign_of_life_puts_it_off() -> None:
    attempts = Attempts(10.0, 0.2, 60.0)
    attempts.heard(10.4)
    attempts.heard(10.3)
    assert attempts.due_s == pytest.approx(10.9)
    attempts.sent(10.9)
    assert (attempts.count, attempts.sent_s) == (2, 10.9)


def test_ignored_is_what_was_sent_again_and_not_heard_of_since() -> None:
    attempts = Attempts(10.0, 0.2, 60.0)
    assert not attempts.ignored
    attempts.sent(10.5)
    assert attempts.ignored
    attempts.heard(10.6)
    assert not attempts.ignored
    attempts.sent(11.6)
    assert attempts.ignored


def test_who_says_that_it_is_there_is_asked_on() -> None:
    attempts = Attempts(10.0, 0.0, 100.0)
    for _ in range(8):
        due_s = attempts.due_s
        assert due_s is not None
        assert attempts.may_send(due_s)
        attempts.sent(due_s)
        attempts.heard(due_s)
    assert attempts.count == 9
    assert attempts.due_s == pytest.approx(10.0 + 0.1 * (2**9 - 1))


def test_after_the_last_attempt_it_is_still_looked_at() -> None:
    attempts = Attempts(10.0, 0.2, 60.0)
    assert times(attempts)[-1] == pytest.approx(25.5)
    assert attempts.due_s == pytest.approx(41.5)
    attempts.put_off(41.5)
    assert attempts.ignored
    assert attempts.due_s == pytest.approx(57.5)
    attempts.put_off(57.5)
    assert attempts.due_s is None
