"""The decision: of all candidates, the one that the objective likes best in the present state.

The formulas are explained in ``docs/planner.md``. Nothing here reads a clock or a file: the same arguments
always give the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from midstream.errors import PlanError
from midstream.partitioning.columns import MEAN, Inputs
from midstream.partitioning.costs import Candidate
from midstream.partitioning.exploration import Exploration
from midstream.partitioning.plan import DEVICE, Plan
from midstream.partitioning.reasons import Reasons
from midstream.partitioning.state import Objective, SystemState
from midstream.partitioning.table import Chosen, Table
from midstream.profiles import Power


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
    prices = _alone(candidate, state, power).alone(0).prices(state, Objective(), MEAN)
    return Prediction(
        float(prices.latency_ms[0]), float(prices.energy_mj[0]), float(prices.period_ms[0]), float(prices.latest_ms[0])
    )


def plan_for(candidate: Candidate, state: SystemState, power: Power, why: str) -> Plan:
    """The plan of a candidate already chosen, such as a forced one. Raises PlanError like `predict`."""
    table = _alone(candidate, state, power)
    latency_ms = float(table.alone(0).latency_ms(state, MEAN)[0][0])
    chosen = Chosen(0, latency_ms, latency_ms)
    return plan_of(chosen, Reasons(table, chosen, state, Objective(), MEAN, forced=why))


def decide(candidates: Sequence[Candidate], state: SystemState, objective: Objective, power: Power) -> Plan:
    """The best plan there is for one input; `decide_from` is the same for a table made before."""
    return decide_from(Table(candidates, power), state, objective)


def decide_from(
    table: Table,
    state: SystemState,
    objective: Objective,
    inputs: Inputs = MEAN,
    standing: int | None = None,
    exploration: Exploration | None = None,
) -> Plan:
    """The best plan there is for one input.

    Candidates that break a constraint are left out. Of the rest, those predicted to meet the deadline are
    preferred; where none does, the fastest is taken and ``why`` says so. A higher ``complexity`` never
    moves work to the device, all else equal. ``standing`` is the row of the plan before, kept where it is nearly as
    good (`Table.choose`). ``exploration`` now and then takes another that is nearly as good, to measure it: it is told
    of every decision, and the complexity does not bind it. Raises PlanError where the state is invalid, or nothing is
    left to choose from.
    """
    state.check()
    chosen = table.choose(state, objective, inputs, standing)
    if exploration is not None:
        chosen = exploration.instead(chosen, table, state, objective, inputs) or chosen
    return plan_of(chosen, Reasons(table, chosen, state, objective, inputs))


def _alone(candidate: Candidate, state: SystemState, power: Power) -> Table:
    state.check()
    if candidate.offloads and not state.link_is_up:
        raise PlanError(f"cut {candidate.cut or 'none'} needs a gateway, and no link is up; run all on the device")
    return Table((candidate,), power)


def plan_of(chosen: Chosen, reasons: Reasons) -> Plan:
    """The plan of a choice with its reasons."""
    table, row, inputs = reasons.table, chosen.row, reasons.inputs
    candidate = table.candidates[row]
    payload_bytes = candidate.payload_bytes
    if inputs.payload_bytes is not None:
        payload_bytes = round(float(inputs.payload_bytes[row]))
    share = candidate.exit_share
    if candidate.exit is not None and inputs.exit_share is not None:
        share = inputs.exit_share
    return Plan(
        table.stages[row],
        candidate.cut,
        candidate.codec,
        chosen.latency_ms,
        payload_bytes,
        reasons,
        candidate.reveals_input is False,
        candidate.exit,
        share,
        candidate.onward,
        reasons.objective.deadline_ms,
        DEVICE if candidate.offloads and table.fits_device(reasons.objective) else None,
    )
