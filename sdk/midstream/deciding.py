"""Who decides on a device: the planner that was asked for, with what it learns, and a log of what it decided."""

from __future__ import annotations

import threading
from pathlib import Path

from midstream.decision_log import DecisionLog
from midstream.errors import PlanError
from midstream.partitioning import Inputs, Objective, Plan, Power, SystemState, Table, decide_from
from midstream.partitioning.bandit import Bandit, Pulled, check_objective
from midstream.partitioning.exploration import Exploration, Place
from midstream.partitioning.records import Question
from midstream.partitioning.replay import PLANNERS, PlannerName


class Deciding:
    """Decisions by one planner: "adaptive", by the cost model, or "bandit", by what results have taught. Thread-safe.

    ``decisions`` names the file of their log; ``bundle`` is the digest that it tells. Raises PlanError on an unknown
    planner, an objective that it cannot minimise, or a log that cannot be written.
    """

    def __init__(
        self, planner: PlannerName, objective: Objective, bundle: str, power: Power, decisions: str | Path | None
    ) -> None:
        if planner not in PLANNERS:
            raise PlanError(f"no planner is called {planner!r}; known are {', '.join(PLANNERS)}")
        if planner == "bandit":
            check_objective(objective)
        self._bandit = Bandit() if planner == "bandit" else None
        self._log = None if decisions is None else DecisionLog(decisions, bundle, planner, power)
        # Held over what is decided or learned and its record: a log has them in the order in which they happened.
        self._lock = threading.Lock()

    @property
    def again(self) -> bool:
        """Whether it may decide again once a part is done: the bandit has learned of whole inputs only."""
        return self._bandit is None

    def decide(
        self,
        table: Table,
        state: SystemState,
        objective: Objective,
        inputs: Inputs,
        standing: int | None = None,
        exploration: Exploration | None = None,
    ) -> Plan:
        """The plan for one input, and its record in the log. Raises PlanError as the planners do.

        The bandit explores by itself, and no plan of it stands.
        """
        if self._bandit is not None:
            standing = exploration = None
        with self._lock:
            if self._bandit is not None:
                plan = self._bandit.decide(table, state, objective, inputs)
            else:
                plan = decide_from(table, state, objective, inputs, standing, exploration)
            if self._log is not None:
                course = None if exploration is None else self._log.course(exploration)
                self._log.decided(table, Question(state, objective, inputs, standing, course), plan)
            return plan

    def measured(self, exploration: Exploration, place: Place) -> None:
        """Tell an exploration that this was measured."""
        with self._lock:
            exploration.measured(place)
            if self._log is not None and self._bandit is None:
                self._log.measured(exploration, place)

    def finished(self, plan: Plan, latency_ms: float) -> None:
        """Learn what came of a plan: ms from the decision to the result, which is no early exit's."""
        if self._bandit is None or not isinstance(plan.reasons, Pulled) or plan.reasons.pull.work is None:
            return
        with self._lock:
            self._bandit.learn(plan.reasons.pull, latency_ms)
            if self._log is not None:
                self._log.learned(plan.reasons.pull.number, latency_ms)

    def flush(self) -> None:
        """Write what is left of the log."""
        if self._log is not None:
            self._log.flush()
