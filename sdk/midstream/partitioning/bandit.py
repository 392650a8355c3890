"""µLinUCB, a contextual bandit: it knows what the device takes, and learns from results what all that follows takes.

After L. Zhang, L. Chen, J. Xu, "Autodidactic Neurosurgeon: Collaborative Deep Inference for Mobile Edge Intelligence
via Online Learning", WWW 2021 (arXiv 2102.02638), and the code that its authors published (letian-zhang/ANS).

Theirs:

- what a split's work costs on the device is known, and what follows (link and gateway) is taken as linear in a vector x
  of the work that is sent away, x = 0 where nothing is: ridge regression, A = λI + Σ x xᵀ, b = Σ x · delay, θ = A⁻¹b;
- of all arms that with the least of ``known + θᵀx − α √((1 − L) xᵀA⁻¹x)`` is taken, where the weight L, 0.2 to 0.8,
  is the higher the more the input matters: less is tried out on what matters;
- forced sampling: the device alone teaches nothing, so every ⌈T^0.25⌉-th input takes the best of the other arms;
- T doubles whenever so many inputs have come (200 at first), and α grows with its logarithm.

Ours:

- x is one for what is sent at all, and of it the nominal time elsewhere, the number of layers there, the payload, the
  reply, the coding, the further machines and what is sent between these, each as a share of the most in the first
  table. Theirs are multiply-accumulates and layers by kind, and the payload;
- delays count in units of the whole model's time on the first table's slower machine, so that α = (√λ · bound of ‖θ‖ +
  noise · √(d ln((1 + T d) / δ))) / √(1 − 0.8) needs no knowledge of the set-up (theirs divides by 1 − 0.8);
- results are forgotten: A ← γA + (1 − γ)λI and b ← γb with every input, which widens what is believed where nothing is
  sent (as in Russac, Vernade, Cappé, "Weighted Linear Bandits for Non-Stationary Environments", 2019, but with one
  matrix for the width). Theirs forgets nothing, and comes back from a change of the link the later the longer it ran;
- an input matters by its complexity score; theirs are the frames that differ from the one before;
- constraints, deadlines, codecs and early exits, which theirs does not know. A forced sample is of an allowed arm, and
  one that is expected to be in time, and within the energy budget by the cost model, where there is any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from midstream.errors import PlanError
from midstream.partitioning.columns import MEAN, Columns, Inputs
from midstream.partitioning.costs import Candidate, Numbers
from midstream.partitioning.plan import Plan
from midstream.partitioning.planner import plan_of
from midstream.partitioning.reasons import Reasons, name
from midstream.partitioning.state import Objective, SystemState, stretch
from midstream.partitioning.table import Chosen, Table

_SENT, _WORK, _LAYERS, _PAYLOAD, _REPLY, _CODING, _FURTHER, _BETWEEN = range(8)
_SIZE = 8
# Theirs.
_FIRST_HORIZON = 200
_SAMPLING_EXPONENT = 0.25
_DELTA = 0.1
_WEIGHTS = (0.2, 0.8)
# Ours. λ; the bound of ‖θ‖ and the noise of a delay in units of the slowest machine's time; γ: some 25 inputs count.
_RIDGE = 0.01
_BOUND = 1.0
_NOISE = 0.01
_KEPT = 0.96
# No more than this is believed, of work and of delays, in their units.
_MOST = 1e3
# After so many inputs without a result next to nothing of what was learned counts.
_OLDEST = 1000


class Pull(NamedTuple):
    """An arm that was chosen, with what `Bandit.learn` needs of it.

    ``number`` counts the choices from 0, ``learned`` the results that it was made with. ``latency_ms`` is its expected
    mean, ``least_ms`` the optimistic one that it was chosen by. ``known_ms`` is the device's own part without an exit's
    answer, ``work`` the vector x, None where nothing is sent.
    """

    number: int
    row: int
    latency_ms: float
    least_ms: float
    known_ms: float
    work: Numbers | None
    forced: bool
    learned: int


@dataclass(frozen=True, kw_only=True)
class Pulled(Reasons):
    """The reasons of a plan by the bandit; `explain` shows what the planner's own model says of all candidates."""

    pull: Pull

    def why(self) -> str:
        """One sentence: what was chosen, and by what."""
        pull = self.pull
        words = name(self.table, self.row)
        if pull.work is None:
            return f"µLinUCB: {words} ({pull.latency_ms:.1f} ms) beats the best that may be expected of any other"
        learned = f"expected to take {pull.latency_ms:.1f} ms after {pull.learned} results"
        if pull.forced:
            return f"µLinUCB: {words}, a forced sample, {learned}"
        return f"µLinUCB: {words}, {learned}, and {pull.least_ms:.1f} ms at best, less than any other"


