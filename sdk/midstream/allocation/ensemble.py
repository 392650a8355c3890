"""The predictors that run side by side at a gateway."""

from __future__ import annotations

from collections.abc import Sequence

from midstream.allocation.mixing import Chooser
from midstream.allocation.patterns import Analogue, ChangePoint, Recurring
from midstream.allocation.predictors import (
    Calibrated,
    Ewma,
    Holt,
    LastValue,
    Predictor,
    QueueReport,
    SteadyState,
    Transient,
)


def ensemble(workers: int, further: Sequence[Predictor] = ()) -> Chooser:
    """All of `predictors` and `patterns`, with ``further`` ones such as a network, and the mixes of them.

    For a gateway of so many workers.
    """
    recurring = Recurring()
    rules = (
        LastValue(),
        Ewma(),
        Ewma(0.1, "ewma_slow"),
        Holt(),
        Holt(0.15, 0.06, 0.97, "holt_slow"),
        QueueReport(),
        SteadyState(workers),
        ChangePoint(),
        recurring,
        Analogue(),
    )
    return Chooser(
        [*(Calibrated(rule) for rule in rules), *further],
        lambda demand: [Calibrated(Transient(workers, demand))],
        recurring.returning,
    )


def follower() -> Chooser:
    """What only follows: the next second is taken to be as the last one was."""
    return Chooser([Calibrated(LastValue())])
