"""What is known and what is wanted when a decision is due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, get_args

from midstream.errors import PlanError
from midstream.partitioning.link import PLAUSIBLE_KBPS, LinkState

ObjectiveKind = Literal["latency", "energy", "throughput", "cost"]

MAX_LOAD = 0.99
# With no figure larger, and no link slower than any is, what is made of them stays finite: 0 · ∞ is no number.
MAX_FIGURE = 1e15
_MAX_SCORE = 100.0
_LINK_FIGURES = ("uplink_kbps", "downlink_kbps", "rtt_ms", "uplink_spread", "rtt_spread_ms")
_FEWEST_OF_100 = 50


@dataclass(frozen=True, slots=True)
class Tier:
    """A further machine as it is right now, beyond the gateway's side of the network.

    What it is sent takes ``link``'s uplink and round trip on top of what the device's own link takes, its reply the
    downlink. ``load``, ``wait_ms`` and ``queue`` are as those of the gateway in `SystemState`.
    """

    link: LinkState
    load: float = 0.0
    wait_ms: float = 0.0
    queue: float = 0.0

    @property
    def is_up(self) -> bool:
        """Whether it can be sent anything."""
        return _carries(self.link)

    def figures(self) -> tuple[float, ...]:
        """All that must be finite and 0 or more."""
        return (*_figures(self.link), self.load, self.wait_ms, self.queue)


@dataclass(frozen=True, slots=True)
class SystemState:
    """What is known right now.

    ``link`` is None where no gateway can be reached. Loads are 0–1 shares of a machine that others use;
    from 1 on they count as 0.99. ``gateway_wait_ms`` is the wait in the gateway's queue, ``gateway_waits_ms`` the same
    at single cuts (None: the whole input) where it differs, ``gateway_queue`` how many requests wait there: others,
    that work there makes wait longer. ``further`` has the other machines by name. ``device_spread`` and
    ``gateway_spread`` are the standard deviations of times there in shares of them; ``complexity`` is the input's score
    of 0–100. ``device_waits_ms`` is what a cut's head, or the whole model (None), waits for others of its kind here;
    ``uplink_wait_ms`` and ``downlink_wait_ms`` what the device has under way on its link still takes. ``period_ms`` is
    in how long the next input is expected.
    """

    link: LinkState | None
    device_load: float = 0.0
    gateway_load: float = 0.0
    gateway_wait_ms: float = 0.0
    gateway_waits_ms: Mapping[str | None, float] = field(default_factory=dict)
    complexity: float | None = None
    gateway_queue: float = 0.0
    device_spread: float = 0.0
    gateway_spread: float = 0.0
    further: Mapping[str, Tier] = field(default_factory=dict)
    device_waits_ms: Mapping[str | None, float] = field(default_factory=dict)
    uplink_wait_ms: float = 0.0
    downlink_wait_ms: float = 0.0
    period_ms: float | None = None

    @property
    def link_is_up(self) -> bool:
        """Whether anything can be sent and come back."""
        return self.link is not None and _carries(self.link)

    def wait_at(self, cut: str | None) -> float:
        """The wait in the gateway's queue at a cut (None: the whole input), ms."""
        return self.gateway_waits_ms.get(cut, self.gateway_wait_ms)

    def check(self) -> None:
        """Raise PlanError where a figure is none that it can be."""
        link = self.link
        # One comparison a figure, as this is done for every input; what is no number fails all of them.
        if not (
            0 <= self.device_load <= MAX_FIGURE
            and 0 <= self.gateway_load <= MAX_FIGURE
            and 0 <= self.gateway_wait_ms <= MAX_FIGURE
            and (
                not self.gateway_waits_ms
                or all(0 <= wait_ms <= MAX_FIGURE for wait_ms in self.gateway_waits_ms.values())
            )
            and (self.complexity is None or 0 <= self.complexity <= _MAX_SCORE)
            and 0 <= self.gateway_queue <= MAX_FIGURE
            and 0 <= self.device_spread <= MAX_FIGURE
            and 0 <= self.gateway_spread <= MAX_FIGURE
            and (
                link is None
                or (
                    0 <= link.uplink_kbps <= MAX_FIGURE
                    and 0 <= link.downlink_kbps <= MAX_FIGURE
                    and 0 <= link.rtt_ms <= MAX_FIGURE
                    and 0 <= link.uplink_spread <= MAX_FIGURE
                    and 0 <= link.rtt_spread_ms <= MAX_FIGURE
                )
            )
            and 0 <= self.uplink_wait_ms <= MAX_FIGURE
            and 0 <= self.downlink_wait_ms <= MAX_FIGURE
            and (self.period_ms is None or 0 <= self.period_ms <= MAX_FIGURE)
            and (
                not self.device_waits_ms or all(0 <= wait_ms <= MAX_FIGURE for wait_ms in self.device_waits_ms.values())
            )
            and (
                not self.further
                or all(0 <= figure <= MAX_FIGURE for tier in self.further.values() for figure in tier.figures())
            )
        ):
            self._complain()

    def _complain(self) -> None:
        figures: dict[str, float] = {
            "device_load": self.device_load,
            "gateway_load": self.gateway_load,
            "gateway_wait_ms": self.gateway_wait_ms,
            "gateway_queue": self.gateway_queue,
            "device_spread": self.device_spread,
            "gateway_spread": self.gateway_spread,
            "uplink_wait_ms": self.uplink_wait_ms,
            "downlink_wait_ms": self.downlink_wait_ms,
            **{f"wait at {cut or 'the input'!r}": wait_ms for cut, wait_ms in self.gateway_waits_ms.items()},
            **{f"wait here for {cut or 'the model'!r}": ms for cut, ms in self.device_waits_ms.items()},
        }
        if self.period_ms is not None:
            figures["period_ms"] = self.period_ms
        if self.complexity is not None:
            figures["complexity"] = self.complexity
        if self.link is not None:
            figures |= {f"link.{each}": getattr(self.link, each) for each in _LINK_FIGURES}
        for name, tier in self.further.items():
            figures |= {f"{name}.link.{each}": getattr(tier.link, each) for each in _LINK_FIGURES}
            figures |= {f"{name}.load": tier.load, f"{name}.wait_ms": tier.wait_ms, f"{name}.queue": tier.queue}
        for name, value in figures.items():
            if not 0 <= value <= MAX_FIGURE:
                raise PlanError(
                    f"the state's {name} is {value}, needed a finite number of 0 or more, up to {MAX_FIGURE:g}"
                )
        raise PlanError(f"the state's complexity is {self.complexity}, needed a score of 0 to 100")


