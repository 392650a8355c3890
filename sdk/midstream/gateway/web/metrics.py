"""A gateway's state as Prometheus reads it: the only module that imports its client library.

The metrics are made of a `GatewayStatus` when somebody asks, in a registry of their own: nothing is global, and labels
have only the names of this gateway's own bundles, cuts and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST as TEXT_TYPE
from prometheus_client.exposition import generate_latest as text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics_text
from prometheus_client.registry import Collector

from midstream.gateway.status import Condition, GatewayStatus, PartitionStatus, PredictorStatus, Target
from midstream.gateway.tallying import Histogram, added

_PREFIX = "midstream_gateway"
_STAGE = ("bundle", "cut", "next_cut")
# By target: what its metrics are called, and how many of that are one of the forecast's own unit.
_FORECASTS = {
    Target.ARRIVALS: ("arrivals", 1.0),
    Target.CPU_MS: ("cpu_seconds", 1e-3),
    Target.MEMORY_BYTES: ("memory_bytes", 1.0),
    Target.WAIT_MS: ("wait_seconds", 1e-3),
}


class Metrics:
    """Writes a status as text for Prometheus, together with what the process itself uses."""

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)

    def exposition(self, status: GatewayStatus, open_metrics: bool) -> tuple[bytes, str]:
        """The text, as OpenMetrics or in the older format, and its type."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(status))
        registry.register(self._process)
        write, content_type = (open_metrics_text, OPEN_METRICS_TYPE) if open_metrics else (text, TEXT_TYPE)
        return write(registry), content_type


