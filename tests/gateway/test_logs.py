"""What a gateway's log says of requests."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from midstream.allocation.usage import Outcome, Usage
from midstream.gateway.logs import LogUsage, about
from midstream.gateway.tallying import StageNames

MakeUsage = Callable[..., Usage]


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Outcome.OK, logging.DEBUG),
        (Outcome.CANCELLED, logging.DEBUG),
        (Outcome.BUSY, logging.INFO),
        (Outcome.EXPIRED, logging.INFO),
        (Outcome.BAD_REQUEST, logging.INFO),
        (Outcome.FAILED, logging.WARNING),
        (Outcome.CANNOT_FORWARD, logging.WARNING),
    ],
)
def test_each_request_is_a_line_and_the_worse_it_went_the_louder(
    outcome: Outcome, level: int, names: StageNames, used: MakeUsage, caplog: pytest.LogCaptureFixture
) -> None:
    log = LogUsage(names)
    with caplog.at_level(level + 1, "midstream.gateway"):
        log(used(outcome=outcome))
    assert caplog.records == []
    with caplog.at_level(level, "midstream.gateway"):
        log(used(outcome=outcome, reason="for a reason", cut="c99"))
    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage() == "a request of camera ended: for a reason"
    said = {key: vars(record)[key] for key in ("request_id", "device_id", "bundle", "cut", "outcome", "latency_ms")}
    assert said == {
        "request_id": bytes(range(16)).hex(),
        "device_id": "camera",
        "bundle": "faces",
        "cut": "other",
        "outcome": outcome.value,
        "latency_ms": 9.0,
    }


def test_ids_are_cut_short_where_a_peer_makes_them_long() -> None:
    assert about("camera", b"\xff" * 60_000) == {"device_id": "camera", "request_id": "ff" * 16}
    assert about("camera", None) == {"device_id": "camera"}
