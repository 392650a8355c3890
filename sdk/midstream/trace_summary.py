"""What a link over time is like, in a few figures. All are by time: a row counts for as long as it lasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.traces import Trace


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread over time; ``variation`` is the standard deviation over the mean, 0 where that is 0."""

    mean: float
    p5: float
    median: float
    p95: float
    variation: float


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A trace in figures; rates in kbit/s, ``down_share`` is that of the time in which the uplink is 0."""

    name: str
    rows: int
    seconds: float
    down_share: float
    uplink_kbps: Spread
    downlink_kbps: Spread
    rtt_ms: Spread

    @classmethod
    def of(cls, trace: Trace) -> TraceSummary:
        """The figures of this trace."""
        lengths_s = np.diff(np.append(trace.starts_s, trace.period_s))
        return cls(
            trace.name,
            len(trace.starts_s),
            trace.period_s,
            float(lengths_s[trace.uplink_kbps == 0].sum() / trace.period_s),
            _spread(trace.uplink_kbps, lengths_s),
            _spread(trace.downlink_kbps, lengths_s),
            _spread(trace.rtt_ms, lengths_s),
        )


def _spread(values: NDArray[np.float64], lengths_s: NDArray[np.float64]) -> Spread:
    mean = float(np.average(values, weights=lengths_s))
    deviation = float(np.sqrt(np.average((values - mean) ** 2, weights=lengths_s)))
    order = np.argsort(values, kind="stable")
    until_s = np.cumsum(lengths_s[order])
    p5, median, p95 = (
        float(values[order[np.searchsorted(until_s, share * until_s[-1])]]) for share in (0.05, 0.5, 0.95)
    )
    return Spread(mean, p5, median, p95, deviation / mean if mean else 0.0)
