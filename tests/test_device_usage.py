"""What a device hands its history of one request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from midstream.allocation.usage import Outcome, Usage
from midstream.analysis import Analysis
from midstream.cancelling import CancelledError
from midstream.communication.wire import Priority
from midstream.device_usage import DeviceUsage, Spent
from midstream.errors import PlanError
from midstream.history import History, Recorder
from midstream.history.store import MIN_BYTES
from midstream.partitioning import Objective, Plan, Stage

LOCAL = Plan((Stage("device", (0, 1, 2)),), None, "none", 12.5, 0, None)  # type: ignore[arg-type]
WHOLE = Plan((Stage("gateway", (0, 1, 2)),), None, "jpeg75", 8.0, 900, None)  # type: ignore[arg-type]
STAGED = Plan(
    (Stage("device", (0,)), Stage("gateway", (1,)), Stage("attic", (2,))),
    "c0",
    "int8",
    6.0,
    400,
    None,  # type: ignore[arg-type]
    onward=("c1",),
)


@dataclass
class Asked:
    spent: Spent
    analysis: Analysis | None = None
    request_id: bytes = b"\x07" * 16
    priority: Priority = Priority.CRITICAL
    objective: Objective = field(default_factory=lambda: Objective(deadline_ms=250.0))
    timings: dict[str, float] = field(default_factory=lambda: {"analysis": 1.0, "total": 9.0})
    elapsed_ms: float = 9.5


@dataclass
class Answer:
    plan: Plan
    sent_bytes: int = 0
    received_bytes: int = 0
    fallback: str | None = None
    exited: bool = False


@pytest.fixture
def device(tmp_path: Path) -> DeviceUsage:
    return DeviceUsage(Recorder(tmp_path / "h", MIN_BYTES, 60.0), "porch", "ab" * 32)


def kept(device: DeviceUsage, tmp_path: Path) -> list[Usage]:
    device.start()
    device.close()
    with History.open(tmp_path / "h") as history:
        return list(history)


def test_an_answer_is_handed_on_with_all_that_is_known(device: DeviceUsage, tmp_path: Path) -> None:
    began = time.time()
    asked = Asked(device.begin(), Analysis("image", 41.5, {"entropy": 5.25}))
    asked.spent.on("analysis")
    device.answered(asked, Answer(STAGED, sent_bytes=450, received_bytes=99))
    asked.timings.clear()  # whoever got the result may do so
    (usage,) = kept(device, tmp_path)
    assert began - 1 <= usage.time_s <= time.time()
    assert usage == Usage(
        usage.time_s, b"\x07" * 16, "device", "porch", "ab" * 32, "", "int8", Outcome.OK,
        next_cut="c0", priority=int(Priority.CRITICAL), deadline_ms=250.0, score=41.5, features={"entropy": 5.25},
        plan={
            "stages": ["device", "gateway", "attic"], "cut": "c0", "codec": "int8", "predicted_ms": 6.0,
            "payload_bytes": 400, "onward": ["c1"],
        },
        cpu_ms=usage.cpu_ms, timings_ms={"analysis": 1.0, "total": 9.0}, peak_bytes=usage.peak_bytes,
        received_bytes=99, sent_bytes=450, latency_ms=9.5,
    )  # fmt: skip
    assert list(usage.cpu_ms) == ["analysis"]


@pytest.mark.parametrize(("plan", "ends", "codec"), [(LOCAL, "", "none"), (WHOLE, "input", "jpeg75")])
def test_where_the_devices_stage_ends(device: DeviceUsage, tmp_path: Path, plan: Plan, ends: str, codec: str) -> None:
    device.answered(Asked(device.begin()), Answer(plan))
    (usage,) = kept(device, tmp_path)
    assert (usage.cut, usage.next_cut, usage.codec, usage.score, usage.features) == ("", ends, codec, None, {})


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(CancelledError("nobody waits"), Outcome.CANCELLED), (PlanError("none is left"), Outcome.FAILED)],
)
def test_what_was_not_answered_is_handed_on_too(
    device: DeviceUsage, tmp_path: Path, error: Exception, outcome: Outcome
) -> None:
    device.failed(Asked(device.begin()), None, error)
    device.failed(Asked(device.begin()), WHOLE, error)
    without, planned = sorted(kept(device, tmp_path), key=lambda usage: usage.codec, reverse=True)
    assert (without.outcome, without.reason, without.plan) == (outcome, str(error), {})
    assert (planned.next_cut, planned.plan["predicted_ms"]) == ("input", 8.0)


def test_a_fallback_says_why(device: DeviceUsage, tmp_path: Path) -> None:
    device.answered(Asked(device.begin()), Answer(WHOLE, fallback="no gateway answered in time"))
    (usage,) = kept(device, tmp_path)
    assert (usage.outcome, usage.reason) == (Outcome.FALLBACK, "no gateway answered in time")


def test_steps_are_processor_time_and_add_up() -> None:
    spent = Spent(counts=True)
    began = time.thread_time()
    for step in ("plan", "device", "plan"):
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        spent.on(step)
    took_ms = (time.thread_time() - began) * 1e3
    assert list(spent.cpu_ms) == ["plan", "device"]
    assert spent.cpu_ms["plan"] >= 10
    assert spent.cpu_ms["device"] >= 5
    assert sum(spent.cpu_ms.values()) <= took_ms + 1


def test_without_a_history_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> float:
        raise AssertionError("a clock was read")

    monkeypatch.setattr(time, "thread_time", never)
    device = DeviceUsage(None, "porch", "ab" * 32)
    device.start()
    spent = device.begin()
    spent.on("plan")
    device.answered(Asked(spent), Answer(LOCAL))
    device.failed(Asked(spent), None, PlanError("none"))
    device.close()
    assert spent.cpu_ms == {}
