"""Candidates as columns of numbers, so that pricing all of them in a state is a few products.

The formulas are explained in ``docs/planner.md``. Times in ms, energy in mJ, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from midstream.partitioning.costs import Candidate, Numbers
from midstream.partitioning.fallback import reserved_ms
from midstream.partitioning.further import MOST_WAITING, Far
from midstream.partitioning.state import Objective, SystemState, Tariff, stretch
from midstream.profiles import Power

# The share of its device time that a candidate is charged on top, in the ranking only, at a complexity
# score of 100. A policy, not a measurement: a static model takes equally long on every input.
COMPLEXITY_WEIGHT = 0.05

# The share of its work at a gateway that a candidate is charged on top, in the ranking only, for each request that
# waits there, up to `MOST_WAITING`: as many are to come, and what it takes there they wait longer.
CONGESTION_WEIGHT = 0.1

# The columns of what is only done where no early exit has answered.
_REST, _ENCODE, _GATEWAY, _DECODE, _REPLY, _OFFLOADS = range(6)


@dataclass(frozen=True, slots=True)
class Prices:
    """Of each candidate in a state: mean latency, latency without an exit's answer, energy, slowest stage, and cost.

    Latencies are of the objective's quantile where it has one; there is no cost without a tariff.
    """

    latency_ms: Numbers
    latest_ms: Numbers
    energy_mj: Numbers
    period_ms: Numbers
    cost: Numbers | None

    def of(self, kind: str) -> Numbers:
        """What an objective minimises."""
        if kind == "cost" and self.cost is not None:
            return self.cost
        return {"latency": self.latency_ms, "energy": self.energy_mj, "throughput": self.period_ms}[kind]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What differs from input to input: payloads by row, the size of the reply, and how likely an exit answers.

    None stands for what the candidates say. ``turn``, 0 to 1 and evenly spread over inputs, is given where some of
    these may be answered here while others are sent, for throughput.
    """

    payload_bytes: Numbers | None = None
    reply_bytes: float | None = None
    exit_share: float | None = None
    turn: float | None = None


MEAN = Inputs()


