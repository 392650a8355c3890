"""All candidates as columns of numbers, so that pricing them is a few products, and a decision takes microseconds.

The formulas are explained in ``docs/planner.md``. Times in ms, energy in mJ, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from midstream.errors import PlanError
from midstream.partitioning.costs import Candidate
from midstream.partitioning.plan import DEVICE, GATEWAY, Stage
from midstream.partitioning.state import MAX_LOAD, Objective, SystemState
from midstream.profiles import Power

Option = Literal["local", "input", "split"]
OPTIONS: tuple[Option, ...] = get_args(Option)

# The share of its device time that a candidate is charged on top, in the ranking only, at a complexity
# score of 100. A policy, not a measurement: a static model takes equally long on every input.
COMPLEXITY_WEIGHT = 0.05

Numbers = NDArray[np.float64]
# The columns of what is only done where no early exit has answered.
_REST, _ENCODE, _GATEWAY, _DECODE, _REPLY, _OFFLOADS = range(6)


@dataclass(frozen=True, slots=True)
class Prices:
    """Of each candidate in a state: mean latency, latency without an exit's answer, energy, and the slowest stage."""

    latency_ms: Numbers
    latest_ms: Numbers
    energy_mj: Numbers
    period_ms: Numbers

    def of(self, kind: str) -> Numbers:
        """What an objective minimises."""
        return {"latency": self.latency_ms, "energy": self.energy_mj, "throughput": self.period_ms}[kind]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What differs from input to input: payloads by row, the size of the reply, and how likely an exit answers.

    None stands for what the candidates say.
    """

    payload_bytes: Numbers | None = None
    reply_bytes: float | None = None
    exit_share: float | None = None


MEAN = Inputs()


class Chosen(NamedTuple):
    """A candidate's row, and its mean latency."""

    row: int
    latency_ms: float


