"""The decision: of all candidates, the one that the objective likes best in the present state.

The formulas are explained in ``docs/planner.md``. Nothing here reads a clock or a file: the same arguments
always give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Literal, get_args

from midstream.errors import PlanError
from midstream.partitioning.costs import Candidate
from midstream.partitioning.link import LinkState
from midstream.partitioning.plan import DEVICE, GATEWAY, Plan, Stage
from midstream.profiles import Power

ObjectiveKind = Literal["latency", "energy", "throughput"]
Option = Literal["local", "input", "split"]

MAX_LOAD = 0.99
# The share of its device time that a candidate is charged on top, in the ranking only, at a complexity
# score of 100. A policy, not a measurement: a static model takes equally long on every input.
COMPLEXITY_WEIGHT = 0.05


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


@dataclass(frozen=True, slots=True)
class Objective:
    """What to minimise (ms, mJ of the device, or ms between two results) and what must hold.

    Lossy codecs are allowed where their measured agreement reaches ``min_agreement``; 0 allows all of them. Raises
    PlanError where a value is none that it can be.
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


@dataclass(frozen=True, slots=True)
class Prediction:
    """A candidate in a state: time to the result, the device's energy, the slowest stage's time.

    They are means over what an early exit answers and what it does not; ``latest_ms`` is the latency where it does not.
    """

    latency_ms: float
    energy_mj: float
    period_ms: float
    latest_ms: float


def predict(candidate: Candidate, state: SystemState, power: Power) -> Prediction:
    """What a candidate costs in this state. Raises PlanError if the state is invalid or the link is down."""
    _check_state(state)
    return _predict(candidate, state, power)


def plan_for(candidate: Candidate, state: SystemState, power: Power, why: str) -> Plan:
    """The plan of a candidate already chosen, such as a forced one. Raises PlanError like `predict`."""
    prediction = predict(candidate, state, power)
    stages = ((DEVICE, candidate.head), (GATEWAY, candidate.tail))
    return Plan(
        stages=tuple(Stage(machine, nodes) for machine, nodes in stages if nodes),
        cut=candidate.cut,
        codec=candidate.codec,
        predicted_ms=prediction.latency_ms,
        energy_mj=prediction.energy_mj,
        payload_bytes=candidate.payload_bytes,
        why=why,
        keeps_input=not candidate.sends_input,
        exit=candidate.exit,
        exit_share=candidate.exit_share,
    )


def decide(candidates: Sequence[Candidate], state: SystemState, objective: Objective, power: Power) -> Plan:
    """The best plan there is for one input.

    Candidates that break a constraint are left out. Of the rest, those predicted to meet the deadline are
    preferred; where none does, the fastest is taken and ``why`` says so. A higher ``complexity`` never
    moves work to the device, all else equal. Raises PlanError where the state is invalid, or nothing is left
    to choose from.
    """
    _check_state(state)
    refused = [_refusal(candidate, state, objective) for candidate in candidates]
    allowed = [
        _Ranked(candidate, state, objective, power)
        for candidate, refusal in zip(candidates, refused, strict=True)
        if refusal is None
    ]
    if not allowed:
        raise PlanError(
            f"no plan is possible: of {len(candidates)} candidates none is allowed "
            f"({', '.join(sorted({refusal for refusal in refused if refusal})) or 'none was given'}); "
            "relax the constraint, or allow the whole model on the device"
        )
    timely = [entry for entry in allowed if entry.timely]
    best = min(timely, key=_Ranked.rank) if timely else min(allowed, key=_Ranked.speed)
    others = _best_of_other_kinds(best, allowed, by_speed=not timely)
    why = _explain(best, others, objective, {refusal for refusal in refused if refusal}, missed=not timely)
    return plan_for(best.candidate, state, power, why)


