"""The predictors that a gateway runs side by side, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence

from midstream.allocation.mixing import Chooser
from midstream.allocation.predictors import (
    Analogue,
    Calibrated,
    ChangePoint,
    Demand,
    Ewma,
    Holt,
    LastValue,
    Predictor,
    QueueReport,
    Recurring,
    Rule,
    SteadyState,
    Transient,
)


def chooser(workers: int, more: Sequence[Predictor] = ()) -> Chooser:
    """All predictors of a gateway with so many workers, ``more`` among them."""
    simple: tuple[Rule, ...] = (LastValue(), Ewma(), Holt(), Recurring(), Analogue(), ChangePoint())

    def following(demand: Demand) -> list[Predictor]:
        rules: tuple[Rule, ...] = (QueueReport(), SteadyState(workers), Transient(workers, demand))
        return [Calibrated(rule) for rule in rules]

    return Chooser([*(Calibrated(rule) for rule in simple), *more], following)


def follower() -> Chooser:
    """What only follows: the next second is taken to be as the last one was."""
    return Chooser([Calibrated(LastValue())])
