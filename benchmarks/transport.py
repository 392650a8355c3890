"""Tensors there and back through a broker, and whole requests, against a C TCP relay of the same bytes.

Run it with ``python benchmarks/transport.py``; it writes docs/benchmarks/transport.md. Broker, gateway, the process
that sends tensors back, relay and echo server are processes of their own on loopback, which take turns, so that
whatever else the machine does meets them alike. The model of the whole requests is two negations.
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
from statistics import median

import numpy as np
import onnx
from models import interleaved_series, machine, table, verdict, write_page

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.device import Device
from midstream.measuring.transport import Pair, RoundTrips, paired, round_trips, tensor_of
from midstream_converters.convert import convert
from midstream_converters.opening import Options

# Bytes of a tensor, rounds, and how many times the relay's median is asked for.
SIZES = ((50_000, 600, 2.5), (3_000_000, 150, 4.0))
# How many times the relay's own p99/p50 is asked for.
TAIL_LIMIT = 1.5
RELAY, TENSORS, WHOLE = "socat relay", "tensors through the broker", "`Device.infer`"


def main() -> None:
    """Measure the three ways in turns."""
    if shutil.which("socat") is None:
        raise SystemExit("the relay to compare with is socat: apt install socat")
    sections = []
    with tempfile.TemporaryDirectory() as folder, Broker() as broker, paired(broker.url) as pair:
        for size_bytes, rounds, limit in SIZES:
            (place := Path(folder) / str(size_bytes)).mkdir()
            path = trivial_bundle(place, size_bytes // 4)
            sections.append(section(size_bytes, limit, *measured(broker.url, path, pair, size_bytes, rounds)))
        kind = broker.kind
    write_page("transport", page(kind or "", sections))


def measured(
    url: str, path: Path, pair: Pair, size_bytes: int, rounds: int
) -> tuple[list[list[float]], RoundTrips, dict[str, float]]:
    """Milliseconds of relay, tensors and requests, and where those of the latter two go."""
    bundle = Bundle.open(path)
    value = tensor_of(size_bytes)
    inputs, payload, cut = {"x": value.reshape(1, -1)}, value.tobytes(), bundle.cuts[0].id
    steps: list[dict[str, float]] = []
    parts: list[dict[str, float]] = []
    with gateway(url, path), relay() as peer, Device(bundle, url, analyse=False) as device:
        if not device.gateways:
            raise SystemExit("the gateway did not come up")

        def request() -> None:
            result = device.infer(inputs, cut=cut)
            if result.ran_on != ("device", "gateway"):
                raise SystemExit(f"the gateway did not answer: {result.fallback}")
            parts.append(result.timings_ms)

        ways = (lambda: echo(peer, payload), lambda: steps.append(pair.there_and_back(value)), request)
        series = interleaved_series(ways, rounds)
    return series, round_trips(size_bytes, steps), {name: median(part[name] for part in parts) for name in parts[0]}


def trivial_bundle(folder: Path, floats: int) -> Path:
    """Two negations, cut between them."""
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, floats]) for name in "xz"]
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


def section(
    size_bytes: int, limit: float, series: list[list[float]], tensors: RoundTrips, parts: dict[str, float]
) -> str:
    """What was measured of one size."""
    medians = [float(np.percentile(each, 50)) for each in series]
    tails = [float(np.percentile(each, 99)) / middle for each, middle in zip(series, medians, strict=True)]
    rows = [
        [name, f"{middle:.3f}", f"{middle / medians[0]:.2f}", f"{tail * middle:.3f}", f"{tail:.2f}"]
        for name, middle, tail in zip((RELAY, TENSORS, WHOLE), medians, tails, strict=True)
    ]
    steps = [[name, f"{ms:.3f}"] for name, ms in tensors.steps_ms.items()]
    return "\n".join(
        [
            f"## {size_bytes:,} bytes",
            "",
            table("way | p50, ms | ratio | p99, ms | p99/p50", rows),
            "",
            f"Asked of tensors: at most {limit:g} × the relay's p50: {verdict(medians[1] <= limit * medians[0])}; "
            f"p99/p50 at most {TAIL_LIMIT:g} × the relay's: {verdict(tails[1] <= TAIL_LIMIT * tails[0])}. A whole "
            f"request, with the planner and both slices, is {medians[2] / medians[0]:.2f} × the relay.",
            "",
            "Where the time of the tensors goes (medians):",
            "",
            table("step | ms", steps),
            "",
            "And that of the request:",
            "",
            table("part | ms", [[name, f"{ms:.3f}"] for name, ms in parts.items()]),
            "",
        ]
    )


def page(kind: str, sections: list[str]) -> str:
    """The generated page."""
    return "\n".join(
        [
            "# Tensors there and back",
            "",
            f"Generated by `python benchmarks/transport.py`: interleaved rounds, {machine()}, broker {kind}. Raw "
            "float32 tensors as requests and replies of the wire format to another process and back, QoS 1; "
            "`Device.infer` with a forced cut and trivial slices; socat relaying the same bytes to an echo server and "
            "back. "
            "`midstream bench transport --broker URL` measures the first on your own broker and link.",
            "",
            *sections,
        ]
    )


if __name__ == "__main__":
    main()