class _Ranked:
    """A candidate with its predictions and its places in the two rankings."""

    def __init__(self, candidate: Candidate, state: SystemState, objective: Objective, power: Power) -> None:
        self.candidate = candidate
        self.prediction = _predict(candidate, state, power)
        self.value = _value(self.prediction, objective.kind)
        own_ms = candidate.device_ms + (1.0 - candidate.exit_share) * candidate.rest_ms
        own = power.busy_w * own_ms if objective.kind == "energy" else _stretched(own_ms, state)
        # Linear in the score, with a slope that grows with the device's part: only so is the choice monotone.
        self.weighted = self.value + COMPLEXITY_WEIGHT * (state.complexity or 0.0) / 100.0 * own
        self.timely = objective.deadline_ms is None or self.prediction.latest_ms <= objective.deadline_ms
        self.kind: Option = "local" if not candidate.offloads else "split" if candidate.head else "input"

    def rank(self) -> tuple[float, float, float]:
        """By the objective; equals by latency, then by less work on the device."""
        return self.weighted, self.prediction.latency_ms, self.candidate.device_ms

    def speed(self) -> tuple[float, float]:
        return self.prediction.latest_ms, self.candidate.device_ms


def _stretched(device_ms: float, state: SystemState) -> float:
    return device_ms / (1.0 - min(state.device_load, MAX_LOAD))


def _predict(candidate: Candidate, state: SystemState, power: Power) -> Prediction:
    onward = 1.0 - candidate.exit_share
    device_ms = _stretched(candidate.device_ms, state)
    if not candidate.offloads:
        rest_ms = _stretched(candidate.rest_ms, state)
        mean_ms = device_ms + onward * rest_ms
        busy_mj = power.busy_w * (candidate.device_ms + onward * candidate.rest_ms)
        return Prediction(mean_ms, busy_mj, mean_ms, device_ms + rest_ms)
    link = state.link
    if link is None or not _up(link):
        raise PlanError(f"cut {candidate.cut or 'none'} needs a gateway, and no link is up; run all on the device")
    upload_ms = candidate.payload_bytes * 8 / link.uplink_kbps
    download_ms = candidate.reply_bytes * 8 / link.downlink_kbps
    gateway_ms = candidate.gateway_ms / (1.0 - min(state.gateway_load, MAX_LOAD))
    queue_ms = state.gateway_waits_ms.get(candidate.cut, state.gateway_wait_ms)
    waiting_ms = link.rtt_ms + upload_ms + queue_ms + gateway_ms + candidate.decode_ms + download_ms
    radio_mj = power.radio_uj_per_byte * (candidate.payload_bytes + candidate.reply_bytes) / 1e3
    onward_mj = power.busy_w * candidate.encode_ms + power.idle_w * waiting_ms + radio_mj
    return Prediction(
        latency_ms=device_ms + onward * (candidate.encode_ms + waiting_ms),
        energy_mj=power.busy_w * candidate.device_ms + onward * onward_mj,
        period_ms=max(
            device_ms + onward * candidate.encode_ms,
            onward * upload_ms,
            onward * (gateway_ms + candidate.decode_ms),
            onward * download_ms,
        ),
        latest_ms=device_ms + candidate.encode_ms + waiting_ms,
    )


def _value(prediction: Prediction, kind: ObjectiveKind) -> float:
    if kind == "energy":
        return prediction.energy_mj
    return prediction.period_ms if kind == "throughput" else prediction.latency_ms


def _refusal(candidate: Candidate, state: SystemState, objective: Objective) -> str | None:
    """The constraint that a candidate breaks, in words, or None."""
    if candidate.offloads and (state.link is None or not _up(state.link)):
        return "no link to a gateway is up"
    if objective.keep_input_local and candidate.sends_input:
        return "the input may not leave the device"
    if candidate.lossless or objective.min_agreement == 0:
        return None
    lossy = "lossy codecs" if candidate.exit is None else "answers of an early exit"
    if candidate.agreement is None:
        return f"the agreement of {lossy} is not measured"
    if objective.min_agreement == 1:
        return f"an agreement of 1 allows no {lossy}"
    if candidate.agreement < objective.min_agreement:
        return f"{lossy} do not reach an agreement of {objective.min_agreement:g}"
    return None


