"""What admission adds to what it expects: by how much 97 in a hundred were later."""

from __future__ import annotations

import pytest

from midstream.allocation.punctuality import Punctuality


def test_nothing_is_added_until_enough_is_known() -> None:
    known = Punctuality()
    for _ in range(15):
        known.ended(0.1, 0.2, 5.0)
    assert known.margin_s(0.1, 5.0) == 0.0


def test_nothing_is_added_where_all_were_in_time() -> None:
    known = Punctuality()
    for _ in range(64):
        known.ended(0.1, 0.05, 5.0)
    assert known.margin_s(0.1, 5.0) == 0.0


def test_as_much_is_added_as_nearly_all_were_later() -> None:
    known = Punctuality()
    for number in range(256):
        known.ended(0.1, 0.3 if number % 100 == 0 else 0.122 if number % 10 == 0 else 0.1, 5.0)
    assert known.margin_s(0.1, 5.0) == pytest.approx(0.022)
    assert known.margin_s(0.01, 5.0) == pytest.approx(0.004)


def test_a_gateway_that_stood_still_does_not_refuse_for_ever() -> None:
    known = Punctuality()
    for _ in range(256):
        known.ended(0.1, 10.0, 5.0)
    assert known.margin_s(0.1, 5.0) == pytest.approx(0.11)
    for _ in range(256):
        known.ended(0.1, 0.1, 5.0)
    assert known.margin_s(0.1, 5.0) == 0.0


def test_what_was_late_once_is_forgotten_where_nobody_is_let_in_any_more() -> None:
    known = Punctuality()
    for _ in range(32):
        known.ended(0.1, 10.0, now_s=5.0)
    assert known.margin_s(0.1, now_s=35.0) == pytest.approx(0.055)
    assert known.margin_s(0.1, now_s=605.0) < 1e-6
