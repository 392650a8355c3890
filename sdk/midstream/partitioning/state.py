"""What is known and what is wanted when a decision is due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, get_args

from midstream.errors import PlanError
from midstream.partitioning.link import LinkState

ObjectiveKind = Literal["latency", "energy", "throughput"]

MAX_LOAD = 0.99
_MAX_SCORE = 100.0


@dataclass(frozen=True, slots=True)
class SystemState:
    """What is known right now.

    ``link`` is None where no gateway can be reached. Loads are 0–1 shares of a machine that others use;
    from 1 on they count as 0.99. ``gateway_wait_ms`` is the wait in the gateway's queue, ``gateway_waits_ms`` the same
    at single cuts (None: the whole input) where it differs, ``complexity`` the input's score of 0–100.
    """

    link: LinkState | None
    device_load: float = 0.0
    gateway_load: float = 0.0
    gateway_wait_ms: float = 0.0
    gateway_waits_ms: Mapping[str | None, float] = field(default_factory=dict)
    complexity: float | None = None

    @property
    def link_is_up(self) -> bool:
        """Whether anything can be sent and come back."""
        return self.link is not None and self.link.uplink_kbps > 0 and self.link.downlink_kbps > 0

    def check(self) -> None:
        """Raise PlanError where a figure is none that it can be."""
        link = self.link
        # One comparison a figure, as this is done for every input; what is no number fails all of them.
        if not (
            0 <= self.device_load < math.inf
            and 0 <= self.gateway_load < math.inf
            and 0 <= self.gateway_wait_ms < math.inf
            and (
                not self.gateway_waits_ms or all(0 <= wait_ms < math.inf for wait_ms in self.gateway_waits_ms.values())
            )
            and (self.complexity is None or 0 <= self.complexity <= _MAX_SCORE)
            and (
                link is None
                or (
                    0 <= link.uplink_kbps < math.inf
                    and 0 <= link.downlink_kbps < math.inf
                    and 0 <= link.rtt_ms < math.inf
                )
            )
        ):
            self._complain()

    def _complain(self) -> None:
        figures: dict[str, float] = {
            "device_load": self.device_load,
            "gateway_load": self.gateway_load,
            "gateway_wait_ms": self.gateway_wait_ms,
            **{f"wait at {cut or 'the input'!r}": wait_ms for cut, wait_ms in self.gateway_waits_ms.items()},
        }
        if self.complexity is not None:
            figures["complexity"] = self.complexity
        if self.link is not None:
            figures["link.uplink_kbps"] = self.link.uplink_kbps
            figures["link.downlink_kbps"] = self.link.downlink_kbps
            figures["link.rtt_ms"] = self.link.rtt_ms
        for name, value in figures.items():
            if not math.isfinite(value) or value < 0:
                raise PlanError(f"the state's {name} is {value}, needed a finite number of 0 or more")
        raise PlanError(f"the state's complexity is {self.complexity}, needed a score of 0 to 100")


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise (ms, mJ of the device, or ms between two results) and what must hold.

    Lossy codecs and early exits are allowed where their measured agreement reaches ``min_agreement``; 0 allows all of
    them. Raises PlanError where a value is none that it can be.
    """

    kind: ObjectiveKind = "latency"
    deadline_ms: float | None = None
    min_agreement: float = 1.0
    keep_input_local: bool = False

    def __post_init__(self) -> None:
        kinds = get_args(ObjectiveKind)
        if self.kind not in kinds:
            raise PlanError(f"the objective {self.kind!r} is unknown; take one of {', '.join(kinds)}")
        if not isinstance(self.min_agreement, Real) or not 0 <= self.min_agreement <= 1:
            raise PlanError(f"min_agreement is {self.min_agreement!r}, needed a share of 0 to 1")
        if self.deadline_ms is not None and not (
            isinstance(self.deadline_ms, Real) and 0 < self.deadline_ms < math.inf
        ):
            raise PlanError(f"deadline_ms is {self.deadline_ms!r}, needed a finite number above 0")
