"""A gateway that prepares for what comes: requests at once, slices kept ready, an end that loses nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from dense import dense_bundle

from midstream.allocation.usage import Partition
from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.lanes import Lanes
from midstream.device import Device, Result
from midstream.gateway import Gateway
from midstream.gateway.warming import slice_of
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, device_with_gateway, until


@pytest.fixture(scope="module")
def dense_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose first axis is free."""
    return dense_bundle(tmp_path_factory.mktemp("dense"))


@contextmanager
def serving(path: Path, broker: Broker, **options: object) -> Iterator[Gateway]:
    """A gateway in this process."""
    with Gateway([path], broker.url, **options) as gateway:  # type: ignore[arg-type]
        thread = threading.Thread(target=gateway.serve)
        thread.start()
        yield gateway
        gateway.stop()
        thread.join()


def vectors(count: int) -> list[Tensors]:
    return [{"x": np.random.default_rng(seed).normal(size=(1, 64)).astype(np.float32)} for seed in range(count)]


def test_requests_for_one_tail_run_at_once_and_are_answered_alike(broker: Broker, dense_path: Path) -> None:
    bundle, asked = Bundle.open(dense_path), vectors(48)
    cut = bundle.cuts[0].id
    # So slow that requests wait, and as slow for several at once as for one.
    with (
        serving(dense_path, broker, workers=1, slowdown=1000.0) as gateway,
        device_with_gateway(bundle, broker.url, deadline_ms=20_000.0, packing=False, analyse=False) as device,
        ThreadPoolExecutor(16) as pool,
    ):
        until(lambda: device.gateways == 1, "the gateway")
        results = list(pool.map(lambda each: device.infer(each, cut=cut, codec="raw"), asked))
        stage = next(each for each in gateway.status().partitions if each.name.cut == cut)
    for each, result in zip(asked, results, strict=True):
        assert result.ran_on == ("device", "gateway")
        assert np.array_equal(result.outputs["y"], bundle.run(each)["y"])
    # Its mean counts each request with those beside it.
    assert stage.counts.batch.mean is not None
    assert stage.counts.batch.mean > 1.5


@pytest.mark.parametrize(("slowdown", "keeps"), [(1.0, True), (1000.0, False)])
def test_a_worker_reads_on_after_what_takes_next_to_nothing(
    broker: Broker, dense_path: Path, monkeypatch: pytest.MonkeyPatch, slowdown: float, keeps: bool
) -> None:
    bundle, entered = Bundle.open(dense_path), list[str]()
    attended = Lanes.attended

    def counted(
        lanes: Lanes, urgent: bool = False
    ) -> AbstractContextManager[Callable[[Callable[[], bool], float], bool]]:
        entered.append(threading.current_thread().name)
        return attended(lanes, urgent)

    monkeypatch.setattr(Lanes, "attended", counted)
    with (
        serving(dense_path, broker, workers=1, slowdown=slowdown),
        device_with_gateway(bundle, broker.url, deadline_ms=20_000.0, packing=False, analyse=False) as device,
    ):
        until(lambda: device.gateways == 1, "the gateway")
        for each in vectors(20):
            assert device.infer(each, cut=bundle.cuts[0].id, codec="raw").ran_on == ("device", "gateway")
    times = sum(name.startswith("midstream-worker") for name in entered)
    assert times <= 5 if keeps else times >= 20


def test_a_hopeless_request_is_refused_at_once_with_the_wait(broker: Broker, dense_path: Path) -> None:
    bundle = Bundle.open(dense_path)
    # Some wait even where the first that runs are as many as run at once.
    asked = vectors(2 * max(bundle.batch_sizes(None)) + 1)
    with (
        serving(dense_path, broker, workers=1, slowdown=20_000.0),
        device_with_gateway(bundle, broker.url, deadline_ms=60_000.0, packing=False, analyse=False) as device,
        ThreadPoolExecutor(len(asked)) as pool,
    ):
        waiting = [pool.submit(device.infer, each, cut="input", codec="raw") for each in asked]
        until(lambda: device._exchange.queue(next(iter(device._exchange._gateways.gateways))) >= 2, "a queue")
        began = time.monotonic()
        late = device.infer(asked[0], cut="input", codec="raw", deadline_ms=200.0)
        assert (time.monotonic() - began) < 5.0
        assert late.ran_on == ("device",)
        assert late.fallback is not None
        assert "it would wait about" in late.fallback
        assert all(each.result().ran_on[-1] == "gateway" for each in waiting)