class Columns:
    """Some of the candidates, by less work on the device first, with what pricing needs of them."""

    def __init__(self, candidates: Sequence[Candidate], rows: NDArray[np.intp], power: Power) -> None:
        chosen = [candidates[row] for row in rows]
        self.rows = rows
        self._power = power
        self.device_ms = np.array([each.device_ms for each in chosen], float)
        self.payload_bytes = np.array([each.payload_bytes for each in chosen], float)
        self._later = np.array(
            [
                (
                    each.rest_ms,
                    each.encode_ms,
                    each.gateway_ms,
                    each.decode_ms,
                    each.reply_bytes,
                    float(each.offloads),
                )
                for each in chosen
            ],
            float,
        ).reshape(-1, 6)
        self._exit = np.array([each.exit is not None for each in chosen], float)
        self._answered = np.array([each.exit_share for each in chosen], float)
        self._has_exits = bool(self._exit.any())
        self._cuts = tuple(dict.fromkeys(each.cut for each in chosen if each.offloads))
        place = {cut: at for at, cut in enumerate(self._cuts)}
        # The last place stands for what does not wait at a gateway.
        self._cut = np.array([place[each.cut] if each.offloads else len(place) for each in chosen], np.intp)

    def __len__(self) -> int:
        return len(self.rows)

    def payloads(self, inputs: Inputs) -> Numbers:
        """Bytes that each would send of this input."""
        return self.payload_bytes if inputs.payload_bytes is None else inputs.payload_bytes[self.rows]

    def onward(self, inputs: Inputs) -> Numbers | float:
        """The share of such inputs of which the rest has to be done."""
        if not self._has_exits:
            return 1.0
        return 1.0 - (self._answered if inputs.exit_share is None else self._exit * inputs.exit_share)

    def work_ms(self, onward: Numbers | float) -> Numbers:
        """What the device does itself, on average."""
        return np.asarray(self.device_ms + onward * self._later[:, _REST])

    def latency_ms(self, state: SystemState, inputs: Inputs) -> tuple[Numbers, Numbers]:
        """On average, and without an exit's answer."""
        stretch, link = 1.0 / (1.0 - min(state.device_load, MAX_LOAD)), state.link
        if link is None or not state.link_is_up:
            later = self._later[:, _REST] * stretch
        else:
            busy, per_reply = 1.0 / (1.0 - min(state.gateway_load, MAX_LOAD)), 8.0 / link.downlink_kbps
            weights = np.array((stretch, 1.0, busy, 1.0, per_reply, link.rtt_ms + _wait_ms(state)))
            later = self._sent(weights, inputs, 8.0 / link.uplink_kbps, per_reply)
            if state.gateway_waits_ms:
                later += self._waits_ms(state)
        now = self.device_ms * stretch
        latest = now + later
        return (now + self.onward(inputs) * later if self._has_exits else latest), latest

    def energy_mj(self, state: SystemState, inputs: Inputs) -> Numbers:
        """What the device draws, on average."""
        link, idle_w, radio = state.link, self._power.idle_w, self._power.radio_uj_per_byte / 1e3
        busy_w = self._power.busy_w
        if link is None or not state.link_is_up:
            later = self._later[:, _REST] * busy_w
        else:
            gateway, per_reply = (
                idle_w / (1.0 - min(state.gateway_load, MAX_LOAD)),
                idle_w * 8.0 / link.downlink_kbps + radio,
            )
            waiting = idle_w * (link.rtt_ms + _wait_ms(state))
            weights = np.array((busy_w, busy_w, gateway, idle_w, per_reply, waiting))
            later = self._sent(weights, inputs, idle_w * 8.0 / link.uplink_kbps + radio, per_reply)
            if state.gateway_waits_ms:
                later += idle_w * self._waits_ms(state)
        return np.asarray(busy_w * self.device_ms + self.onward(inputs) * later)

    def period_ms(self, state: SystemState, inputs: Inputs) -> Numbers:
        """The slowest of the stages that work on different inputs at once: device, uplink, gateway, downlink."""
        onward, link = self.onward(inputs), state.link
        stretch = 1.0 / (1.0 - min(state.device_load, MAX_LOAD))
        device = self.work_ms(onward) * stretch + onward * self._later[:, _ENCODE]
        if link is None or not state.link_is_up:
            return np.asarray(device)
        gateway = self._later[:, _GATEWAY] / (1.0 - min(state.gateway_load, MAX_LOAD)) + self._later[:, _DECODE]
        up = self.payloads(inputs) * (8.0 / link.uplink_kbps)
        down = (self._later[:, _REPLY] + self._reply(inputs)) * (8.0 / link.downlink_kbps)
        return np.asarray(np.maximum(device, onward * np.maximum(np.maximum(up, gateway), down)))

    def charge(self, state: SystemState, objective: Objective, inputs: Inputs) -> Numbers:
        """What a complex input's candidates are charged for the device's work, in the ranking only.

        Linear in the score, with a slope that grows with the device's part: only so is the choice monotone.
        """
        own = self.work_ms(self.onward(inputs))
        unit = self._power.busy_w if objective.kind == "energy" else 1.0 / (1.0 - min(state.device_load, MAX_LOAD))
        return own * (COMPLEXITY_WEIGHT * (state.complexity or 0.0) / 100.0 * unit)

    def prices(self, state: SystemState, inputs: Inputs) -> Prices:
        """All of them."""
        latency, latest = self.latency_ms(state, inputs)
        return Prices(latency, latest, self.energy_mj(state, inputs), self.period_ms(state, inputs))

    def value(self, kind: str, state: SystemState, inputs: Inputs) -> tuple[Numbers, Numbers, Numbers]:
        """What the objective minimises, and both latencies."""
        latency, latest = self.latency_ms(state, inputs)
        if kind == "latency":
            return latency, latency, latest
        return (self.energy_mj if kind == "energy" else self.period_ms)(state, inputs), latency, latest

    def _sent(self, weights: Numbers, inputs: Inputs, per_byte: float, per_reply_byte: float) -> Numbers:
        """The columns by these weights, and the bytes of this input by theirs."""
        found = self._later @ weights
        found += self.payloads(inputs) * per_byte
        if inputs.reply_bytes is not None:
            found += self._reply(inputs) * per_reply_byte
        return found

    def _waits_ms(self, state: SystemState) -> Numbers:
        """The wait at each candidate's tail, where these differ."""
        waits = [state.gateway_waits_ms.get(cut, state.gateway_wait_ms) for cut in self._cuts]
        return np.array([*waits, 0.0])[self._cut]

    def _reply(self, inputs: Inputs) -> Numbers | float:
        """What the size of this reply is more than the candidates say."""
        if inputs.reply_bytes is None:
            return 0.0
        known = self._later[:, _REPLY]
        return np.where(known > 0, inputs.reply_bytes - known, 0.0)