@dataclass(frozen=True, slots=True)
class Tariff:
    """What is paid, in any currency: for an hour of a gateway's computing, for 10⁹ bytes sent or received by the
    device, and for a kilowatt-hour that the device draws.

    Raises PlanError where one is below 0 or beyond 10¹⁵, or none above 0.
    """

    gateway_hour: float = 0.0
    gigabyte: float = 0.0
    kilowatt_hour: float = 0.0

    def __post_init__(self) -> None:
        prices = (self.gateway_hour, self.gigabyte, self.kilowatt_hour)
        if not all(isinstance(price, Real) and 0 <= price <= MAX_FIGURE for price in prices) or not any(prices):
            raise PlanError(f"{self} has no price above 0, or one that is none; give at least one")


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise, and what must hold.

    ``kind`` is latency (ms), energy (mJ of the device), throughput (ms between two results), or cost by a ``tariff``
    (for a million inputs). With a ``quantile`` of 0.5 to 1, latencies are those that this share of inputs does not
    exceed, by the spreads of the state, for the deadline too. Lossy codecs and early exits are allowed where their
    measured agreement reaches ``min_agreement``; 0 allows all of them. ``max_device_memory_bytes`` bounds what the
    device's layers take, ``energy_budget_mj`` what the device may draw for one input.
    Raises PlanError where a value is none that it can be.
    """

    kind: ObjectiveKind = "latency"
    deadline_ms: float | None = None
    min_agreement: float = 1.0
    keep_input_local: bool = False
    quantile: float | None = None
    max_device_memory_bytes: float | None = None
    energy_budget_mj: float | None = None
    tariff: Tariff | None = None

    def __post_init__(self) -> None:
        kinds = get_args(ObjectiveKind)
        if self.kind not in kinds:
            raise PlanError(f"the objective {self.kind!r} is unknown; take one of {', '.join(kinds)}")
        if not isinstance(self.min_agreement, Real) or not 0 <= self.min_agreement <= 1:
            raise PlanError(f"min_agreement is {self.min_agreement!r}, needed a share of 0 to 1")
        for name in ("deadline_ms", "max_device_memory_bytes", "energy_budget_mj"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and 0 < value < math.inf):
                raise PlanError(f"{name} is {value!r}, needed a finite number above 0")
        if self.quantile is not None and not (
            isinstance(self.quantile, Real) and _FEWEST_OF_100 <= 100 * self.quantile < 100
        ):
            raise PlanError(f"quantile is {self.quantile!r}, needed a share of 0.5 to less than 1")
        if (self.kind == "cost") != (self.tariff is not None):
            raise PlanError("the objective cost and a tariff go together; give both or none")


def stretch(load: float) -> float:
    """How much longer work takes where others have this share of a machine."""
    return 1.0 / (1.0 - min(load, MAX_LOAD))


def _carries(link: LinkState) -> bool:
    """What no link is as slow as carries nothing."""
    return link.uplink_kbps >= PLAUSIBLE_KBPS[0] and link.downlink_kbps >= PLAUSIBLE_KBPS[0]


def _figures(link: LinkState) -> tuple[float, ...]:
    return tuple(getattr(link, each) for each in _LINK_FIGURES)
