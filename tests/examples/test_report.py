"""What the demo says of its trials."""

from __future__ import annotations

from typing import Any

import pytest


def trial(option: str, total_ms: float, codec: str = "raw", **changes: Any) -> Any:
    from trials import Trial

    values = {"model": "m", "input": "a", "kind": "tour", "max_abs_error": 0.0, "same_answer": True, "sent_bytes": 10}
    return Trial(option=option, total_ms=total_ms, codec=codec, **{**values, **changes})


def ways(cut_ms: float, local_ms: float, input_ms: float) -> list[Any]:
    return [
        trial("local", local_ms, "none", sent_bytes=0),
        trial("input", input_ms),
        trial("input", 1.0, "jpeg90", max_abs_error=9.0),
        trial("c1", cut_ms + 5),
        trial("c2", cut_ms),
        trial("input", input_ms + 1, kind="planner"),
    ]


@pytest.mark.parametrize(
    ("trials", "winner", "words"),
    [
        (ways(5, 9, 9), "cut c2, raw", "Splitting pays"),
        (ways(9, 5, 9), "all on the device", "Splitting does not pay here"),
        (ways(9, 9, 5), "whole input, raw", "Splitting does not pay here"),
    ],
)
def test_the_fastest_lossless_way_wins(trials: list[Any], winner: str, words: str) -> None:
    from report import verdict

    result = verdict("m", trials)
    assert result.winner == winner
    assert words in result.why
    assert "gave the same answer in 1 of 1" in result.why
    assert [row.way for row in result.rows if row.way.startswith("cut")] == ["cut c2, raw"]


def test_failed_requests_are_counted_and_lossy_ones_kept_out_of_the_error() -> None:
    from report import to_json, verdict

    trials = [*ways(5, 9, 9), trial("c3", 1.0, failure="no answer in time"), trial("c4", 7.0, max_abs_error=0.5)]
    result = to_json({}, trials, [verdict("m", trials)], {}, {})
    assert (result["requests"], result["failed"], result["max_abs_error"]) == (8, 1, 0.5)
    assert result["cuts_used"] == ["m: c1", "m: c2", "m: c4"]
    assert result["payload_bytes_total"] == 70
    assert result["failures"] == ["m, a: no answer in time"]


def test_nothing_is_compared_where_everything_failed() -> None:
    from report import verdict

    result = verdict("m", [trial("c1", 1.0, failure="no gateway is there")])
    assert (result.winner, result.rows) == ("none", ())
