"""A plan: which layers run on which machine, what crosses in which codec, and at what predicted cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEVICE = "device"
GATEWAY = "gateway"
LOCAL_CODEC = "none"


@dataclass(frozen=True, slots=True)
class Stage:
    """One slice on one machine: indices of the model's layers, ascending."""

    machine: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen option.

    ``cut`` is None where the model is not split: one stage on the device (codec "none") or one on the
    gateway, which then gets the whole input. ``energy_mj`` is the device's; ``payload_bytes`` is what it
    sends, as encoded. ``keeps_input`` says that no tensor which crosses is an input of the model. ``exit`` is the cut
    after whose head an early exit is asked, which ends all where it answers; the predictions are means over its
    ``exit_share``. ``why`` is one sentence for a person.
    """

    stages: tuple[Stage, ...]
    cut: str | None
    codec: str
    predicted_ms: float
    energy_mj: float
    payload_bytes: int
    why: str
    keeps_input: bool = True
    exit: str | None = None
    exit_share: float = 0.0

    @property
    def offloads(self) -> bool:
        """Whether any stage runs elsewhere than on the device."""
        return any(stage.machine != DEVICE for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """What ``midstream plan --json`` prints; ``exit`` only where one is asked."""
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
        return told
