"""What a device's requests have used, for its history."""

from __future__ import annotations

import time
from typing import Protocol

from midstream.allocation.usage import Outcome, Usage
from midstream.analysis import Analysis
from midstream.cancelling import CancelledError
from midstream.communication.wire import Priority
from midstream.history import Recorder
from midstream.partitioning import DEVICE, LOCAL_CODEC, Objective, Plan
from midstream.planning import INPUT_CUT
from midstream.sensing import peak_bytes


class Spent:
    """This thread's processor time for one request, by step; counted only where somebody keeps it."""

    __slots__ = ("_counts", "_last_s", "cpu_ms", "time_s")

    def __init__(self, counts: bool) -> None:
        self._counts = counts
        self.time_s = time.time() if counts else 0.0
        self.cpu_ms: dict[str, float] = {}
        self._last_s = time.thread_time() if counts else 0.0

    def on(self, step: str) -> None:
        """What this thread has done since the last step was this one; threads of an engine's own are not counted."""
        if self._counts:
            now_s = time.thread_time()
            self.cpu_ms[step] = self.cpu_ms.get(step, 0.0) + (now_s - self._last_s) * 1e3
            self._last_s = now_s


class Asked(Protocol):
    """What is asked of a request."""

    @property
    def request_id(self) -> bytes:
        """By which both ends know it."""

    @property
    def priority(self) -> Priority:
        """Its class."""

    @property
    def objective(self) -> Objective:
        """With its deadline."""

    @property
    def analysis(self) -> Analysis | None:
        """Of its input, if that was analysed."""

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by the clock, by step."""

    @property
    def spent(self) -> Spent:
        """What its thread has used."""

    @property
    def elapsed_ms(self) -> float:
        """Since it came."""


class Answered(Protocol):
    """What is asked of a `Result`."""

    @property
    def plan(self) -> Plan:
        """What was done."""

    @property
    def sent_bytes(self) -> int:
        """What was sent."""

    @property
    def received_bytes(self) -> int:
        """What came back."""

    @property
    def fallback(self) -> str | None:
        """Why the answer is the device's own although the plan was another."""

    @property
    def exited(self) -> bool:
        """Whether it is an early exit's."""


class DeviceUsage:
    """Hands a recorder one `Usage` for each request of a device; without a recorder it does nothing. Thread-safe."""

    def __init__(self, recorder: Recorder | None, device_id: str, bundle: str) -> None:
        self._recorder = recorder
        self._device_id = device_id
        self._bundle = bundle

    def start(self) -> None:
        """Begin to keep what comes."""
        if self._recorder is not None:
            self._recorder.start()

    def close(self) -> None:
        """Write what is left."""
        if self._recorder is not None:
            self._recorder.close()

    def begin(self) -> Spent:
        """A request has come."""
        return Spent(self._recorder is not None)

    def answered(self, asked: Asked, result: Answered) -> None:
        """A request was answered, from wherever."""
        if self._recorder is not None:
            outcome = Outcome.OK if result.fallback is None else Outcome.FALLBACK
            self._recorder.record(self._usage(asked, result.plan, outcome, result.fallback or "", result))

    def failed(self, asked: Asked, plan: Plan | None, error: BaseException) -> None:
        """A request was not; ``plan`` is None where none was made."""
        if self._recorder is not None:
            outcome = Outcome.CANCELLED if isinstance(error, CancelledError) else Outcome.FAILED
            self._recorder.record(self._usage(asked, plan, outcome, str(error)))

    def _usage(
        self, asked: Asked, plan: Plan | None, outcome: Outcome, reason: str, result: Answered | None = None
    ) -> Usage:
        analysis = asked.analysis
        return Usage(
            time_s=asked.spent.time_s,
            request_id=asked.request_id,
            machine=DEVICE,
            device_id=self._device_id,
            bundle=self._bundle,
            cut="",
            codec=LOCAL_CODEC if plan is None else plan.codec,
            outcome=outcome,
            next_cut="" if plan is None else _end_of_head(plan),
            priority=int(asked.priority),
            deadline_ms=asked.objective.deadline_ms,
            score=None if analysis is None else analysis.score,
            features={} if analysis is None else dict(analysis.features),
            plan={} if plan is None else _told(plan, result is not None and result.exited),
            cpu_ms=asked.spent.cpu_ms,
            # The result has these too, and whoever gets it may change them.
            timings_ms=dict(asked.timings),
            peak_bytes=peak_bytes(),
            received_bytes=0 if result is None else result.received_bytes,
            sent_bytes=0 if result is None else result.sent_bytes,
            latency_ms=asked.elapsed_ms,
            reason=reason,
        )


def _end_of_head(plan: Plan) -> str:
    """Where the device's stage ends: "input" where it has none, empty where it is the whole model."""
    return plan.cut or (INPUT_CUT if plan.offloads else "")


def _told(plan: Plan, exited: bool) -> dict[str, object]:
    """The plan without its layers, which follow from the cuts."""
    told: dict[str, object] = {
        "stages": [stage.machine for stage in plan.stages],
        "cut": plan.cut,
        "codec": plan.codec,
        "predicted_ms": plan.predicted_ms,
        "payload_bytes": plan.payload_bytes,
    }
    if plan.onward:
        told["onward"] = list(plan.onward)
    if plan.exit is not None:
        told |= {"exit": plan.exit, "exited": exited}
    return told