class _Collected(Collector):
    """The metrics of one status."""

    def __init__(self, status: GatewayStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from _overall(self._status)
        yield from _counted(self._status.partitions)
        yield from _by_bundle(self._status.partitions)
        yield from _forecast(self._status.partitions)


def _overall(status: GatewayStatus) -> Iterator[Metric]:
    info = {"gateway_id": status.gateway_id, "version": status.version}
    yield InfoMetricFamily(_PREFIX, "Which gateway this is.", value=info)
    condition = _gauge("condition", "1 for the condition that the gateway is in, 0 for the others.", ["condition"])
    for each in Condition:
        condition.add_metric([each.value.replace(" ", "_")], float(each is status.condition))
    yield condition
    yield _gauge("connected", "1 while the broker is reached.", value=float(status.connected))
    yield _gauge("uptime_seconds", "Since the gateway started.", value=status.uptime_s)
    yield _gauge("workers", "Requests that can run at once.", value=status.workers)
    yield _gauge("busy_ratio", "Share of the workers that run a request.", value=status.load)
    yield _gauge("queue_length", "Requests that wait for a worker.", value=status.queue_length)
    yield _gauge("expected_wait_seconds", "What a request that came now would wait.", value=status.wait_ms / 1e3)
    if status.free_bytes is not None:
        yield _gauge("free_memory_bytes", "Memory that the process could still take.", value=status.free_bytes)
    warm = [each for each in status.partitions if each.warm_slices is not None]
    if warm:
        yield _by_stage("warm_slices", "Copies of a stage's slices that are kept loaded.", warm, _warm_slices)
        yield _by_stage("warm_slice_bytes", "Memory that these hold.", warm, _warm_bytes)


def _warm_slices(partition: PartitionStatus) -> float:
    return float(partition.warm_slices or 0)


def _warm_bytes(partition: PartitionStatus) -> float:
    return float(partition.warm_bytes or 0)


def _counted(partitions: Sequence[PartitionStatus]) -> Iterator[Metric]:
    requests = _counter("requests", "Stages of requests that ended, by how.", [*_STAGE, "outcome"])
    priorities: dict[str, int] = {}
    for partition in partitions:
        for outcome, count in partition.counts.requests.items():
            requests.add_metric([*_stage(partition), outcome.value], count)
        for priority, count in partition.counts.priorities.items():
            priorities[priority] = priorities.get(priority, 0) + count
    yield requests
    by_priority = _counter("priority_requests", "The same, by the requests' priority.", ["priority"])
    for priority, count in sorted(priorities.items()):
        by_priority.add_metric([priority], count)
    yield by_priority


def _by_bundle(partitions: Sequence[PartitionStatus]) -> Iterator[Metric]:
    cpu = _counter("cpu_seconds", "Processor time of requests, by step.", ["bundle", "step"])
    received = _counter("received_bytes", "Bytes of requests.", ["bundle"])
    sent = _counter("sent_bytes", "Bytes of replies.", ["bundle"])
    wait = _histogram("queue_wait_seconds", "How long requests waited for a worker.")
    run = _histogram("run_seconds", "How long slices ran for a request.")
    latency = _histogram(
        "latency_seconds", "From a request's coming to its answer's going, of those answered in order."
    )
    batch = _histogram("batch_size", "For each request that ran, how many ran in one go with it.")
    by_name: dict[str, list[PartitionStatus]] = {}
    for partition in partitions:
        by_name.setdefault(partition.name.bundle, []).append(partition)
    for name, stages in by_name.items():
        counts = [stage.counts for stage in stages]
        received.add_metric([name], sum(each.received_bytes for each in counts))
        sent.add_metric([name], sum(each.sent_bytes for each in counts))
        for step in sorted({step for each in counts for step in each.cpu_ms}):
            cpu.add_metric([name, step], sum(each.cpu_ms.get(step, 0.0) for each in counts) / 1e3)
        _add(wait, name, added([each.wait_ms for each in counts]), 1e3)
        _add(run, name, added([each.run_ms for each in counts]), 1e3)
        _add(latency, name, added([each.latency_ms for each in counts]), 1e3)
        _add(batch, name, added([each.batch for each in counts]))
    yield from (cpu, received, sent, wait, run, latency, batch)


def _forecast(partitions: Sequence[PartitionStatus]) -> Iterator[Metric]:
    """What each predictor says of each target, how far it was off, and whether it is the one that is followed."""
    found = [(partition, each) for partition in partitions for each in partition.predictors]
    for target, (name, unit) in _FORECASTS.items():
        said = [(partition, each) for partition, each in found if each.target is target]
        if not said:
            continue
        forecast = _gauge(f"forecast_{name}", f"Forecast of the next interval's {name}.", [*_STAGE, "predictor"])
        error = _gauge(f"forecast_error_{name}", "How far that was off lately.", [*_STAGE, "predictor"])
        for partition, each in said:
            forecast.add_metric([*_stage(partition), each.name], each.forecast.middle * unit)
            if each.error is not None:
                error.add_metric([*_stage(partition), each.name], each.error * unit)
        yield forecast
        yield error
    if found:
        chosen = _gauge("forecast_chosen", "1 for the predictor that is followed.", [*_STAGE, "target", "predictor"])
        for partition, each in found:
            if each.chosen:
                chosen.add_metric([*_stage(partition), *_who(each)], 1.0)
        yield chosen


def _who(predictor: PredictorStatus) -> tuple[str, str]:
    return _FORECASTS[predictor.target][0], predictor.name


def _stage(partition: PartitionStatus) -> tuple[str, str, str]:
    name = partition.name
    return name.bundle, name.cut, name.next_cut


def _by_stage(
    name: str, told: str, partitions: Iterable[PartitionStatus], value: Callable[[PartitionStatus], float]
) -> Metric:
    family = _gauge(name, told, list(_STAGE))
    for partition in partitions:
        family.add_metric(list(_stage(partition)), value(partition))
    return family


def _gauge(
    name: str, told: str, labels: Sequence[str] | None = None, *, value: float | None = None
) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", told, value=value, labels=labels)


def _counter(name: str, told: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"{_PREFIX}_{name}", told, labels=labels)


def _histogram(name: str, told: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"{_PREFIX}_{name}", told, labels=["bundle"])


def _add(family: HistogramMetricFamily, bundle: str, histogram: Histogram, parts: float = 1.0) -> None:
    """Add what Prometheus wants: of each bound, how many values were at most as large. ``parts`` make one unit."""
    bounds = (*(f"{bound / parts}" for bound in histogram.bounds), "+Inf")
    buckets = [(bound, float(so_far)) for bound, so_far in zip(bounds, accumulate(histogram.counts), strict=True)]
    family.add_metric([bundle], buckets, histogram.total / parts)