def _best_of_other_kinds(best: _Ranked, allowed: Sequence[_Ranked], by_speed: bool) -> list[_Ranked]:
    found: list[_Ranked] = []
    for kind in get_args(Option):
        entries = [entry for entry in allowed if entry.kind == kind != best.kind]
        if not entries:
            continue
        timely = [entry for entry in entries if entry.timely] or entries
        found.append(min(entries, key=_Ranked.speed) if by_speed else min(timely, key=_Ranked.rank))
    return found


def _explain(best: _Ranked, others: Sequence[_Ranked], objective: Objective, refusals: set[str], missed: bool) -> str:
    """One sentence: what was chosen, over what, by which numbers."""
    if missed:
        rest = "".join(f", then {_at_latest(entry)}" for entry in others)
        return f"nothing meets the deadline of {objective.deadline_ms:g} ms: {_at_latest(best)} is the fastest{rest}"
    kind = objective.kind
    if not others:
        reason = "; ".join(sorted(refusals)) or "there is no other option"
        return f"{_words(best, kind)}: {reason}"
    beaten = [entry for entry in others if entry.timely and entry.value >= best.value]
    heavier = [entry for entry in others if entry.timely and entry.value < best.value]
    late = [entry for entry in others if not entry.timely]
    parts = []
    if beaten:
        parts.append("beats " + " and ".join(_words(entry, kind) for entry in beaten))
    if heavier:
        parts.append(
            "is preferred to "
            + " and ".join(_words(entry, kind) for entry in heavier)
            + ", as a complex input weighs the device's time up"
        )
    if late:
        names = " and ".join(_at_latest(entry) for entry in late)
        parts.append(f"meets the deadline of {objective.deadline_ms:g} ms, unlike {names}")
    return f"{_words(best, kind)} {', and '.join(parts)}"


def _words(entry: _Ranked, kind: ObjectiveKind) -> str:
    unit = {"latency": "ms", "energy": "mJ", "throughput": "ms an input"}[kind]
    return f"{_name(entry)} ({_value(entry.prediction, kind):.1f} {unit})"


def _at_latest(entry: _Ranked) -> str:
    """As a deadline is met or missed: without an early exit's answer."""
    return f"{_name(entry)} ({entry.prediction.latest_ms:.1f} ms)"


def _name(entry: _Ranked) -> str:
    codec = entry.candidate.codec
    name = "local"
    if entry.kind == "input":
        name = f"sending the input as {codec}"
    elif entry.kind == "split":
        name = f"cut {entry.candidate.cut} as {codec}"
    if entry.candidate.exit is None:
        return name
    return f"{name} behind the early exit at {entry.candidate.exit}"


def _up(link: LinkState) -> bool:
    return link.uplink_kbps > 0 and link.downlink_kbps > 0


def _check_state(state: SystemState) -> None:
    figures: dict[str, float] = {
        "device_load": state.device_load,
        "gateway_load": state.gateway_load,
        "gateway_wait_ms": state.gateway_wait_ms,
        **{f"wait at {cut or 'the input'!r}": wait_ms for cut, wait_ms in state.gateway_waits_ms.items()},
    }
    if state.complexity is not None:
        figures["complexity"] = state.complexity
    if state.link is not None:
        figures["link.uplink_kbps"] = state.link.uplink_kbps
        figures["link.downlink_kbps"] = state.link.downlink_kbps
        figures["link.rtt_ms"] = state.link.rtt_ms
    for name, value in figures.items():
        if not math.isfinite(value) or value < 0:
            raise PlanError(f"the state's {name} is {value}, needed a finite number of 0 or more")
    if state.complexity is not None and state.complexity > 100:
        raise PlanError(f"the state's complexity is {state.complexity}, needed a score of 0 to 100")