class Columns:
    """Some of the candidates, by less work on the device first, with what pricing needs of them."""

    def __init__(self, candidates: Sequence[Candidate], rows: NDArray[np.intp], power: Power) -> None:
        chosen = [candidates[row] for row in rows]
        self.rows = rows
        self._places = {int(row): at for at, row in enumerate(rows)}
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
        self._fallback_ms = np.array([each.fallback_ms for each in chosen], float)
        self._reply_share = np.array([each.reply_share for each in chosen], float)
        self._exit = np.array([each.exit is not None for each in chosen], float)
        self._answered = np.array([each.exit_share for each in chosen], float)
        self._has_exits = bool(self._exit.any())
        self._cuts = tuple(dict.fromkeys(each.cut for each in chosen if each.tail))
        place = {cut: at for at, cut in enumerate(self._cuts)}
        # The last place stands for what does not wait at the gateway.
        self._cut = np.array([place[each.cut] if each.tail else len(place) for each in chosen], np.intp)
        heads = [each.exit or each.cut if each.head else None for each in chosen]
        self._heads = tuple(dict.fromkeys(heads))
        self._head = np.array(
            [
                self._heads.index(head) if each.device_ms else len(self._heads)
                for head, each in zip(heads, chosen, strict=True)
            ],
            np.intp,
        )
        self._far = Far(chosen) if any(each.legs for each in chosen) else None

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int | None) -> int | None:
        """Where a candidate is among these, None where it is not."""
        return None if row is None else self._places.get(row)

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
        now, later = self._now_ms(state), self._later_ms(state, inputs)
        if _has_backlog(state):
            later = later + self._backlog_ms(state, inputs, now, later)
        latest = now + later
        return (now + self.onward(inputs) * later if self._has_exits else latest), latest

    def _later_ms(self, state: SystemState, inputs: Inputs) -> Numbers:
        """What comes after the device's first part, where no exit answers and nothing else is under way."""
        slower, link = stretch(state.device_load), state.link
        if link is None or not state.link_is_up:
            return np.asarray(self._later[:, _REST] * slower)
        per_reply = 8.0 / link.downlink_kbps
        weights = np.array((slower, 1.0, stretch(state.gateway_load), 1.0, per_reply, link.rtt_ms + _wait_ms(state)))
        later = self._sent(weights, inputs, 8.0 / link.uplink_kbps, per_reply)
        if state.gateway_waits_ms:
            later += self._waits_ms(state)
        if self._far is not None:
            later += self._beyond_ms(self._far, state, inputs)
        return later

    def quantile_ms(self, quantile: float, state: SystemState, inputs: Inputs) -> tuple[Numbers, Numbers]:
        """What this share of inputs does not exceed, of all and of those without an exit's answer.

        Parts are taken to vary independently and normally. An exit that answers this share takes its time alone.
        """
        _, latest = self.latency_ms(state, inputs)
        more = _normal_quantile(quantile) * self._deviation_ms(state, inputs)
        latest = latest + more
        if not self._has_exits:
            return latest, latest
        answered = 1.0 - self.onward(inputs)
        now = self._now_ms(state) + more
        return np.where(answered >= quantile, np.minimum(now, latest), latest), latest

    def energy_mj(self, state: SystemState, inputs: Inputs) -> Numbers:
        """What the device draws, on average."""
        link, idle_w, radio = state.link, self._power.idle_w, self._power.radio_uj_per_byte / 1e3
        busy_w = self._power.busy_w
        if link is None or not state.link_is_up:
            later = self._later[:, _REST] * busy_w
        else:
            gateway, per_reply = (
                idle_w * stretch(state.gateway_load),
                idle_w * 8.0 / link.downlink_kbps + radio,
            )
            waiting = idle_w * (link.rtt_ms + _wait_ms(state))
            weights = np.array((busy_w, busy_w, gateway, idle_w, per_reply, waiting))
            later = self._sent(weights, inputs, idle_w * 8.0 / link.uplink_kbps + radio, per_reply)
            if state.gateway_waits_ms:
                later += idle_w * self._waits_ms(state)
            if self._far is not None:
                later += idle_w * self._beyond_ms(self._far, state, inputs)
            if _has_backlog(state):
                now, alone = self._now_ms(state), self._later_ms(state, inputs)
                later += idle_w * self._backlog_ms(state, inputs, now, alone)
        return np.asarray(busy_w * self.device_ms + self.onward(inputs) * later)

    def period_ms(self, state: SystemState, inputs: Inputs) -> Numbers:
        """The slowest of the stages that work on different inputs at once: machines, and the ways between them."""
        return np.maximum(*self._stages_ms(state, inputs))

    def _stages_ms(self, state: SystemState, inputs: Inputs) -> tuple[Numbers, Numbers]:
        """The device's part, and the slowest of the others."""
        onward, link = self.onward(inputs), state.link
        device = self.work_ms(onward) * stretch(state.device_load) + onward * self._later[:, _ENCODE]
        if link is None or not state.link_is_up:
            return np.asarray(device), np.zeros(len(self))
        gateway = self._later[:, _GATEWAY] * stretch(state.gateway_load) + self._later[:, _DECODE]
        up = self.payloads(inputs) * (8.0 / link.uplink_kbps)
        down = (self._later[:, _REPLY] + self._reply(inputs)) * (8.0 / link.downlink_kbps)
        others = np.maximum(np.maximum(up, gateway), down)
        if self._far is not None:
            others = np.maximum(others, self._far.period_ms(state, self.payloads(inputs)))
        return np.asarray(device), np.asarray(onward * others)

    def mixed_period_ms(self, local: int, state: SystemState, inputs: Inputs) -> tuple[Numbers, Numbers]:
        """The same where the device answers other inputs by itself while one is under way, and the share of those.

        Of a candidate that takes d of the device and whose slowest other stage takes m, x = min(1/m, 1/d) inputs a
        millisecond go its way, and y = (1 − x · d) / L are answered here, where L is what the one at the place
        ``local`` takes: the period is 1 / (x + y).
        """
        device, others = self._stages_ms(state, inputs)
        sent = 1.0 / np.maximum(np.maximum(device, others), 1e-9)
        here = np.maximum(0.0, 1.0 - sent * device) / max(float(device[local]), float(others[local]))
        return 1.0 / (sent + here), here / (sent + here)

    def cost(self, tariff: Tariff, state: SystemState, inputs: Inputs) -> Numbers:
        """What a million inputs cost."""
        onward, offloads = self.onward(inputs), self._later[:, _OFFLOADS]
        sent = offloads * self.payloads(inputs) + self._later[:, _REPLY] + self._reply(inputs)
        there = self._gateway_work_ms() * (tariff.gateway_hour / 3.6) + sent * (tariff.gigabyte * 1e-3)
        return np.asarray(onward * there + self.energy_mj(state, inputs) * (tariff.kilowatt_hour / 3600.0))

    def charge(self, state: SystemState, objective: Objective, inputs: Inputs) -> Numbers:
        """What a complex input's candidates are charged for the device's work, in the ranking only.

        Linear in the score, with a slope that grows with the device's part: only so is the choice monotone. In the
        objective's unit; where that is money, the device's time counts as a gateway's or as what it draws would.
        """
        own = self.work_ms(self.onward(inputs))
        unit = stretch(state.device_load)
        if objective.kind == "energy":
            unit = self._power.busy_w
        elif objective.tariff is not None:
            unit = max(
                objective.tariff.gateway_hour / 3.6, self._power.busy_w * objective.tariff.kilowatt_hour / 3600.0
            )
        return own * (COMPLEXITY_WEIGHT * (state.complexity or 0.0) / 100.0 * unit)

    def congestion_ms(self, state: SystemState, inputs: Inputs) -> Numbers:
        """What candidates are charged for the work that they leave to machines which others wait for."""
        found = self._later[:, _GATEWAY] * min(state.gateway_queue, MOST_WAITING)
        if self._far is not None:
            found = found + self._far.congestion_ms(state)
        return np.asarray(CONGESTION_WEIGHT * self.onward(inputs) * found)

    def held_up_ms(self, state: SystemState, inputs: Inputs) -> Numbers:
        """What candidates are charged for what the next input would wait for them, on the device and on its link.

        Where a slice, or one way of the link, is busy for b already and this adds w, the next input, in the period p,
        finds b + w − p left, and waits up to w longer for it. While nothing waits for anything, nothing is charged: who
        asks again only when it has its answer never waits.
        """
        period_ms, link = state.period_ms, state.link
        if period_ms is None or not (state.device_waits_ms or state.uplink_wait_ms or state.downlink_wait_ms):
            return np.zeros(len(self))
        onward, slower = self.onward(inputs), stretch(state.device_load)
        work = slower * (self.device_ms + onward * self._later[:, _REST])
        waits = self._own_waits_ms(state) if state.device_waits_ms else 0.0
        found = _held_up_ms(work, waits, period_ms)
        if link is not None and state.link_is_up:
            ready = self._now_ms(state) + self._later[:, _ENCODE]
            up = self.payloads(inputs) * (8.0 / link.uplink_kbps)
            found += onward * _held_up_ms(up, np.maximum(0.0, state.uplink_wait_ms - ready), period_ms)
            down = (self._later[:, _REPLY] + self._reply(inputs)) * (8.0 / link.downlink_kbps)
            found += onward * _held_up_ms(down, np.maximum(0.0, state.downlink_wait_ms - ready - up), period_ms)
        return found

    def timely(self, latest_ms: Numbers, state: SystemState, deadline_ms: float) -> NDArray[np.bool_]:
        """Which keep the deadline even where no answer comes: those that the device gives up early enough to finish.

        Answers are to come by then, and with the reserve that the device has for its own work.
        """
        rest = np.asarray(self._fallback_ms * stretch(state.device_load))
        until = np.where(rest > 0, deadline_ms - reserved_ms(rest), deadline_ms)
        return np.asarray(np.where(rest > 0, reserved_ms(latest_ms), latest_ms) <= until)

    def prices(self, state: SystemState, objective: Objective, inputs: Inputs) -> Prices:
        """All of them."""
        latency, latest = self.times_ms(state, objective, inputs)
        return Prices(
            latency,
            latest,
            self.energy_mj(state, inputs),
            self.period_ms(state, inputs),
            None if objective.tariff is None else self.cost(objective.tariff, state, inputs),
        )

    def value(self, objective: Objective, state: SystemState, inputs: Inputs) -> tuple[Numbers, Numbers, Numbers]:
        """What the objective minimises, and both latencies."""
        latency, latest = self.times_ms(state, objective, inputs)
        if objective.kind == "latency":
            return latency, latency, latest
        if objective.tariff is not None:
            return self.cost(objective.tariff, state, inputs), latency, latest
        return (self.energy_mj if objective.kind == "energy" else self.period_ms)(state, inputs), latency, latest

    def times_ms(self, state: SystemState, objective: Objective, inputs: Inputs) -> tuple[Numbers, Numbers]:
        """Both latencies, of the objective's quantile or as means."""
        if objective.quantile is None:
            return self.latency_ms(state, inputs)
        return self.quantile_ms(objective.quantile, state, inputs)

    def _deviation_ms(self, state: SystemState, inputs: Inputs) -> Numbers:
        """The standard deviation of the latency without an exit's answer."""
        device = (self.device_ms + self._later[:, _REST]) * (stretch(state.device_load) * state.device_spread)
        variance = device**2
        if state.link is not None and state.link_is_up:
            gateway = self._later[:, _GATEWAY] * (stretch(state.gateway_load) * state.gateway_spread)
            up = self.payloads(inputs) * (8.0 / state.link.uplink_kbps * state.link.uplink_spread)
            variance += gateway**2 + up**2 + self._later[:, _OFFLOADS] * state.link.rtt_spread_ms**2
            if self._far is not None:
                variance += self._far.variance(state, self.payloads(inputs))
        return np.asarray(np.sqrt(variance))

    def _gateway_work_ms(self) -> Numbers:
        """What machines other than the device compute for a candidate."""
        near: Numbers = self._later[:, _GATEWAY] + self._later[:, _DECODE]
        return near if self._far is None else near + self._far.work_ms()

    def _sent(self, weights: Numbers, inputs: Inputs, per_byte: float, per_reply_byte: float) -> Numbers:
        """The columns by these weights, and the bytes of this input by theirs."""
        found: Numbers = self._later @ weights
        found += self.payloads(inputs) * per_byte
        if inputs.reply_bytes is not None:
            found += self._reply(inputs) * per_reply_byte
        return found

    def _waits_ms(self, state: SystemState) -> Numbers:
        """The wait at each candidate's tail, where these differ."""
        waits = [state.wait_at(cut) for cut in self._cuts]
        return np.array([*waits, 0.0])[self._cut]

    def _beyond_ms(self, far: Far, state: SystemState, inputs: Inputs) -> Numbers:
        """What further machines add to the latency, where the gateway itself does nothing without its wait."""
        return far.latency_ms(state, self.payloads(inputs)) - far.past_gateway * _wait_ms(state)

    def _backlog_ms(self, state: SystemState, inputs: Inputs, now: Numbers, later: Numbers) -> Numbers:
        """What each waits on the link for what the device has under way there: none for itself, all on both ways."""
        reply = (self._later[:, _REPLY] + self._reply(inputs)) * (8.0 / state.link.downlink_kbps) if state.link else 0.0
        up = np.maximum(0.0, state.uplink_wait_ms - (now + self._later[:, _ENCODE]))
        down = np.maximum(0.0, state.downlink_wait_ms - (now + later + up - reply))
        return np.asarray(self._later[:, _OFFLOADS] * (up + down))

    def _now_ms(self, state: SystemState) -> Numbers:
        """What the device always does first, with what that waits for."""
        now = self.device_ms * stretch(state.device_load)
        return now + self._own_waits_ms(state) if state.device_waits_ms else now

    def _own_waits_ms(self, state: SystemState) -> Numbers:
        """What each candidate's first slice waits for others here."""
        waits = [state.device_waits_ms.get(head, 0.0) for head in self._heads]
        return np.array([*waits, 0.0])[self._head]

    def _reply(self, inputs: Inputs) -> Numbers | float:
        """What the size of this reply is more than the candidates say."""
        if inputs.reply_bytes is None:
            return 0.0
        known = self._later[:, _REPLY]
        return np.asarray(np.where(known > 0, inputs.reply_bytes * self._reply_share - known, 0.0))


def _wait_ms(state: SystemState) -> float:
    """The wait that is the same for all tails; where they differ, each has its own on top of none."""
    return 0.0 if state.gateway_waits_ms else state.gateway_wait_ms


def _held_up_ms(work: Numbers, wait: Numbers | float, period_ms: float) -> Numbers:
    return np.asarray(np.minimum(work, np.maximum(0.0, wait + work - period_ms)))


def _has_backlog(state: SystemState) -> bool:
    """Whether the device has anything under way on a link that is up."""
    return bool(state.uplink_wait_ms or state.downlink_wait_ms) and state.link_is_up


@lru_cache(maxsize=64)
def _normal_quantile(share: float) -> float:
    return NormalDist().inv_cdf(share)