class Table:
    """The candidates of one bundle on one device and gateway, in their order, and decisions between them.

    Nothing changes after it was made but what it remembers of constraints; may be used by several threads.
    """

    def __init__(self, candidates: Sequence[Candidate], power: Power) -> None:
        self.candidates = tuple(candidates)
        self.power = power
        order = sorted(range(len(self.candidates)), key=lambda row: self.candidates[row].device_ms)
        self.payload_bytes = np.array([each.payload_bytes for each in self.candidates], float)
        self._by_device_ms = np.array(order, np.intp)
        self.stages = tuple(_stages(each) for each in self.candidates)
        self._alone: dict[int, Columns] = {}
        self._allowed: dict[tuple[float, bool, bool], tuple[Columns, frozenset[str]]] = {}

    def allowed(self, state: SystemState, objective: Objective) -> tuple[Columns, frozenset[str]]:
        """The candidates that break no constraint, and which ones the others break."""
        key = (objective.min_agreement, objective.keep_input_local, state.link_is_up)
        known = self._allowed.get(key)
        if known is None:
            refused = [refusal(each, state, objective) for each in self.candidates]
            rows = np.array([row for row in self._by_device_ms if refused[row] is None], np.intp)
            columns = Columns(self.candidates, rows, self.power)
            known = self._allowed[key] = columns, frozenset(filter(None, refused))
        return known

    def alone(self, row: int) -> Columns:
        """One candidate."""
        known = self._alone.get(row)
        if known is None:
            known = self._alone[row] = Columns(self.candidates, np.array([row], np.intp), self.power)
        return known

    def choose(self, state: SystemState, objective: Objective, inputs: Inputs = MEAN) -> Chosen:
        """The best candidate.

        Of those predicted to meet the deadline the best by the objective, else the fastest; equals by latency, then by
        less work on the device. Raises PlanError where none is allowed.
        """
        columns, refusals = self.allowed(state, objective)
        if not len(columns):
            reasons = ", ".join(sorted(refusals)) or "none was given"
            raise PlanError(
                f"no plan is possible: of {len(self.candidates)} candidates none is allowed ({reasons}); "
                "relax the constraint, or allow the whole model on the device"
            )
        value, latency, latest = columns.value(objective.kind, state, inputs)
        if state.complexity:
            value = value + columns.charge(state, objective, inputs)
        if objective.deadline_ms is not None:
            timely = latest <= objective.deadline_ms
            if not timely.any():
                best = int(latest.argmin())
                return Chosen(int(columns.rows[best]), float(latency[best]))
            value = np.where(timely, value, np.inf)
        best = int(value.argmin())
        equal = value == value[best]
        if np.count_nonzero(equal) > 1:
            best = int(np.where(equal, latency, np.inf).argmin())
        return Chosen(int(columns.rows[best]), float(latency[best]))


def _wait_ms(state: SystemState) -> float:
    """The wait that is the same for all tails; where they differ, each has its own on top of none."""
    return 0.0 if state.gateway_waits_ms else state.gateway_wait_ms


def refusal(candidate: Candidate, state: SystemState, objective: Objective) -> str | None:
    """The constraint that a candidate breaks, in words, or None."""
    if candidate.offloads and not state.link_is_up:
        return "no link to a gateway is up"
    if objective.keep_input_local and candidate.reveals_input:
        return "the input, or what is linear in it, may not leave the device"
    if objective.keep_input_local and candidate.reveals_input is None:
        return "the bundle does not say which cuts keep the input; convert the model again"
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


def option(candidate: Candidate) -> Option:
    """What kind of plan a candidate is."""
    return "local" if not candidate.offloads else "split" if candidate.head else "input"


def _stages(candidate: Candidate) -> tuple[Stage, ...]:
    parts = ((DEVICE, candidate.head), (GATEWAY, candidate.tail))
    return tuple(Stage(machine, nodes) for machine, nodes in parts if nodes)
