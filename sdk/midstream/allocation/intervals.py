"""What a gateway's partitions asked for and got, interval by interval, and what the next one is forecast to ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Interval:
    """One partition in one interval.

    ``arrivals`` are all requests that came, of which ``refused`` were not let in; of the others, ``served`` ended in
    this interval. ``cpu_ms`` is the processor time that these took, ``memory_bytes`` what the partition's slices held
    at its end. ``wait_ms`` is the mean wait for a worker of those that came in it and were let in (0 where none was);
    ``service_ms`` the mean time of a run and ``service_cv2`` its squared coefficient of variation, as known at its end.
    ``queue_ms`` is what a request that came at its end would have waited, by the gateway's own report, and ``busy`` the
    share of the workers' time in which they ran, for whatever partition. ``score`` is the mean complexity score and
    ``features`` the mean features of those that came, empty where none did.
    """

    start_s: float
    length_s: float
    arrivals: int
    served: int = 0
    refused: int = 0
    cpu_ms: float = 0.0
    memory_bytes: float = 0.0
    wait_ms: float = 0.0
    service_ms: float = 0.0
    service_cv2: float = 0.0
    queue_ms: float = 0.0
    busy: float = 0.0
    score: float = 0.0
    features: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A forecast of one number: at most ``low`` one time in ten, ``middle`` one in two, ``high`` nine in ten."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a partition is forecast to ask for and get in the next interval; as in `Interval`."""

    arrivals: Quantiles
    cpu_ms: Quantiles
    memory_bytes: Quantiles
    wait_ms: Quantiles
