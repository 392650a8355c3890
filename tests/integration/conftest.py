"""A real gateway process, and a bundle of a real model."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.chunks import Reassembler, split
from midstream.communication.transport import MqttTransport
from midstream.communication.wire import Reply, Request, decode_reply, encode_request
from midstream.device import Device
from midstream.inputs import parse_semantics
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

WAIT_S = 20.0


def until(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    """Poll for a condition of another process."""
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, f"waited {wait_s} s for {what}"
        time.sleep(0.002)


class GatewayProcess:
    """``midstream gateway`` as a process of its own."""

    def __init__(self, broker_url: str, bundle: Path, name: str, *options: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "midstream.cli.main", "gateway", "--bundles", str(bundle)]
        command += ["--broker", broker_url, "--id", name, "--workers", "2", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(WAIT_S)


@pytest.fixture(scope="session")
def faces_path(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BlazeFace, converted with the default cuts."""
    target = tmp_path_factory.mktemp("bundles") / "faces"
    semantics = dict([parse_semantics("input=image:NHWC:RGB:1/127.5:127.5")])
    convert(assets / "models" / "face_detection_short_range.tflite", target, Options(semantics=semantics))
    return target


@pytest.fixture(scope="session")
def faces(faces_path: Path) -> Bundle:
    return Bundle.open(faces_path)


@pytest.fixture(scope="session")
def voice_path(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Silero's voice detector: dynamic sizes, and states that are inputs and outputs."""
    target = tmp_path_factory.mktemp("bundles") / "voice"
    options = Options(max_cuts=2, shapes={"input": (1, 576), "state": (2, 1, 128)}, values={"sr": 16000})
    convert(assets / "models" / "silero_vad.onnx", target, options)
    return target


@pytest.fixture
def inputs() -> Tensors:
    return {"input": np.random.default_rng(5).uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)}


@pytest.fixture
def start_gateway(faces_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts gateways; all of them end with the test."""
    started: list[GatewayProcess] = []

    def start(
        broker: Broker, name: str = "gw-test", bundle: Path = faces_path, options: Sequence[str] = ()
    ) -> GatewayProcess:
        started.append(GatewayProcess(broker.url, bundle, name, *options))
        return started[-1]

    yield start
    for gateway in started:
        gateway.process.kill()
        gateway.process.wait()


@contextmanager
def asking(url: str, gateway_id: str) -> Iterator[Callable[[Request], Reply]]:
    """Sends a gateway requests as bytes on the wire, one after the other, and reads its replies."""
    parts: queue.Queue[bytes] = queue.Queue()
    client = MqttTransport(
        url, "asker", on_message=lambda message: parts.put(message.payload), on_state=lambda _up: None
    )

    def ask(request: Request) -> Reply:
        for chunk in split(encode_request(request), request.request_id):
            topic = topics.request_topic(gateway_id, "asker")
            assert client.publish(topic, chunk, correlation=request.request_id)
        received = Reassembler()
        while (whole := received.add(gateway_id, parts.get(timeout=WAIT_S))) is None:
            pass
        return decode_reply(whole)

    with client:
        client.subscribe(topics.reply_filter("asker"))
        client.start(WAIT_S, required=True)
        yield ask


@contextmanager
def device_with_gateway(bundle: Bundle, url: str, **options: object) -> Iterator[Device]:
    """A device that already sees a gateway."""
    with Device(bundle, url, **options) as device:  # type: ignore[arg-type]
        until(lambda: device.gateways > 0, "a gateway's presence")
        yield device


_LADDER_OF_OUTPUTS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 64] x) => (float[1, 64] early, float[1, 64] middle, float[1, 64] late) {
  a = MatMul(x, w)
  b = Relu(a)
  early = Sigmoid(b)
  c = MatMul(b, w)
  d = Relu(c)
  middle = Sigmoid(d)
  e = MatMul(d, w)
  f = Relu(e)
  h = MatMul(f, w)
  late = Sigmoid(h)
}
"""


@pytest.fixture(scope="session")
def outputs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small quick model with an output after a quarter, after half and at its end."""
    folder = tmp_path_factory.mktemp("outputs")
    model = onnx.parser.parse_model(_LADDER_OF_OUTPUTS)
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) / 8
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, folder / "outputs.onnx")
    convert(folder / "outputs.onnx", folder / "bundle", Options())
    return folder / "bundle"


@pytest.fixture(scope="session")
def outputs(outputs_path: Path) -> Bundle:
    return Bundle.open(outputs_path)


@pytest.fixture
def vector() -> Tensors:
    return {"x": np.random.default_rng(7).normal(size=(1, 64)).astype(np.float32)}
