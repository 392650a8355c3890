"""A usage as a row and back: what anybody may put into one, and how small it is."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usages import usage

from midstream.allocation.usage import Outcome, Usage
from midstream.history.rows import Names, names_from_json, names_to_json, row_of, usage_of
from midstream.history.schema import COLUMNS


class Kept:
    """Sets of names, at most so many."""

    def __init__(self, most: int = 1000) -> None:
        self.names: list[str] = []
        self.most = most

    def number_of(self, names: Names) -> int | None:
        text = names_to_json(names)
        if text not in self.names:
            if len(self.names) >= self.most:
                return None
            self.names.append(text)
        return self.names.index(text)

    def names_of(self, number: int) -> Names:
        return names_from_json(self.names[number])


def again(one: Usage, most: int = 1000) -> Usage:
    kept = Kept(most)
    return usage_of(row_of(one, kept.number_of), kept.names_of)


def test_every_field_is_kept() -> None:
    full = usage(
        7,
        outcome=Outcome.FALLBACK,
        next_cut="c20",
        priority=2,
        plan={"stages": ["device", "gateway"], "cut": "c12", "codec": "int8", "predicted_ms": 12.5},
        batch=3,
        reason="its deadline passed in the queue",
    )
    defaults = {field.name: field.default for field in fields(Usage)}
    assert all(getattr(full, name) != default for name, default in defaults.items())
    assert tuple(defaults) == COLUMNS
    assert again(full) == full
    assert again(full, most=0) == full
    bare = Usage(1.5, b"", "", "", "", "", "", Outcome.BUSY)
    assert again(bare) == bare


def test_a_set_of_names_is_kept_once() -> None:
    kept = Kept()
    rows = [row_of(usage(number), kept.number_of) for number in range(3)]
    assert [names_from_json(text) for text in kept.names] == [
        ("entropy", "motion"),
        ("decode", "run"),
        ("queue", "run"),
    ]
    assert rows[0][COLUMNS.index("features")] == "[0,5.25,0.125]"


@pytest.mark.parametrize("most", [0, 9])
def test_numbers_that_are_none_come_back(most: int) -> None:
    odd = {"nan": math.nan, "high": math.inf, "low": -math.inf, "tiny": 5e-324, "large": 1.7e308, "whole": 7}
    kept = Kept(most)
    row = row_of(usage(features=odd, score=math.nan, deadline_ms=math.inf, latency_ms=math.nan), kept.number_of)
    found = usage_of(row, kept.names_of)
    assert math.isnan(found.features["nan"])
    assert (found.features["high"], found.features["low"]) == (math.inf, -math.inf)
    assert found.features["tiny"] == 5e-324
    assert found.features["large"] == pytest.approx(1.7e308)
    assert found.features["whole"] == 7
    assert (found.score, found.deadline_ms) == (None, None)
    assert math.isnan(found.latency_ms)
    # What is kept is JSON for everybody.
    json.loads(str(row[COLUMNS.index("features")]), parse_constant=pytest.fail)


def test_what_a_peer_chooses_is_cut_off_and_never_refused() -> None:
    found = again(
        usage(
            device_id="\ud800" + "d" * 10_000,
            bundle="no digest\x00",
            cut="'; DROP TABLE usage; --",
            codec="\N{PILE OF POO}" * 1000,
            reason="r" * 10**6,
            features={f"{number}\ud800" * 50: 1.0 for number in range(1000)},
            plan={"why": "w" * 10**6},
            received_bytes=1 << 80,
            request_id=b"i" * 1000,
        )
    )
    assert found.device_id == "?" + "d" * 254
    assert found.bundle == "no digest\x00"
    assert found.cut == "'; DROP TABLE usage; --"
    assert (len(found.codec), len(found.reason), len(found.request_id)) == (255, 500, 64)
    assert found.received_bytes == (1 << 63) - 1
    assert (len(found.features), max(map(len, found.features)), found.plan) == (64, 64, {})


@pytest.mark.parametrize(
    "wrong", [{"time_s": math.nan}, {"features": {"a": "text"}}, {"plan": {"a": object()}}, {"received_bytes": None}]
)
def test_what_is_no_usage_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        row_of(usage(**wrong), Kept().number_of)


@given(
    st.dictionaries(st.text(max_size=64), st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=20),
    st.text(max_size=255),
    st.booleans(),
)
def test_any_numbers_and_texts_come_back(values: dict[str, float], text: str, written_out: bool) -> None:
    found = again(usage(timings_ms=values, cut=text, reason=text), 0 if written_out else 9)
    assert (found.cut, found.reason) == (text, text)
    assert found.timings_ms == pytest.approx(values, rel=1e-6)
    assert list(found.timings_ms) == list(values)


@pytest.mark.parametrize("damage", ["[7,1]", "[0,1]", "[0]", "[]", "7", '{"a":"b"}', "{", "null", "[[],1,2]"])
def test_a_damaged_row_is_an_error(damage: str) -> None:
    kept = Kept()
    row = list(row_of(usage(), kept.number_of))
    row[COLUMNS.index("features")] = damage
    with pytest.raises((ValueError, TypeError, LookupError)):
        usage_of(row, kept.names_of)