def test_what_is_asked_for_is_forecast_told_and_kept_ready(broker: Broker, dense_path: Path) -> None:
    bundle = Bundle.open(dense_path)
    cut = bundle.cuts[0].id
    tail = Partition(bundle.digest.hex(), cut)
    with (
        serving(dense_path, broker, workers=2) as gateway,
        device_with_gateway(bundle, broker.url, deadline_ms=20_000.0, analyse=False) as device,
    ):
        name = next(iter(device._exchange._gateways.gateways))

        def asks_and_hears() -> bool:
            device.infer(vectors(1)[0], cut=cut, codec="raw")
            report = device._exchange._gateways.loads.get(name)
            return report is not None and report.forecast_ms is not None

        until(asks_and_hears, "a forecast in a load report")
        served = gateway._served[bundle.digest]
        until(lambda: all(slice_of(tail) in each.loaded for each in served.bundles), "copies in both workers")
        stage = next(each for each in gateway.status().partitions if each.name.cut == cut)
        assert stage.warm_slices == 2
        assert {each.target.value for each in stage.predictors if each.chosen} == {
            "arrivals",
            "cpu_ms",
            "memory_bytes",
            "wait_ms",
        }


def test_slices_beyond_the_memory_are_given_up_and_loaded_again(broker: Broker, dense_path: Path) -> None:
    bundle, each = Bundle.open(dense_path), vectors(1)[0]
    with (
        serving(dense_path, broker, workers=1, memory_bytes=1) as gateway,
        device_with_gateway(bundle, broker.url, deadline_ms=20_000.0, analyse=False) as device,
    ):
        (copy,) = gateway._served[bundle.digest].bundles
        for _ in range(2):
            assert device.infer(each, cut=bundle.cuts[0].id, codec="raw").ran_on == ("device", "gateway")
            until(lambda: not copy.loaded, "the slices to be given up")


def test_a_gateway_that_is_told_to_stop_answers_what_waits(
    broker: Broker, faces: Bundle, inputs: Tensors, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway(broker, "leaving", options=("--workers", "1"))
    answers: list[Result] = []
    with (
        device_with_gateway(faces, broker.url, deadline_ms=30_000.0, packing=False, analyse=False) as device,
        ThreadPoolExecutor(64) as pool,
    ):
        device.infer(inputs, cut="input", codec="raw")
        waiting = [pool.submit(device.infer, inputs, cut="input", codec="raw") for _ in range(64)]
        until(lambda: any(each.done() for each in waiting), "the first answer")
        gateway.process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in waiting]
        assert gateway.process.wait(WAIT_S) == 0
        until(lambda: device.gateways == 0, "the gateway to be gone")
    reasons = {answer.fallback for answer in answers if answer.ran_on == ("device",)}
    # Who came after it was told to stop is refused, or has heard of it by then, and nobody else.
    expected = ("this gateway stops", "no gateway has this bundle")
    assert all(reason is not None and any(each in reason for each in expected) for reason in reasons)
    assert sum(answer.ran_on == ("gateway",) for answer in answers) >= 1


def test_a_gateway_that_stops_has_no_bundles_for_others(broker: Broker, dense_path: Path) -> None:
    bundle = Bundle.open(dense_path)
    with (
        serving(dense_path, broker, workers=1, slowdown=50_000.0) as gateway,
        Device(bundle, broker.url, deadline_ms=60_000.0, packing=False, analyse=False) as device,
        ThreadPoolExecutor(1) as pool,
    ):
        until(lambda: device.gateways == 1, "the gateway")
        running = pool.submit(device.infer, vectors(1)[0], cut="input", codec="raw")
        until(lambda: gateway._work.load().load > 0.0, "it to run")
        gateway.stop()
        closing = threading.Thread(target=gateway._close)
        closing.start()
        until(lambda: device.gateways == 0, "devices to be told")
        assert not running.done()
        assert running.result().ran_on == ("gateway",)
        closing.join()
