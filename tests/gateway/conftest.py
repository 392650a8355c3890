"""What stages of requests have used, and a gateway's status, made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from midstream.allocation.intervals import Quantiles
from midstream.allocation.usage import Outcome, Usage
from midstream.gateway.status import BundleStatus, Condition, GatewayStatus, PartitionStatus, PredictorStatus, Target
from midstream.gateway.tallying import Known, StageName, StageNames, Tally

DIGEST = "ab" * 32
MakeUsage = Callable[..., Usage]


@pytest.fixture
def used() -> MakeUsage:
    """Makes the usage of a request at cut c5 that ended well; anything may be given otherwise."""
    plain = Usage(
        time_s=1.0,
        request_id=bytes(range(16)),
        machine="gateway",
        device_id="camera",
        bundle=DIGEST,
        cut="c5",
        codec="raw",
        outcome=Outcome.OK,
        cpu_ms={"decode": 0.5, "run": 4.0},
        timings_ms={"queue": 2.0, "run": 6.0},
        received_bytes=1000,
        sent_bytes=100,
        latency_ms=9.0,
    )

    def make(**changed: Any) -> Usage:
        return replace(plain, **changed)

    return make


@pytest.fixture
def names() -> StageNames:
    return StageNames([Known("faces", DIGEST, ("c5", "c9"), (("c5", "c9"),))])


@pytest.fixture
def status(used: MakeUsage, names: StageNames) -> GatewayStatus:
    """A gateway that has answered one request, failed at one and refused one, and forecasts the first one's stage."""
    tally = Tally(names)
    tally(used())
    tally(used(outcome=Outcome.FAILED, timings_ms={}, cpu_ms={}, sent_bytes=0))
    tally(used(outcome=Outcome.BUSY, cut="", timings_ms={}, cpu_ms={}, sent_bytes=0, priority=0))
    counts = tally.counts()
    tail = StageName("faces", "c5", "output")
    predictors = (
        PredictorStatus("ewma", Target.ARRIVALS, Quantiles(1.0, 2.0, 4.0), 0.5),
        PredictorStatus("rnn", Target.ARRIVALS, Quantiles(2.0, 3.0, 5.0), 0.25, chosen=True),
        PredictorStatus("rnn", Target.WAIT_MS, Quantiles(10.0, 20.0, 40.0), chosen=True),
    )
    return GatewayStatus(
        gateway_id="attic",
        version="1.2.3",
        time_s=1_700_000_000.0,
        uptime_s=3725.0,
        condition=Condition.SERVING,
        connected=True,
        broker_error=None,
        pool=None,
        workers=4,
        queue_length=3,
        wait_ms=12.5,
        load=0.75,
        free_bytes=1_000_000_000,
        peak_bytes=None,
        bundles=(BundleStatus("faces", DIGEST, ("c5", "c9")),),
        partitions=tuple(
            PartitionStatus(name, counts[name], 2, 5_000_000, predictors)
            if name == tail
            else PartitionStatus(name, counts[name])
            for name in counts
        ),
    )
