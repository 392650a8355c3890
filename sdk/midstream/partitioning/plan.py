"""A plan: which layers run on which machine, what crosses in which codec, and at what predicted cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from midstream.partitioning.state import SystemState

DEVICE = "device"
GATEWAY = "gateway"
LOCAL_CODEC = "none"


@dataclass(frozen=True, slots=True)
class Stage:
    """One slice on one machine: indices of the model's layers, ascending."""

    machine: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A candidate of a decision: what it is, and what it was predicted to cost.

    ``refusal`` is the constraint that removed it, in words, else None; ``late`` says that it misses the deadline, and
    ``dear`` that it exceeds the energy budget. Figures are None where it cannot be priced, as no link is up; ``cost``
    is of a million inputs, and None without a tariff.
    """

    name: str
    cut: str | None
    codec: str
    exit: str | None
    latency_ms: float | None
    energy_mj: float | None
    period_ms: float | None
    payload_bytes: int
    refusal: str | None = None
    late: bool = False
    dear: bool = False
    cost: float | None = None
    chosen: bool = False


class Explained(Protocol):
    """A decision that can be asked for more than what follows from it at once."""

    @property
    def state(self) -> SystemState:
        """The state that it was made in."""

    @property
    def row(self) -> int:
        """Which of the candidates it took."""

    @property
    def offloading_could_pay(self) -> bool:
        """Whether anything but the device alone could be best over any link."""

    @property
    def reply_bytes(self) -> int:
        """What is expected to come back from elsewhere."""

    @property
    def explores(self) -> bool:
        """Whether it was taken to be measured, though another was predicted better."""

    @property
    def stands(self) -> bool:
        """Whether it is the plan for the inputs to come, too."""

    @property
    def wait_ms(self) -> float:
        """The wait at the gateway that was counted with."""

    def energy_mj(self) -> float:
        """The device's, as predicted."""

    def why(self) -> str:
        """In one sentence."""

    def explain(self) -> list[RunnerUp]:
        """All candidates, the best first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen option.

    ``cut`` is None where the model is not split: one stage on the device (codec "none") or one on the gateway, which
    then gets the whole input. ``payload_bytes`` is what the device sends, as encoded. ``onward`` are the cuts at which
    further stages begin, each on a machine of its own; predictions of a forced plan do not count the ways between
    these. ``keeps_input`` says that no tensor which crosses is an input of the model or linear in one; it is False
    where the bundle does not tell. ``exit`` is the cut after whose head an early exit is asked, which ends all where it
    answers; the predictions are means over its ``exit_share``. ``deadline_ms`` is what it was made for; ``fallback``
    who does the rest where nobody has answered in time: the device, from the end of its own stage; None where it does
    all anyway, or may not. Why it was chosen is worked out when somebody asks.
    """

    stages: tuple[Stage, ...]
    cut: str | None
    codec: str
    predicted_ms: float
    payload_bytes: int
    reasons: Explained = field(compare=False, repr=False)
    keeps_input: bool = True
    exit: str | None = None
    exit_share: float = 0.0
    onward: tuple[str, ...] = ()
    deadline_ms: float | None = None
    fallback: str | None = None

    @property
    def energy_mj(self) -> float:
        """What the device is predicted to draw for it."""
        return self.reasons.energy_mj()

    @property
    def why(self) -> str:
        """One sentence for a person: what was chosen, over what, by which numbers."""
        return self.reasons.why()

    def explain(self) -> list[RunnerUp]:
        """What every candidate was predicted to cost, or which constraint removed it; the best first."""
        return self.reasons.explain()

    @property
    def others(self) -> tuple[str, ...]:
        """The machines other than the device that have a stage, in order."""
        return tuple(stage.machine for stage in self.stages if stage.machine != DEVICE)

    @property
    def offloads(self) -> bool:
        """Whether any stage runs elsewhere than on the device."""
        return bool(self.others)

    def to_json(self) -> dict[str, Any]:
        """What ``midstream plan --json`` prints; ``exit`` and ``onward`` only where there are any."""
        told: dict[str, Any] = {
            "stages": [{"machine": stage.machine, "nodes": list(stage.nodes)} for stage in self.stages],
            "cut": self.cut,
            "codec": self.codec,
            "predicted_ms": self.predicted_ms,
            "energy_mj": self.energy_mj,
            "payload_bytes": self.payload_bytes,
            "why": self.why,
        }
        if self.exit is not None:
            told["exit"] = {"cut": self.exit, "answered_share": self.exit_share}
        if self.onward:
            told["onward"] = list(self.onward)
        return told


def in_stages(plan: Plan, onward: Sequence[tuple[str, tuple[int, ...]]], machines: Sequence[str]) -> Plan:
    """The plan with its gateway's part in further stages: each begins at a cut, of the head's layers that are given.

    ``machines`` are who runs them: the gateway's own part first.
    """
    *before, last = plan.stages
    parts = []
    left = last.nodes
    for _, head in onward:
        parts.append(tuple(node for node in left if node in head))
        left = tuple(node for node in left if node not in head)
    stages = tuple(Stage(machine, nodes) for machine, nodes in zip(machines, [*parts, left], strict=True))
    return replace(plan, stages=(*before, *stages), onward=tuple(cut for cut, _ in onward))
