"""Everything that a radio link and a shared broker can do: every answer is right, and there in time.

Each is short here; the same at length is marked long, and ``scripts/soak`` runs the mix of faults for any time.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.control import Cancel, decode_control
from midstream.communication.presence import Presence
from midstream.communication.transport import MqttTransport
from midstream.device import Device, Result
from midstream.faults import FaultMix
from midstream.faulty_link import FaultyLink
from midstream.gateway import Gateway
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

from .conftest import WAIT_S, GatewayProcess, device_with_gateway, until

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_MS = 1000.0
# Far below the 10 s a device waits without a deadline, far above what a busy machine adds.
CLEARLY_IN_TIME_MS = 5000.0
# A process whose wall clock is wrong by minutes from its start.
SKEWED = (
    "import sys, time; real, real_ns = time.time, time.time_ns; shift = int(sys.argv.pop(1)); "
    "time.time = lambda: real() + shift; time.time_ns = lambda: real_ns() + shift * 10**9; "
    "from midstream.cli.main import run; run()"
)


@pytest.fixture(scope="session")
def digits_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundles") / "digits"
    convert(ROOT / "tests" / "models" / "digits_float32.onnx", target, Options(max_cuts=2))
    return target


@pytest.fixture(scope="session")
def digits(digits_path: Path) -> Bundle:
    return Bundle.open(digits_path)


@pytest.fixture(scope="session")
def picture(digits: Bundle) -> Tensors:
    (spec,) = digits.inputs
    shape = digits.manifest.sample_shapes[spec.name]
    return {spec.name: np.random.default_rng(1).uniform(0, 16, shape).astype(spec.dtype)}


class Callers:
    """Threads that ask one request after the other until the block ends; every answer is checked."""

    def __init__(self, device: Device, bundle: Bundle, inputs: Tensors, cut: str | None = None) -> None:
        self._device, self._inputs, self._cut = device, inputs, cut
        self._want = bundle.run(inputs)
        self._stop = threading.Event()
        self.results: list[tuple[Result, float]] = []
        self._threads = ThreadPoolExecutor(3)

    def __enter__(self) -> Callers:
        self._running = [self._threads.submit(self._call) for _ in range(3)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for running in self._running:
            running.result(WAIT_S)
        self._threads.shutdown()
        for result, ms in self.results:
            assert all(np.array_equal(self._want[name], result.outputs[name]) for name in self._want)
            assert ms < CLEARLY_IN_TIME_MS

    def answered_by(self, machine: str, more: int = 5) -> bool:
        """Whether so many of the last answers came from there."""
        return len(self.results) >= more and all(machine in result.ran_on for result, _ in self.results[-more:])

    def _call(self) -> None:
        while not self._stop.wait(0.005):
            began = time.monotonic()
            result = self._device.infer(self._inputs, cut=self._cut)
            self.results.append((result, (time.monotonic() - began) * 1e3))


def chosen(device: Device) -> Presence | None:
    """The gateway that a request that is not forced would go to."""
    return device._exchange.route(1, None, bytes(16), forced=False).first


def kill_brokers(digits_path: Path, digits: Bundle, picture: Tensors, times: int) -> None:
    with Broker() as first:
        port, kind = first.port, first.kind
        with ExitStack() as stack:
            gateway = GatewayProcess(first.url, digits_path, "survivor")
            stack.callback(gateway.process.wait)
            stack.callback(gateway.process.kill)
            device = stack.enter_context(device_with_gateway(digits, first.url, deadline_ms=DEADLINE_MS))
            callers = stack.enter_context(Callers(device, digits, picture, digits.cuts[0].id))
            broker = first
            for _ in range(times):
                until(lambda: callers.answered_by("gateway"), "answers of the gateway")
                assert broker.pid is not None
                os.kill(broker.pid, signal.SIGKILL)
                until(lambda: callers.answered_by("device") and not device.connected, "answers of the device")
                broker.stop()
                broker = stack.enter_context(Broker(port=port, kind=kind or "auto"))
            until(lambda: callers.answered_by("gateway"), "answers of the gateway")


def test_a_broker_killed_and_restarted(digits_path: Path, digits: Bundle, picture: Tensors) -> None:
    kill_brokers(digits_path, digits, picture, 1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_broker_killed_and_restarted_often(digits_path: Path, digits: Bundle, picture: Tensors) -> None:
    kill_brokers(digits_path, digits, picture, 20)


def kill_gateways(
    broker: Broker, start: Callable[..., GatewayProcess], path: Path, inputs: Tensors, times: int
) -> None:
    digits = Bundle.open(path)
    with Device(digits, broker.url, deadline_ms=DEADLINE_MS) as device:
        for round_number in range(times):
            gateway = start(broker, name=f"mortal-{round_number}", bundle=path)
            until(lambda: device.gateways > 0, "a gateway's presence")
            with Callers(device, digits, inputs, digits.cuts[0].id) as callers:
                until(lambda: callers.answered_by("gateway"), "answers of the gateway")
                gateway.process.send_signal(signal.SIGSTOP)
                until(lambda: device.pending > 0, "a request under way")
                gateway.process.kill()
                until(lambda: device.gateways == 0, "the gateway to vanish")
                until(lambda: callers.answered_by("device"), "answers of the device")


def test_a_gateway_killed_under_load(broker: Broker, start_gateway, digits_path: Path, picture: Tensors) -> None:
    kill_gateways(broker, start_gateway, digits_path, picture, 1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_gateways_killed_under_load(broker: Broker, start_gateway, digits_path: Path, picture: Tensors) -> None:
    kill_gateways(broker, start_gateway, digits_path, picture, 20)


def cut_links(broker: Broker, start: Callable[..., GatewayProcess], path: Path, inputs: Tensors, times: int) -> None:
    digits = Bundle.open(path)
    start(broker, bundle=path)
    with (
        FaultyLink(("127.0.0.1", broker.port), rtt_ms=2) as link,
        device_with_gateway(digits, link.url, deadline_ms=200) as device,
    ):
        for _ in range(times):
            assert "gateway" in device.infer(inputs, cut=digits.cuts[0].id).ran_on
            link.cut()
            found_out = device.infer(inputs, cut=digits.cuts[0].id)
            assert found_out.ran_on == ("device",)
            # The dead link costs that one request: no other is even planned for it.
            for _ in range(20):
                assert chosen(device) is None
                assert not device.infer(inputs).plan.offloads
            link.restore()

            def recovered() -> bool:
                device.infer(inputs)  # sends the probes, when they are due
                return chosen(device) is not None

            until(recovered, "the link to be used again")
            assert "gateway" in device.infer(inputs, cut=digits.cuts[0].id, deadline_ms=5000).ran_on


def test_a_link_cut_costs_one_request(broker: Broker, start_gateway, digits_path: Path, picture: Tensors) -> None:
    cut_links(broker, start_gateway, digits_path, picture, 1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_link_cut_often(broker: Broker, start_gateway, digits_path: Path, picture: Tensors) -> None:
    cut_links(broker, start_gateway, digits_path, picture, 30)


def test_a_gateway_that_recovers_is_used_again_beside_another(
    broker: Broker, start_gateway, digits_path: Path, picture: Tensors
) -> None:
    """Its probes go out with requests to the other one, too."""
    digits = Bundle.open(digits_path)
    frozen = start_gateway(broker, name="frozen", bundle=digits_path)
    start_gateway(broker, name="other", bundle=digits_path)
    with Device(digits, broker.url, deadline_ms=DEADLINE_MS) as device:
        until(lambda: device.gateways == 2, "both gateways")
        known = device._exchange._gateways
        frozen.process.send_signal(signal.SIGSTOP)
        assert device.infer(picture, cut="input", machines=["frozen"], deadline_ms=300).ran_on == ("device",)
        assert known.rests("frozen")
        frozen.process.send_signal(signal.SIGCONT)

        def recovered() -> bool:
            assert "gateway" in device.infer(picture, cut="input", machines=["other"], deadline_ms=5000).ran_on
            return not known.rests("frozen")

        until(recovered, "the gateway to be used again")


@pytest.mark.long
def test_a_lossy_link_still_reaches_the_gateway(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    """Requests of many chunks, of which one in ten is lost, doubled, overtaken or damaged, each way."""
    start_gateway(broker)
    want = faces.run(inputs)
    mix = FaultMix(0.1, 0.1, 0.1, 0.1)
    with (
        FaultyLink(("127.0.0.1", broker.port), seed=1, uplink_kbps=50_000, rtt_ms=4) as link,
        device_with_gateway(faces, link.url) as device,
    ):
        link.set(up=mix, down=mix)
        results = [device.infer(inputs, cut=faces.cuts[0].id) for _ in range(16)]
        assert link.up.dropped > 0
        assert device._exchange._mail.loss("gw-test") > 0
    assert all(np.array_equal(want[name], result.outputs[name]) for result in results for name in want)
    assert sum("gateway" in result.ran_on for result in results) >= 12


def soak(*options: str) -> dict[str, object]:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), *options]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert ended.stdout, ended.stderr.decode()
    summary: dict[str, object] = json.loads(ended.stdout)
    failed = summary["late"] or not summary["remote"]
    assert ended.returncode == (1 if failed else 0), ended.stderr.decode()
    return summary


def test_every_fault_at_once() -> None:
    """How late an answer is depends on the machine; that there is one, and the right one, does not."""
    summary = soak("--requests", "200", "--devices", "1", "--every-s", "4")
    assert (summary["requests"], summary["wrong"], summary["hung"]) == (200, 0, 0)
    assert summary["remote"]
    assert summary["gateway_alive"]


@pytest.mark.long
def test_by_the_clock_requests_go_the_same_ways_in_turns() -> None:
    summary = soak("--minutes", "0.1", "--devices", "1")
    assert (summary["wrong"], summary["hung"]) == (0, 0)
    # Of those that are forced to the gateway, each is answered there, or here instead.
    assert summary["remote"] or summary["local_fallback"]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_fault_at_once_for_long() -> None:
    summary = soak("--requests", "10000")
    assert (summary["requests"], summary["wrong"], summary["hung"]) == (10_000, 0, 0)
    assert summary["gateway_alive"]


@pytest.mark.parametrize("minutes", [-7, 90])
def test_clocks_that_differ(broker: Broker, digits_path: Path, digits: Bundle, picture: Tensors, minutes: int) -> None:
    command = [sys.executable, "-c", SKEWED, str(60 * minutes), "gateway", "--bundles", str(digits_path)]
    command += ["--broker", broker.url, "--id", "skewed"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as gateway:
        try:
            with device_with_gateway(digits, broker.url, deadline_ms=DEADLINE_MS) as device:
                results = [device.infer(picture, cut=digits.cuts[0].id, deadline_ms=5000) for _ in range(5)]
                assert [result.ran_on for result in results] == [("device", "gateway")] * 5, results[0].fallback
        finally:
            gateway.kill()


def many_devices(broker: Broker, digits: Bundle, picture: Tensors, each: int) -> None:
    want = digits.run(picture)
    with ExitStack() as stack:
        devices = [
            stack.enter_context(device_with_gateway(digits, broker.url, deadline_ms=10_000, device_id=f"many-{number}"))
            for number in range(50)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(50))

        def ask(device: Device) -> list[Result]:
            return [device.infer(picture, cut=digits.cuts[0].id) for _ in range(each)]

        results = [result for found in threads.map(ask, devices) for result in found]
        assert all(device.pending == 0 for device in devices)
    assert len(results) == 50 * each
    assert all(np.array_equal(want[name], result.outputs[name]) for result in results for name in want)
    assert sum("gateway" in result.ran_on for result in results) > 0.9 * len(results)


def test_fifty_devices(broker: Broker, start_gateway, digits_path: Path, digits: Bundle, picture: Tensors) -> None:
    start_gateway(broker, bundle=digits_path)
    many_devices(broker, digits, picture, 3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_fifty_devices_for_long(
    broker: Broker, start_gateway, digits_path: Path, digits: Bundle, picture: Tensors
) -> None:
    start_gateway(broker, bundle=digits_path)
    many_devices(broker, digits, picture, 200)


@contextmanager
def controls(broker: Broker, gateway_id: str) -> Iterator[list[bytes]]:
    """The control messages that a gateway gets."""
    seen: list[bytes] = []
    with MqttTransport(
        broker.url, "watcher", on_message=lambda message: seen.append(message.payload), on_state=lambda _up: None
    ) as watcher:
        watcher.subscribe(topics.gateway_filters(gateway_id)[1])
        watcher.start(WAIT_S, required=True)
        yield seen


def test_a_cancelled_request_leaves_nothing(
    broker: Broker, start_gateway, digits_path: Path, digits: Bundle, picture: Tensors
) -> None:
    gateway = start_gateway(broker, bundle=digits_path)
    with device_with_gateway(digits, broker.url) as device, controls(broker, gateway.name) as seen:
        gateway.process.send_signal(signal.SIGSTOP)

        async def ask_and_leave() -> None:
            asked = [asyncio.create_task(device.infer_async(picture, cut="input")) for _ in range(10)]
            while device.pending < len(asked):
                await asyncio.sleep(0.01)
            for task in asked:
                task.cancel()
            ends = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)
            assert device.pending == 0

        asyncio.run(ask_and_leave())
        until(lambda: any(isinstance(decode_control(payload), Cancel) for payload in seen), "a cancellation")
        gateway.process.send_signal(signal.SIGCONT)
        # The gateway has not failed: it was not waited for.
        assert chosen(device) is not None
        result = device.infer(picture, cut="input")
        assert result.ran_on == ("gateway",), result.fallback


def test_cancelling_what_has_not_begun_waits_for_nobody_else(
    broker: Broker,
    start_gateway,
    digits_path: Path,
    digits: Bundle,
    picture: Tensors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("midstream.device._MOST_ASYNC", 1)
    gateway = start_gateway(broker, bundle=digits_path)
    complaints: list[dict[str, object]] = []

    async def ask_twice_and_leave(device: Device) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        first = asyncio.create_task(device.infer_async(picture, cut="input"))
        while device.pending < 1:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(device.infer_async(picture, cut="input"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not first.done()
        # Who is cancelled once more does not wait, and leaves nothing to complain of.
        first.cancel()
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        while device.pending:
            await asyncio.sleep(0.01)

    with device_with_gateway(digits, broker.url) as device:
        gateway.process.send_signal(signal.SIGSTOP)
        asyncio.run(ask_twice_and_leave(device))
    gc.collect()
    assert not complaints


def test_the_gateway_does_not_run_what_nobody_waits_for(
    broker: Broker, digits_path: Path, digits: Bundle, picture: Tensors
) -> None:
    with Gateway([digits_path], broker.url, gateway_id="patient", workers=1) as gateway:
        (served,) = gateway._served.values()
        go, runs = threading.Event(), 0
        run = served.bundles[0].run_tail_on

        def slowly(*given: object) -> Tensors:
            nonlocal runs
            runs += 1
            go.wait(WAIT_S)
            return run(*given)  # type: ignore[arg-type]

        served.bundles[0].run_tail_on = slowly  # type: ignore[method-assign]
        serving = threading.Thread(target=gateway.serve)
        serving.start()
        try:
            with device_with_gateway(digits, broker.url, packing=False) as device:

                async def ask_three_and_leave_one() -> list[Result]:
                    first = asyncio.create_task(device.infer_async(picture, cut="input"))
                    while not runs:
                        await asyncio.sleep(0.01)
                    unwanted = asyncio.create_task(device.infer_async(picture, cut="input"))
                    last = asyncio.create_task(device.infer_async(picture, cut="input"))
                    while len(gateway._work._jobs) < 2:
                        await asyncio.sleep(0.01)
                    unwanted.cancel()
                    while len(gateway._work._jobs) > 1:
                        await asyncio.sleep(0.01)
                    go.set()
                    return [await first, await last]

                results = asyncio.run(asyncio.wait_for(ask_three_and_leave_one(), WAIT_S))
        finally:
            go.set()
            gateway.stop()
            serving.join()
    assert [result.ran_on for result in results] == [("gateway",)] * 2
    assert runs == 2


def test_a_stream_answers_the_newest_frame(broker: Broker, start_gateway, faces: Bundle) -> None:
    start_gateway(broker)
    frames = [np.full((96, 128, 3), number, np.uint8) for number in range(30)]
    with device_with_gateway(faces, broker.url) as device, device.stream(cut="input") as stream:
        for frame in frames:
            stream.offer(frame)
        stream.end()
        answered = list(stream)
    ((frame, result),) = answered
    assert frame is frames[-1]
    assert result.ran_on == ("gateway",)
    assert (stream.offered, stream.dropped) == (30, 29)
