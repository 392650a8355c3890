"""Why a plan was chosen: worked out only when somebody asks, from what the decision was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from midstream.partitioning.columns import Columns, Inputs, Prices
from midstream.partitioning.plan import RunnerUp
from midstream.partitioning.state import Objective, SystemState
from midstream.partitioning.table import HYSTERESIS, OPTIONS, Chosen, Option, Table, can_be_reached, option, refusal

_UNITS = {"latency": "ms", "energy": "mJ", "throughput": "ms an input", "cost": "for a million"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """An allowed candidate with its figures; ``weighted`` is what it was ranked by."""

    row: int
    kind: Option
    name: str
    value: float
    weighted: float
    latency_ms: float
    latest_ms: float
    device_ms: float
    energy_mj: float
    congestion: float
    timely: bool
    frugal: bool

    @property
    def possible(self) -> bool:
        """Whether it is in time and within the budget."""
        return self.timely and self.frugal

    @property
    def rank(self) -> tuple[float, float, float]:
        """By the objective; equals by latency, then by less work on the device."""
        return self.weighted, self.latency_ms, self.device_ms

    @property
    def speed(self) -> tuple[float, float]:
        """By the latency that is certain."""
        return self.latest_ms, self.device_ms


@dataclass(frozen=True)
class Reasons:
    """One decision: what it chose among, in which state, for which objective and input.

    ``forced`` says who chose instead, where nothing was held against anything.
    """

    table: Table
    chosen: Chosen
    state: SystemState
    objective: Objective
    inputs: Inputs
    forced: str | None = None

    @property
    def row(self) -> int:
        """The chosen candidate."""
        return self.chosen.row

    @property
    def offloading_could_pay(self) -> bool:
        """Whether anything but the device alone could be best over any link."""
        return self.table.offloading_could_pay(self.state, self.objective)

    @property
    def reply_bytes(self) -> int:
        """What is expected to come back from elsewhere: the input's own size where that is known."""
        chosen = self.table.candidates[self.row]
        if self.inputs.reply_bytes is None or not chosen.reply_bytes:
            return chosen.reply_bytes
        return round(self.inputs.reply_bytes * chosen.reply_share)

    @property
    def explores(self) -> bool:
        """Whether it was taken to be measured, though another was predicted better."""
        return self.chosen.because == "explores"

    @property
    def stands(self) -> bool:
        """Whether it is the plan for the inputs to come, too."""
        return self.chosen.because in ("best", "stands")

    @property
    def wait_ms(self) -> float:
        """The wait at the first other machine that was counted with."""
        candidate = self.table.candidates[self.row]
        if candidate.legs and not candidate.tail:
            tier = self.state.further.get(candidate.legs[0].machine)
            return 0.0 if tier is None else tier.wait_ms
        return self.state.wait_at(candidate.cut)

    def energy_mj(self) -> float:
        """The device's, as predicted."""
        return float(self.table.alone(self.row).energy_mj(self.state, self.inputs)[0])

    def why(self) -> str:
        """One sentence: what was chosen, over what, by which numbers; or who chose it."""
        if self.forced is not None:
            return self.forced
        best = next(entry for entry in self._entries if entry.row == self.row)
        others = self._best_of_other_kinds(best)
        kind, deadline_ms = self.objective.kind, self.objective.deadline_ms
        if not best.timely:
            rest = "".join(f", then {_words(entry.name, entry.latest_ms, 'latency')}" for entry in others)
            words = _words(best.name, best.latest_ms, "latency")
            return f"nothing meets the deadline of {deadline_ms:g} ms: {words} is the fastest{rest}"
        if not best.frugal:
            budget = f"the energy budget of {self.objective.energy_budget_mj:g} mJ"
            return f"nothing keeps to {budget}: {_words(best.name, best.energy_mj, 'energy')} draws least"
        words = _words(best.name, best.value, kind)
        if self.chosen.best is not None:
            return f"{words} {self._passed_over(self.chosen.best)}"
        fewer = self._fewer_machines(best)
        if not others and fewer is None:
            return f"{words}: {'; '.join(sorted(self._refusals)) or 'there is no other option'}"
        possible = [entry for entry in others if entry.possible]
        beaten = [entry for entry in possible if entry.value >= best.value]
        late = [entry for entry in others if not entry.timely]
        dear = [entry for entry in others if entry.timely and not entry.frugal]
        parts = []
        if beaten:
            parts.append(f"beats {_listed(beaten, kind)}")
        parts += self._charged([entry for entry in possible if entry.value < best.value], best)
        if fewer is not None:
            parts.append(f"is preferred to {_listed([fewer], kind)}, as a complex input is shared by more machines")
        if late:
            names = " and ".join(f"{entry.name} ({entry.latest_ms:.1f} ms)" for entry in late)
            parts.append(f"meets the deadline of {deadline_ms:g} ms, unlike {names}")
        if dear:
            names = _listed(dear, "energy", [entry.energy_mj for entry in dear])
            parts.append(f"keeps to the energy budget of {self.objective.energy_budget_mj:g} mJ, unlike {names}")
        return f"{words} {', and '.join(parts)}"

    def _charged(self, better: Sequence[_Entry], best: _Entry) -> list[str]:
        """Why these, of less value, were left: for what they leave to a busy gateway, else as the input is complex."""
        kind = self.objective.kind
        busy = [entry for entry in better if entry.congestion > best.congestion]
        heavier = [entry for entry in better if entry.congestion <= best.congestion]
        parts = []
        if busy:
            parts.append(f"is preferred to {_listed(busy, kind)}, which would take a busy gateway from others")
        if heavier:
            parts.append(f"is preferred to {_listed(heavier, kind)}, as a complex input weighs the device's time up")
        return parts

    def _passed_over(self, row: int) -> str:
        """Why the best, which is this one, was not taken."""
        better = next(entry for entry in self._entries if entry.row == row)
        words = _words(better.name, better.value, self.objective.kind)
        if self.chosen.because == "stands":
            return f"stays the plan, as {words} is ranked before it by no more than {HYSTERESIS:.0%}"
        if self.chosen.because == "shares":
            return f"takes its turn, while other inputs go by {words}"
        return f"is tried, as it was not measured lately and {words} is hardly better"

    def explain(self) -> list[RunnerUp]:
        """All candidates: the allowed ones as they were ranked, then the others as they would have been."""
        table, every = (
            self.table,
            Columns(self.table.candidates, np.arange(len(self.table.candidates)), self.table.power),
        )
        prices, payloads = every.prices(self.state, self.objective, self.inputs), every.payloads(self.inputs)
        budget_mj = self.objective.energy_budget_mj
        order = {entry.row: place for place, entry in enumerate(self._ranked)}
        found = []
        for row, candidate in enumerate(table.candidates):
            priced = can_be_reached(candidate, self.state)
            energy_mj = float(prices.energy_mj[row])
            latest = float(prices.latest_ms[row])
            deadline = self.objective.deadline_ms
            runner_up = RunnerUp(
                name(table, row),
                candidate.cut,
                candidate.codec,
                candidate.exit,
                float(prices.latency_ms[row]) if priced else None,
                energy_mj if priced else None,
                float(prices.period_ms[row]) if priced else None,
                round(float(payloads[row])),
                refusal(candidate, self.state, self.objective),
                late=priced and deadline is not None and latest > deadline,
                dear=priced and budget_mj is not None and energy_mj > budget_mj,
                cost=float(prices.cost[row]) if priced and prices.cost is not None else None,
                chosen=row == self.row,
            )
            value = float(prices.of(self.objective.kind)[row])
            found.append(((row not in order, order.get(row, 0), not priced, value), runner_up))
        return [runner_up for _, runner_up in sorted(found, key=lambda each: each[0])]

    @cached_property
    def _refusals(self) -> frozenset[str]:
        return self.table.allowed(self.state, self.objective)[1]

    @cached_property
    def _entries(self) -> list[_Entry]:
        columns, _ = self.table.allowed(self.state, self.objective)
        prices: Prices = columns.prices(self.state, self.objective, self.inputs)
        valued = self.table.valued(columns, self.state, self.objective, self.inputs)
        congestion = columns.congestion_ms(self.state, self.inputs)
        timely = self.table.timely(columns, prices.latest_ms, self.state, self.objective)
        budget_mj = self.objective.energy_budget_mj
        return [
            _Entry(
                int(row),
                option(self.table.candidates[row]),
                name(self.table, int(row)),
                float(valued.value[at]),
                float(valued.ranked[at]),
                float(prices.latency_ms[at]),
                float(prices.latest_ms[at]),
                float(columns.device_ms[at]),
                float(prices.energy_mj[at]),
                float(congestion[at]),
                bool(timely[at]),
                budget_mj is None or bool(prices.energy_mj[at] <= budget_mj),
            )
            for at, row in enumerate(columns.rows)
        ]

    @cached_property
    def _ranked(self) -> list[_Entry]:
        """The chosen one, then those in time by the objective, then the others by speed."""
        if not any(entry.timely for entry in self._entries):
            return sorted(self._entries, key=lambda entry: (entry.row != self.row, entry.speed))
        return sorted(
            self._entries,
            key=lambda entry: (
                entry.row != self.row,
                not entry.timely,
                not entry.frugal,
                entry.rank if entry.timely else entry.speed,
            ),
        )

    def _best_of_other_kinds(self, best: _Entry) -> list[_Entry]:
        found = []
        for kind in OPTIONS:
            entries = [entry for entry in self._entries if entry.kind == kind != best.kind]
            if not entries:
                continue
            timely = [entry for entry in entries if entry.timely] or entries
            possible = [entry for entry in timely if entry.frugal] or timely
            if best.timely:
                found.append(min(possible, key=lambda entry: entry.rank))
            else:
                found.append(min(entries, key=lambda entry: entry.speed))
        return found

    def _fewer_machines(self, best: _Entry) -> _Entry | None:
        """What does the same on the device, on fewer machines and of less value, where that is."""
        chosen = self.table.candidates[best.row]
        fewer = [
            entry
            for entry in self._entries
            if entry.possible
            and entry.weighted < best.weighted
            and entry.kind == best.kind
            and self.table.candidates[entry.row].machines < chosen.machines
        ]
        return min(fewer, key=lambda entry: entry.rank, default=None)


def name(table: Table, row: int) -> str:
    """What a candidate is, in a few words."""
    candidate = table.candidates[row]
    kind = option(candidate)
    words = "local"
    if kind == "input":
        words = f"sending the input as {candidate.codec}"
    elif kind == "split":
        words = f"cut {candidate.cut} as {candidate.codec}"
    for at, leg in enumerate(candidate.legs):
        words += f" to {leg.machine}" if not at and not candidate.tail else f", at {leg.cut} on to {leg.machine}"
    return words if candidate.exit is None else f"{words} behind the early exit at {candidate.exit}"


def _listed(entries: Sequence[_Entry], kind: str, values: Sequence[float] | None = None) -> str:
    told = [entry.value for entry in entries] if values is None else values
    return " and ".join(_words(entry.name, value, kind) for entry, value in zip(entries, told, strict=True))


def _words(words: str, value: float, kind: str) -> str:
    return f"{words} ({value:.1f} {_UNITS[kind]})"
