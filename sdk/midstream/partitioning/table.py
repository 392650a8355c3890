"""The candidates of one bundle on the machines that are there, and the decision between them in microseconds.

The formulas are explained in ``docs/planner.md``. Times in ms, energy in mJ, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from midstream.errors import PlanError
from midstream.partitioning.columns import COMPLEXITY_WEIGHT, MEAN, Columns, Inputs
from midstream.partitioning.costs import Candidate, Numbers
from midstream.partitioning.link import LinkState
from midstream.partitioning.plan import DEVICE, GATEWAY, Stage
from midstream.partitioning.state import Objective, SystemState
from midstream.profiles import Power

# No link is better.
IDEAL = LinkState(1e9, 1e9, 0.0)
Option = Literal["local", "input", "split"]
Because = Literal["best", "stands", "explores", "shares"]
OPTIONS: tuple[Option, ...] = get_args(Option)
# Of so many sets of constraints a table remembers what they allow.
_MOST_REMEMBERED = 8

# A standing plan stays where the best is ahead of it by no more than this share of its value.
HYSTERESIS = 0.03


class Chosen(NamedTuple):
    """A candidate's row, its mean latency, or that of the objective's quantile, and its value by the objective.

    ``because`` says why it was taken; where that is not for being the best, ``best`` is the row of the one passed over.
    """

    row: int
    latency_ms: float
    value: float
    because: Because = "best"
    best: int | None = None


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
        self._machines = frozenset(leg.machine for each in self.candidates for leg in each.legs)
        self._alone: dict[int, Columns] = {}
        self._allowed: dict[tuple[object, ...], tuple[Columns, frozenset[str]]] = {}
        self._could_pay: dict[tuple[object, ...], bool] = {}
        self._staged = _Staged(self.candidates) if self._machines else None
        local = [row for row in order if not self.candidates[row].offloads and self.candidates[row].exit is None]
        self._local = local[0] if local else None
        self._whole_bytes = max((each.device_bytes for each in self.candidates if not each.offloads), default=0)

    def fits_device(self, objective: Objective) -> bool:
        """Whether the device may run the whole model."""
        limit = objective.max_device_memory_bytes
        return limit is None or self._whole_bytes <= limit

    def allowed(self, state: SystemState, objective: Objective) -> tuple[Columns, frozenset[str]]:
        """The candidates that break no constraint, and which ones the others break."""
        key = (
            objective.min_agreement,
            objective.keep_input_local,
            objective.max_device_memory_bytes,
            state.link_is_up,
            tuple(name for name in self._machines if name in state.further and state.further[name].is_up),
        )
        known = self._allowed.get(key)
        if known is None:
            refused = [refusal(each, state, objective) for each in self.candidates]
            rows = np.array([row for row in self._by_device_ms if refused[row] is None], np.intp)
            columns = Columns(self.candidates, rows, self.power)
            if len(self._allowed) >= _MOST_REMEMBERED:
                self._allowed = {}
            known = self._allowed[key] = columns, frozenset(filter(None, refused))
        return known

    def alone(self, row: int) -> Columns:
        """One candidate."""
        known = self._alone.get(row)
        if known is None:
            known = self._alone[row] = Columns(self.candidates, np.array([row], np.intp), self.power)
        return known

    def choose(
        self, state: SystemState, objective: Objective, inputs: Inputs = MEAN, standing: int | None = None
    ) -> Chosen:
        """The best candidate, or the ``standing`` one of the decision before where it is nearly as good.

        Of those predicted to meet the deadline (`timely`), and within the energy budget, the best by the objective;
        where none is within the budget that which draws least in time, and where none is in time the fastest. Equals by
        latency, then by less work on the device. The standing one is kept where it is allowed, in time, within the
        budget, and ranked behind the best by no more than `HYSTERESIS` of its value. For throughput, inputs may be
        answered here by turns
        (`Inputs.turn`), and values are those of the mixture; the score has no say then, as the device is always at
        work. Raises PlanError where none is allowed.
        """
        columns, refusals = self.allowed(state, objective)
        if not len(columns):
            reasons = ", ".join(sorted(refusals)) or "none was given"
            raise PlanError(
                f"no plan is possible: of {len(self.candidates)} candidates none is allowed ({reasons}); "
                "relax the constraint, or allow the whole model on the device"
            )
        value, ranked, latency, latest, mix = self.valued(columns, state, objective, inputs)

        def taken(place: int, because: Because = "best", best: int | None = None) -> Chosen:
            return Chosen(int(columns.rows[place]), float(latency[place]), float(value[place]), because, best)

        if objective.deadline_ms is not None:
            timely = self.timely(columns, latest, state, objective)
            if not timely.any():
                best = int(latest.argmin())
                return taken(best)
            ranked = np.where(timely, ranked, np.inf)
        if objective.energy_budget_mj is not None:
            energy = np.where(np.isfinite(ranked), columns.energy_mj(state, inputs), np.inf)
            frugal = energy <= objective.energy_budget_mj
            if not frugal.any():
                return taken(int(energy.argmin()))
            ranked = np.where(frugal, ranked, np.inf)
        best = int(ranked.argmin())
        equal = ranked == ranked[best]
        if np.count_nonzero(equal) > 1:
            best = int(np.where(equal, latency, np.inf).argmin())
        stands, found = columns.place(standing), taken(best)
        # The margin does not depend on the complexity, or a higher one could bring back a plan with more on the device.
        if stands is not None and stands != best and ranked[stands] - HYSTERESIS * value[stands] <= ranked[best]:
            found = taken(stands, "stands", int(columns.rows[best]))
            best = stands
        if self._staged is not None and state.complexity:
            # Last, as it leaves the device's part as it is: that must not depend on what more stages are worth.
            staged = self._staged.instead(columns.rows, best, ranked, state.complexity)
            if staged != best:
                found = taken(staged)
        if mix is not None and mix.is_here(columns.place(found.row)):
            return taken(mix.local, "shares", found.row)
        return found

    def timely(
        self, columns: Columns, latest_ms: Numbers, state: SystemState, objective: Objective
    ) -> NDArray[np.bool_]:
        """Which of them meet the deadline even where no answer comes; where none does, which are predicted to meet it.

        Where the device may not run the whole model, it cannot answer for others.
        """
        if objective.deadline_ms is None:
            return np.ones(len(columns), bool)
        if self.fits_device(objective):
            safely = columns.timely(latest_ms, state, objective.deadline_ms)
            if safely.any():
                return safely
        return np.asarray(latest_ms <= objective.deadline_ms)

    def offloading_could_pay(self, state: SystemState, objective: Objective) -> bool:
        """Whether anything but the device alone would be best if the link and the gateway were as good as any."""
        key = (objective.kind, objective.min_agreement, objective.keep_input_local, objective.max_device_memory_bytes)
        found = self._could_pay.get(key)
        if found is None:
            ideal = SystemState(
                IDEAL, further={name: replace(tier, link=IDEAL) for name, tier in state.further.items()}
            )
            columns, _ = self.allowed(ideal, objective)
            value = columns.value(objective, ideal, MEAN)[0]
            local = columns.place(self._local)
            if len(self._could_pay) >= _MOST_REMEMBERED:
                self._could_pay = {}
            found = self._could_pay[key] = local is None or bool(value[local] > value.min())
        return found

    def valued(self, columns: Columns, state: SystemState, objective: Objective, inputs: Inputs) -> Valued:
        """What some of the candidates are decided by."""
        local = self._mixed_with(columns, state, objective, inputs)
        if local is not None and inputs.turn is not None:
            latency, latest = columns.times_ms(state, objective, inputs)
            if objective.deadline_ms is None or latest[local] <= objective.deadline_ms:
                mix = _Mix(local, inputs.turn, *columns.mixed_period_ms(local, state, inputs))
                ranked = mix.period_ms
                if self._others_wait(state):
                    ranked = ranked + (1.0 - mix.share_here) * columns.congestion_ms(state, inputs)
                return Valued(mix.period_ms, ranked, latency, latest, mix)
        value, latency, latest = columns.value(objective, state, inputs)
        return Valued(value, self._ranked(columns, value, state, objective, inputs), latency, latest, None)

    def _mixed_with(self, columns: Columns, state: SystemState, objective: Objective, inputs: Inputs) -> int | None:
        """The place of what answers some inputs here while others are sent, where that is wanted and allowed."""
        if objective.kind != "throughput" or inputs.turn is None or not state.link_is_up:
            return None
        local, energy_mj = columns.place(self._local), objective.energy_budget_mj
        if local is not None and energy_mj is not None and columns.energy_mj(state, inputs)[local] > energy_mj:
            return None
        return local

    def _ranked(
        self, columns: Columns, value: Numbers, state: SystemState, objective: Objective, inputs: Inputs
    ) -> Numbers:
        """What the objective minimises with what is charged for complexity and for machines that others wait for."""
        if state.complexity:
            value = value + columns.charge(state, objective, inputs)
        if objective.kind in ("latency", "throughput") and self._others_wait(state):
            value = value + columns.congestion_ms(state, inputs)
        if objective.kind == "latency" and state.period_ms is not None:
            value = value + columns.held_up_ms(state, inputs)
        return value

    def _others_wait(self, state: SystemState) -> bool:
        """Whether any machine may have to be shared with others that wait for it."""
        return bool(state.gateway_queue or self._machines)


class _Mix(NamedTuple):
    """Inputs by turns here and elsewhere: the device's own candidate, whose turn it is, what each candidate gives."""

    local: int
    turn: float
    period_ms: Numbers
    share_here: Numbers

    def is_here(self, place: int | None) -> bool:
        """Whether this input is answered here, where others go the way of a candidate."""
        return place is not None and place != self.local and self.turn < self.share_here[place]


