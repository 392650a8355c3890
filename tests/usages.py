"""Usages for tests of the history."""

from __future__ import annotations

from typing import Any

from midstream.allocation.usage import Outcome, Usage

DIGEST = "ab" * 32


def usage(number: int = 0, **changed: Any) -> Usage:
    """One of a gateway, by its number: its id, and its time in seconds."""
    known: dict[str, Any] = {
        "time_s": 1_700_000_000.0 + number,
        "request_id": number.to_bytes(16, "big"),
        "machine": "gateway",
        "device_id": "porch",
        "bundle": DIGEST,
        "cut": "c12",
        "codec": "int8",
        "outcome": Outcome.OK,
        "deadline_ms": 500.0,
        "score": 41.5,
        "features": {"entropy": 5.25, "motion": 0.125},
        "cpu_ms": {"decode": 0.5, "run": 2.25},
        "timings_ms": {"queue": 0.75, "run": 2.5},
        "peak_bytes": 123 << 20,
        "received_bytes": 4321,
        "sent_bytes": 99,
        "latency_ms": 3.5,
    }
    return Usage(**known | changed)


def numbers(found: list[Usage]) -> list[int]:
    """The numbers of such usages."""
    return [int.from_bytes(each.request_id, "big") for each in found]
