"""Why a plan was chosen: worked out only when somebody asks, from what the decision was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from midstream.partitioning.plan import RunnerUp
from midstream.partitioning.state import Objective, SystemState
from midstream.partitioning.table import (
    HYSTERESIS,
    OPTIONS,
    Chosen,
    Columns,
    Inputs,
    Option,
    Prices,
    Table,
    option,
    refusal,
)

_UNITS = {"latency": "ms", "energy": "mJ", "throughput": "ms an input"}


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
    timely: bool

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
    def explores(self) -> bool:
        """Whether it was taken to be measured, though another was predicted better."""
        return self.chosen.because == "explores"

    @property
    def wait_ms(self) -> float:
        """The wait at the gateway that was counted with."""
        return self.state.gateway_waits_ms.get(self.table.candidates[self.row].cut, self.state.gateway_wait_ms)

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
        words = _words(best.name, best.value, kind)
        if self.chosen.best is not None:
            return f"{words} {self._passed_over(self.chosen.best)}"
        if not others:
            return f"{words}: {'; '.join(sorted(self._refusals)) or 'there is no other option'}"
        beaten = [entry for entry in others if entry.timely and entry.value >= best.value]
        heavier = [entry for entry in others if entry.timely and entry.value < best.value]
        late = [entry for entry in others if not entry.timely]
        parts = []
        if beaten:
            parts.append(f"beats {_listed(beaten, kind)}")
        if heavier:
            parts.append(f"is preferred to {_listed(heavier, kind)}, as a complex input weighs the device's time up")
        if late:
            names = " and ".join(f"{entry.name} ({entry.latest_ms:.1f} ms)" for entry in late)
            parts.append(f"meets the deadline of {deadline_ms:g} ms, unlike {names}")
        return f"{words} {', and '.join(parts)}"

    def _passed_over(self, row: int) -> str:
        """Why the best, which is this one, was not taken."""
        better = next(entry for entry in self._entries if entry.row == row)
        words = _words(better.name, better.value, self.objective.kind)
        if self.chosen.because == "stands":
            return f"stays the plan, as {words} is ranked before it by no more than {HYSTERESIS:.0%}"
        return f"is tried, as it was not measured lately and {words} is hardly better"

    def explain(self) -> list[RunnerUp]:
        """All candidates: the allowed ones as they were ranked, then the others as they would have been."""
        table, every = (
            self.table,
            Columns(self.table.candidates, np.arange(len(self.table.candidates)), self.table.power),
        )
        prices, payloads = every.prices(self.state, self.inputs), every.payloads(self.inputs)
        order = {entry.row: place for place, entry in enumerate(self._ranked)}
        found = []
        for row, candidate in enumerate(table.candidates):
            priced = not candidate.offloads or self.state.link_is_up
            latest = float(prices.latest_ms[row])
            deadline = self.objective.deadline_ms
            runner_up = RunnerUp(
                name(table, row),
                candidate.cut,
                candidate.codec,
                candidate.exit,
                float(prices.latency_ms[row]) if priced else None,
                float(prices.energy_mj[row]) if priced else None,
                float(prices.period_ms[row]) if priced else None,
                round(float(payloads[row])),
                refusal(candidate, self.state, self.objective),
                late=priced and deadline is not None and latest > deadline,
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
        prices: Prices = columns.prices(self.state, self.inputs)
        value = prices.of(self.objective.kind)
        weighted = value + columns.charge(self.state, self.objective, self.inputs)
        deadline_ms = self.objective.deadline_ms
        return [
            _Entry(
                int(row),
                option(self.table.candidates[row]),
                name(self.table, int(row)),
                float(value[at]),
                float(weighted[at]),
                float(prices.latency_ms[at]),
                float(prices.latest_ms[at]),
                float(columns.device_ms[at]),
                deadline_ms is None or bool(prices.latest_ms[at] <= deadline_ms),
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
            key=lambda entry: (entry.row != self.row, not entry.timely, entry.rank if entry.timely else entry.speed),
        )

    def _best_of_other_kinds(self, best: _Entry) -> list[_Entry]:
        found = []
        for kind in OPTIONS:
            entries = [entry for entry in self._entries if entry.kind == kind != best.kind]
            if not entries:
                continue
            timely = [entry for entry in entries if entry.timely] or entries
            if best.timely:
                found.append(min(timely, key=lambda entry: entry.rank))
            else:
                found.append(min(entries, key=lambda entry: entry.speed))
        return found


def name(table: Table, row: int) -> str:
    """What a candidate is, in a few words."""
    candidate = table.candidates[row]
    kind = option(candidate)
    words = "local"
    if kind == "input":
        words = f"sending the input as {candidate.codec}"
    elif kind == "split":
        words = f"cut {candidate.cut} as {candidate.codec}"
    return words if candidate.exit is None else f"{words} behind the early exit at {candidate.exit}"


def _listed(entries: Sequence[_Entry], kind: str) -> str:
    return " and ".join(_words(entry.name, entry.value, kind) for entry in entries)


def _words(words: str, value: float, kind: str) -> str:
    return f"{words} ({value:.1f} {_UNITS[kind]})"