class _Arms:
    """What choosing needs of some candidates: times in ms, and their work in the bandit's units."""

    def __init__(self, table: Table, columns: Columns, units: Numbers) -> None:
        chosen = [table.candidates[int(row)] for row in columns.rows]
        self.rest_ms = np.array([each.rest_ms for each in chosen], float)
        self.encode_ms = np.array([each.encode_ms for each in chosen], float)
        self.offloads = np.array([each.offloads for each in chosen], bool)
        self.sends = bool(self.offloads.any())
        # What comes from the gateway alone is what the input's reply is known to be.
        self._replies = np.array([each.offloads and each.reply_bytes > 0 and not each.legs for each in chosen], bool)
        self._units = units
        self._work = _believed(_work(table)[columns.rows] / units)

    def work(self, columns: Columns, inputs: Inputs) -> Numbers:
        """The vectors x, one a row, of this input."""
        if inputs.payload_bytes is None and inputs.reply_bytes is None:
            return self._work
        work = self._work.copy()
        if inputs.payload_bytes is not None:
            work[:, _PAYLOAD] = _believed(columns.payloads(inputs) * self.offloads / self._units[_PAYLOAD])
        if inputs.reply_bytes is not None:
            work[self._replies, _REPLY] = min(max(inputs.reply_bytes / float(self._units[_REPLY]), 0.0), _MOST)
        return work


class Bandit:
    """What was learned, and choices by it. The same calls in the same order always give the same. Not thread-safe."""

    def __init__(self) -> None:
        self._gram: Numbers = _RIDGE * np.eye(_SIZE)
        self._inverse: Numbers = np.eye(_SIZE) / _RIDGE
        self._moment = np.zeros(_SIZE)
        self._theta = np.zeros(_SIZE)
        self._chosen = 0
        self._learned = 0
        self._age = 0
        self._input = 0
        self._horizon = _FIRST_HORIZON
        self._unit_ms = 1.0
        self._units: Numbers | None = None
        self._arms: WeakKeyDictionary[Columns, _Arms] = WeakKeyDictionary()

    def decide(self, table: Table, state: SystemState, objective: Objective, inputs: Inputs = MEAN) -> Plan:
        """`choose`, as a plan whose ``reasons`` are `Pulled`."""
        pull = self.choose(table, state, objective, inputs)
        chosen = Chosen(pull.row, pull.latency_ms, pull.latency_ms)
        return plan_of(chosen, Pulled(table, chosen, state, objective, inputs, pull=pull))

    def choose(self, table: Table, state: SystemState, objective: Objective, inputs: Inputs = MEAN) -> Pull:
        """The arm for the next input.

        Candidates that break a constraint are left out, and of the rest those expected to miss the deadline, and those
        beyond the energy budget; where all are late, the fastest is taken, where all in time draw too much, the one
        that draws least. Raises PlanError as `Table.choose` does, and where something else than the mean latency is to
        be minimised.
        """
        check_objective(objective)
        state.check()
        columns, _ = table.allowed(state, objective)
        if not len(columns):
            table.choose(state, objective, inputs)
        arms = self._arms_of(table, columns)
        weight = _WEIGHTS[0] + (_WEIGHTS[1] - _WEIGHTS[0]) * (state.complexity or 0.0) / 100.0
        slower = stretch(state.device_load)
        work = arms.work(columns, inputs)
        known = arms.rest_ms * slower + arms.encode_ms
        delay = np.maximum(work @ self._theta, 0.0) * self._unit_ms
        doubt = ((work @ self._inverse) * work).sum(1) / _KEPT**self._age
        width = np.sqrt(np.minimum(doubt, (work * work).sum(1) / _RIDGE)) * self._alpha() * math.sqrt(1.0 - weight)
        front = columns.device_ms * slower
        onward = columns.onward(inputs)
        mean = front + onward * (known + delay)
        least = mean - onward * (width * self._unit_ms)
        forced = self._next_is_forced() and arms.sends
        if forced:
            least = np.where(arms.offloads, least, np.inf)
        best = _best(columns, least, front + known + delay, state, objective, inputs)
        self._chosen += 1
        return Pull(
            self._chosen - 1,
            int(columns.rows[best]),
            float(mean[best]),
            float(least[best]),
            float(front[best] + known[best]),
            work[best].copy() if arms.offloads[best] else None,
            forced,
            self._learned,
        )

    def learn(self, pull: Pull, latency_ms: float) -> None:
        """What came of an arm, in ms from the input to the result; of one that an early exit has not answered."""
        if pull.work is None or not 0.0 <= latency_ms < math.inf:
            return
        delay = min(max(latency_ms - pull.known_ms, 0.0) / self._unit_ms, _MOST)
        kept, self._age = _KEPT**self._age, 0
        self._gram = kept * self._gram + np.outer(pull.work, pull.work)
        self._gram.flat[:: _SIZE + 1] += (1.0 - kept) * _RIDGE
        self._moment = kept * self._moment + pull.work * delay
        self._inverse = np.asarray(np.linalg.inv(self._gram), float)
        self._theta = self._inverse @ self._moment
        self._learned += 1

    def _alpha(self) -> float:
        """Of the width of what is believed."""
        noise = _NOISE * math.sqrt(_SIZE * math.log((1.0 + self._horizon * _SIZE) / _DELTA))
        return (math.sqrt(_RIDGE) * _BOUND + noise) / math.sqrt(1.0 - _WEIGHTS[1])

    def _next_is_forced(self) -> bool:
        """Count the next input, and whether it is one of those that must not be answered by the device alone."""
        self._input, self._age = self._input + 1, min(self._age + 1, _OLDEST)
        if self._input > self._horizon:
            self._horizon, self._input = 2 * self._horizon, 1
        return self._input % math.ceil(math.pow(self._horizon, _SAMPLING_EXPONENT)) == 0

    def _arms_of(self, table: Table, columns: Columns) -> _Arms:
        known = self._arms.get(columns)
        if known is None:
            units = np.ones(_SIZE) if self._units is None else self._units
            if self._units is None and any(each.offloads for each in table.candidates):
                most = _work(table).max(0)
                units = self._units = np.where(most > 0, most, 1.0)
                here = max(each.device_ms + each.rest_ms for each in table.candidates)
                self._unit_ms = max(here, float(most[_WORK])) or 1.0
            known = _Arms(table, columns, units)
            if self._units is not None:
                self._arms[columns] = known
        return known


