"""Mean latency of windows of ten seconds under a steady load, predicted at their start; for other benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.formulas import mean_wait_s, mgk_wait_s, mmk_wait_s

Floats = NDArray[np.float64]

WINDOW_S, KNOWN_S = 10, 120
PREDICTORS = ("M/M/k", "M/G/k", "transient", "observed", "chosen")
"""The steady state's formulas, M/G/k from the queue as it is, the mean latency so far, and what of the last two has
erred less so far."""
_WARM_WINDOWS = 3


@dataclass(frozen=True, slots=True)
class Served:
    """Requests in the order in which they came: when, how long each waited and how long it ran."""

    arrivals_s: Floats
    wait_s: Floats
    run_s: Floats
    workers: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Mean latency, s; errors in per cent of a window's own latency: of the predictors, and of the best constant.

    ``bias`` is by how much the mean of all that the transient formula predicts is off the mean of all windows.
    """

    latency_s: float
    off: dict[str, float]
    chance: float
    bias: float


def judge(served: Served, seconds: float, known_s: float = KNOWN_S) -> Judged:
    """Predict each window at its start from the ``known_s`` before; those of the first ``known_s`` are not judged."""
    said, came = [], []
    off = np.zeros((0, 2))
    for start in np.arange(_WARM_WINDOWS * WINDOW_S, seconds - WINDOW_S / 2, WINDOW_S):
        true_s = _latency_s(served, start, start + WINDOW_S)
        predicted = _predicted(served, start, known_s)
        candidates = np.array(predicted[-2:])
        best = int(np.argmin(off.mean(axis=0))) if len(off) else 0
        off = np.vstack([off, np.abs(candidates / true_s - 1)])
        if start >= known_s:
            said.append((*predicted, candidates.item(best)))
            came.append(true_s)
    true, made = np.array(came), np.array(said)
    errors = 100 * np.mean(np.abs(made / true[:, None] - 1), axis=0)
    return Judged(
        float(true.mean()),
        dict(zip(PREDICTORS, errors.tolist(), strict=True)),
        100 * float(np.mean(np.abs(np.median(true) / true - 1))),
        100 * float(made[:, PREDICTORS.index("transient")].mean() / true.mean() - 1),
    )


def _latency_s(served: Served, start: float, end: float) -> float:
    inside = (served.arrivals_s >= start) & (served.arrivals_s < end)
    # The very last may still wait when a simulation ends.
    return float(np.nanmean(served.wait_s[inside] + served.run_s[inside]))


def _predicted(served: Served, start: float, known_s: float) -> tuple[float, ...]:
    """Latency by all of `PREDICTORS` but the last."""
    since = max(0.0, start - known_s)
    known = (served.arrivals_s >= since) & (served.arrivals_s < start)
    rate_hz, run = float(known.sum()) / (start - since), served.run_s[known]
    run_s = float(run.mean())
    cv2 = float(run.var()) / run_s**2
    bounded_hz = min(rate_hz, 0.985 * served.workers / run_s)
    # What a request would wait that came now, by the last one.
    last = int(np.flatnonzero(known)[-1])
    ahead_s = served.wait_s[last] + served.run_s[last] / served.workers
    queue_s = max(0.0, float(served.arrivals_s[last] + ahead_s) - start)
    waits_s = (
        mmk_wait_s(served.workers, bounded_hz, run_s),
        mgk_wait_s(served.workers, bounded_hz, run_s, cv2),
        mean_wait_s(queue_s, WINDOW_S, served.workers, rate_hz, run_s, cv2),
    )
    return (*(run_s + wait_s for wait_s in waits_s), _latency_s(served, since, start))
