"""What Prometheus reads of a gateway, read as it would."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from midstream.gateway.status import GatewayStatus, PartitionStatus
from midstream.gateway.tallying import StageName
from midstream.gateway.web.metrics import Metrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(families: Iterable[Metric]) -> Samples:
    return {
        (sample.name.removeprefix("midstream_gateway_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def read(status: GatewayStatus) -> Samples:
    return samples(parse_text(Metrics().exposition(status, False)[0].decode()))


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_the_metrics_are_the_status(status: GatewayStatus) -> None:
    found = read(status)
    tail = {"bundle": "faces", "cut": "c5", "next_cut": "output"}
    assert value(found, "requests_total", **tail, outcome="ok") == 1
    assert value(found, "requests_total", **tail, outcome="failed") == 1
    assert value(found, "requests_total", bundle="faces", cut="input", next_cut="output", outcome="busy") == 1
    assert value(found, "priority_requests_total", priority="critical") == 1
    assert value(found, "cpu_seconds_total", bundle="faces", step="run") == 0.004
    assert value(found, "received_bytes_total", bundle="faces") == 3000
    assert value(found, "sent_bytes_total", bundle="faces") == 100
    assert value(found, "latency_seconds_bucket", bundle="faces", le="0.005") == 0
    assert value(found, "latency_seconds_bucket", bundle="faces", le="0.01") == 1
    assert value(found, "latency_seconds_bucket", bundle="faces", le="+Inf") == 1
    assert value(found, "latency_seconds_count", bundle="faces") == 1
    assert value(found, "latency_seconds_sum", bundle="faces") == 0.009
    assert value(found, "queue_wait_seconds_sum", bundle="faces") == 0.002
    assert value(found, "run_seconds_count", bundle="faces") == 1
    assert value(found, "batch_size_bucket", bundle="faces", le="1.0") == 1
    assert value(found, "info", gateway_id="attic", version="1.2.3") == 1
    assert value(found, "condition", condition="serving") == 1
    assert value(found, "condition", condition="broker_lost") == 0
    gauges = {
        "connected": 1, "workers": 4, "queue_length": 3, "expected_wait_seconds": 0.0125, "busy_ratio": 0.75,
        "free_memory_bytes": 1e9, "uptime_seconds": 3725,
    }  # fmt: skip
    assert {name: value(found, name) for name in gauges} == gauges
    assert value(found, "warm_slices", **tail) == 2
    assert value(found, "warm_slice_bytes", **tail) == 5e6
    assert value(found, "forecast_arrivals", **tail, predictor="ewma") == 2
    assert value(found, "forecast_wait_seconds", **tail, predictor="rnn") == 0.02
    assert value(found, "forecast_error_arrivals", **tail, predictor="rnn") == 0.25
    assert value(found, "forecast_chosen", **tail, target="arrivals", predictor="rnn") == 1
    assert value(found, "forecast_chosen", **tail, target="wait_seconds", predictor="rnn") == 1
    # How far off that one was is not known.
    assert not any(name == "forecast_error_wait_seconds" for name, _ in found)
    assert sum(name == "forecast_chosen" for name, _ in found) == 2


@pytest.mark.parametrize(("open_metrics", "parse"), [(False, parse_text), (True, parse_open)])
def test_both_formats_say_the_same_and_are_well_formed(
    open_metrics: bool, parse: Callable[[str], Iterable[Metric]], status: GatewayStatus
) -> None:
    body, content_type = Metrics().exposition(status, open_metrics)
    assert content_type.startswith("application/openmetrics-text" if open_metrics else "text/plain")
    mine = {key: each for key, each in samples(parse(body.decode())).items() if not key[0].startswith("process_")}
    assert mine == {key: each for key, each in read(status).items() if not key[0].startswith("process_")}


def test_hostile_names_stay_in_their_labels(status: GatewayStatus) -> None:
    evil = 'x"} 1\nmidstream_gateway_connected 0\n\\'
    partitions = tuple(replace(each, name=StageName(evil, evil, str(n))) for n, each in enumerate(status.partitions))
    for open_metrics, parse in ((False, parse_text), (True, parse_open)):
        body, _ = Metrics().exposition(replace(status, gateway_id=evil, partitions=partitions), open_metrics)
        found = samples(parse(body.decode()))
        assert value(found, "connected") == 1
        assert value(found, "received_bytes_total", bundle=evil) == 3000


def test_a_gateway_that_does_nothing_yet_has_metrics(status: GatewayStatus) -> None:
    found = read(replace(status, partitions=(), free_bytes=None))
    assert value(found, "queue_length") == 3
    assert not any(name in ("free_memory_bytes", "warm_slices") for name, _ in found)


def test_two_gateways_in_one_process_share_nothing(status: GatewayStatus) -> None:
    before = list(REGISTRY.collect())
    one, other = Metrics(), Metrics()
    first = one.exposition(status, False)[0]
    second = other.exposition(replace(status, gateway_id="cellar", workers=1), False)[0]
    assert b'gateway_id="attic"' in first
    assert b"attic" not in second
    assert {family.name for family in REGISTRY.collect()} == {family.name for family in before}


def test_many_stages_add_few_lines_each(status: GatewayStatus) -> None:
    def lines(partitions: tuple[PartitionStatus, ...]) -> int:
        return Metrics().exposition(replace(status, partitions=partitions), False)[0].count(b"\n")

    plain = replace(status.partitions[0], predictors=())
    few = tuple(replace(plain, name=StageName("faces", f"c{cut}", "output")) for cut in range(10))
    assert (lines(few) - lines(few[:1])) / 9 <= 6