class Valued(NamedTuple):
    """Of each candidate its value by the objective, what it is ranked by, and both latencies.

    For throughput by turns, ``mix``, values are those of the mixture.
    """

    value: Numbers
    ranked: Numbers
    latency_ms: Numbers
    latest_ms: Numbers
    mix: _Mix | None


class _Staged:
    """Which candidates do the same on the device, and on how many machines each has a stage."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        kinds = {_on_device(each): at for at, each in enumerate(candidates)}
        self._kind = np.array([kinds[_on_device(each)] for each in candidates], np.intp)
        self._machines = np.array([each.machines for each in candidates], float)

    def instead(self, rows: NDArray[np.intp], best: int, ranked: Numbers, complexity: float) -> int:
        """Of those that do on the device what the best does, the best where each machine more is worth something.

        It is worth COMPLEXITY_WEIGHT of the best one's value at a score of 100: so a higher score never gives fewer
        stages, all else and the device's part equal. ``ranked`` is infinite where a candidate is out of the question.
        """
        kinds, machines = self._kind[rows], self._machines[rows]
        worth = COMPLEXITY_WEIGHT * complexity / 100.0 * ranked[best]
        value = np.where(kinds == kinds[best], ranked - worth * machines, np.inf)
        return int(value.argmin()) if value.min() < value[best] else best


def refusal(candidate: Candidate, state: SystemState, objective: Objective) -> str | None:
    """The constraint that a candidate breaks, in words, or None."""
    if candidate.offloads and not state.link_is_up:
        return "no link to a gateway is up"
    for leg in candidate.legs:
        if leg.machine not in state.further or not state.further[leg.machine].is_up:
            return f"no link to {leg.machine} is up"
    if objective.keep_input_local and candidate.reveals_input:
        return "the input, or what is linear in it, may not leave the device"
    if objective.keep_input_local and candidate.reveals_input is None:
        return "the bundle does not say which cuts keep the input; convert the model again"
    if objective.max_device_memory_bytes is not None and candidate.device_bytes > objective.max_device_memory_bytes:
        return f"the device's layers take more than {objective.max_device_memory_bytes / 1e6:.1f} MB"
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


def can_be_reached(candidate: Candidate, state: SystemState) -> bool:
    """Whether a link to every machine of a candidate's is up."""
    return not candidate.offloads or (
        state.link_is_up
        and all(leg.machine in state.further and state.further[leg.machine].is_up for leg in candidate.legs)
    )


def option(candidate: Candidate) -> Option:
    """What kind of plan a candidate is."""
    return "local" if not candidate.offloads else "split" if candidate.head else "input"


def _on_device(candidate: Candidate) -> tuple[str | None, str, str | None, bool]:
    return candidate.cut, candidate.codec, candidate.exit, candidate.offloads


def _stages(candidate: Candidate) -> tuple[Stage, ...]:
    parts = (
        (DEVICE, candidate.head),
        (GATEWAY, candidate.tail),
        *((leg.machine, leg.nodes) for leg in candidate.legs),
    )
    return tuple(Stage(machine, nodes) for machine, nodes in parts if nodes)