def check_objective(objective: Objective) -> None:
    """Raise PlanError where the bandit cannot minimise what is to be minimised."""
    if objective.kind != "latency":
        raise PlanError(
            f"the planner 'bandit' learns latencies, and cannot minimise {objective.kind!r}; take the objective "
            "'latency' or the planner 'adaptive'"
        )
    if objective.quantile is not None:
        raise PlanError(
            "the planner 'bandit' learns mean latencies, and knows no quantile; leave it out, or take the planner "
            "'adaptive'"
        )


def _work(table: Table) -> Numbers:
    """Of each candidate the vector x in units of once, ms, layers, bytes there and back, ms, machines, and bytes."""
    return np.array([_vector(each) if each.offloads else (0.0,) * _SIZE for each in table.candidates], float)


def _vector(candidate: Candidate) -> tuple[float, ...]:
    legs = candidate.legs
    # Without a stage at the gateway the first of the legs gets what the device sends.
    between = legs if candidate.tail else legs[1:]
    return (
        1.0,
        candidate.gateway_ms + sum(leg.work_ms for leg in legs),
        len(candidate.tail) + sum(len(leg.nodes) for leg in legs),
        candidate.payload_bytes,
        candidate.reply_bytes + sum(leg.reply_bytes for leg in legs),
        candidate.decode_ms + sum(leg.codec_ms for leg in legs),
        len(legs),
        sum(leg.payload_bytes for leg in between),
    )


def _believed(work: Numbers) -> Numbers:
    return np.asarray(np.clip(work, 0.0, _MOST))


def _best(
    columns: Columns, least: Numbers, latest: Numbers, state: SystemState, objective: Objective, inputs: Inputs
) -> int:
    """The place of the least of those in time and within the budget; what is infinite is out of the question."""
    if objective.deadline_ms is not None:
        latest = np.where(np.isfinite(least), latest, np.inf)
        timely = latest <= objective.deadline_ms
        if not timely.any():
            return int(latest.argmin())
        least = np.where(timely, least, np.inf)
    if objective.energy_budget_mj is not None:
        energy = np.where(np.isfinite(least), columns.energy_mj(state, inputs), np.inf)
        frugal = energy <= objective.energy_budget_mj
        if not frugal.any():
            return int(energy.argmin())
        least = np.where(frugal, least, np.inf)
    return int(least.argmin())
