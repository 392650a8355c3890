"""A 50 kB request and its 50 kB reply through broker and gateway, against a C TCP relay of the same bytes.

Run it with ``python benchmarks/transport.py``; it writes docs/benchmarks/transport.md. Broker, gateway, relay and echo
server are processes of their own on loopback; the model is two negations, so that what is measured is the way and not
the work.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from models import interleaved_ms, machine, write_page

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.device import Device
from midstream_converters.convert import convert
from midstream_converters.opening import Options

FLOATS = 12_500
ROUNDS = 400
LIMIT = 5.0


def main() -> None:
    """Measure both ways in turns."""
    if shutil.which("socat") is None:
        raise SystemExit("the relay to compare with is socat: apt install socat")
    with tempfile.TemporaryDirectory() as folder, Broker() as broker:
        path = trivial_bundle(Path(folder))
        bundle = Bundle.open(path)
        value = np.random.default_rng(0).standard_normal((1, FLOATS)).astype(np.float32)
        inputs = {"x": value}
        cut = bundle.cuts[0].id
        with gateway(broker.url, path), relay() as peer, Device(bundle, broker.url, analyse=False) as device:
            if not device.gateways:
                raise SystemExit("the gateway did not come up")

            def through_midstream() -> None:
                result = device.infer(inputs, cut=cut)
                if result.ran_on != ("device", "gateway"):
                    raise SystemExit(f"the gateway did not answer: {result.fallback}")

            payload = value.tobytes()
            medians = interleaved_ms([through_midstream, lambda: echo(peer, payload)], ROUNDS)
            parts = [device.infer(inputs, cut=cut).timings_ms for _ in range(50)]
    write_page("transport", page(broker.kind or "", *medians, parts))


def trivial_bundle(folder: Path) -> Path:
    """Two negations of 50 kB, cut between them."""
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, FLOATS]) for name in "xz"]
    nodes = [onnx.helper.make_node("Neg", ["x"], ["y"]), onnx.helper.make_node("Neg", ["y"], ["z"])]
    graph = onnx.helper.make_graph(nodes, "negations", tensors[:1], tensors[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "negations.onnx")
    convert(folder / "negations.onnx", folder / "bundle", Options())
    return folder / "bundle"


@contextmanager
def gateway(url: str, bundle: Path) -> Iterator[None]:
    """A gateway process."""
    command = [sys.executable, "-m", "midstream.cli.main", "gateway", "--bundles", str(bundle), "--broker", url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "is ready" in line:
                break
        yield
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def relay() -> Iterator[socket.socket]:
    """A connection through socat to an echo server, itself a process."""
    echo_port, relay_port = free_port(), free_port()
    processes = [
        subprocess.Popen(["socat", f"TCP-LISTEN:{echo_port},bind=127.0.0.1,reuseaddr,nodelay", "PIPE"]),
        subprocess.Popen(
            [
                "socat",
                f"TCP-LISTEN:{relay_port},bind=127.0.0.1,reuseaddr,nodelay",
                f"TCP:127.0.0.1:{echo_port},nodelay,retry=50,interval=0.1",
            ]
        ),
    ]
    try:
        with connect(relay_port) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield peer
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def connect(port: int) -> socket.socket:
    """Connect as soon as somebody listens."""
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise SystemExit("socat did not come up")


def echo(peer: socket.socket, payload: bytes) -> None:
    """There and back."""
    peer.sendall(payload)
    left = len(payload)
    while left:
        part = peer.recv(left)
        if not part:
            raise SystemExit("the relay closed the connection")
        left -= len(part)


def page(kind: str, ours_ms: float, relay_ms: float, parts: list[dict[str, float]]) -> str:
    """The generated page."""
    ratio = ours_ms / relay_ms
    verdict = "met" if ratio <= LIMIT else "missed"
    rows = [f"| {name} | {np.median([p[name] for p in parts]):.3f} |" for name in parts[0]]
    return "\n".join(
        [
            "# 50 kB there and back",
            "",
            f"Generated by `python benchmarks/transport.py`: medians of {ROUNDS} interleaved rounds, {machine()}, "
            f"broker {kind}. `Device.infer` with a forced cut and trivial slices, against socat relaying the same "
            "bytes to an echo server and back.",
            "",
            "| way | ms | ratio |",
            "| --- | ---: | ---: |",
            f"| socat relay | {relay_ms:.3f} | 1.00 |",
            f"| midstream | {ours_ms:.3f} | {ratio:.2f} |",
            "",
            f"Asked for: at most {LIMIT:g} × the relay: {verdict}.",
            "",
            "Where midstream's time goes (medians of 50):",
            "",
            "| part | ms |",
            "| --- | ---: |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
