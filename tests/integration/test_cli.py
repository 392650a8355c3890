"""``midstream run``, ``gateway`` and ``broker`` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle

from .conftest import device_with_gateway

MIDSTREAM = [sys.executable, "-m", "midstream.cli.main"]


def midstream(*arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = MIDSTREAM + [str(argument) for argument in arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The error, after checking that there is one line, no traceback, and nothing on stdout."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("midstream: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_run_over_pictures(broker: Broker, start_gateway, faces_path: Path, assets: Path) -> None:
    start_gateway(broker)
    with device_with_gateway(Bundle.open(faces_path), broker.url):
        result = midstream("run", faces_path, "--broker", broker.url, "--input", assets / "pictures", "--json")
    assert result.returncode == 0, result.stderr
    results = json.loads(result.stdout)["results"]
    assert {entry["input"] for entry in results} >= {"astronaut", "coffee"}
    for entry in results:
        assert entry["fallback"] is None
        assert entry["ran_on"][-1] in ("device", "gateway")
        assert 0 <= entry["score"] <= 100
        assert set(entry["plan"]) == {
            "stages", "cut", "codec", "predicted_ms", "energy_mj", "payload_bytes", "why",
        }  # fmt: skip


def test_run_a_forced_cut_and_save(
    broker: Broker, start_gateway, faces_path: Path, assets: Path, tmp_path: Path
) -> None:
    start_gateway(broker)
    bundle = Bundle.open(faces_path)
    cut = bundle.cuts[2].id
    picture = assets / "pictures" / "astronaut.png"
    with device_with_gateway(bundle, broker.url) as device:
        arguments = ["--input", picture, "--cut", cut, "--codec", "lossless", "--save", tmp_path / "out", "--json"]
        result = midstream("run", faces_path, "--broker", broker.url, *arguments)
        assert result.returncode == 0, result.stderr
        (entry,) = json.loads(result.stdout)["results"]
        assert entry["ran_on"] == ["device", "gateway"], entry["fallback"]
        from midstream.media import read_image

        want = device.infer(source=read_image(picture), cut="local").outputs
    with np.load(tmp_path / "out" / "astronaut.npz") as saved:
        assert all(np.array_equal(saved[name], want[name]) for name in want)


def test_run_without_a_gateway_answers_locally(broker: Broker, faces_path: Path, assets: Path) -> None:
    picture = assets / "pictures" / "coffee.png"
    result = midstream("run", faces_path, "--broker", broker.url, "--input", picture)
    assert result.returncode == 0, result.stderr
    assert "no gateway" in result.stdout


@pytest.mark.parametrize("command", ["run", "gateway"])
@pytest.mark.parametrize("url", ["http://127.0.0.1", "mqtt://", "mqtt://127.0.0.1:99999", "127.0.0.1:1883"])
def test_wrong_urls(command: str, url: str, faces_path: Path, assets: Path) -> None:
    own = [faces_path, "--input", assets / "pictures"] if command == "run" else ["--bundles", faces_path]
    assert "mqtt://" in one_line(midstream(command, *own, "--broker", url), 2)


def test_run_needs_its_broker(faces_path: Path, assets: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"mqtt://user:hunter2@127.0.0.1:{port}"
    line = one_line(midstream("run", faces_path, "--broker", url, "--input", assets / "pictures"), 4)
    assert f"127.0.0.1:{port}" in line
    assert "midstream broker" in line
    assert "hunter2" not in line


def test_wrong_inputs(broker: Broker, faces_path: Path, assets: Path, tmp_path: Path) -> None:
    start = ["run", faces_path, "--broker", broker.url, "--input"]
    assert "missing.png" in one_line(midstream(*start, tmp_path / "missing.png"), 2)
    (tmp_path / "broken.png").write_bytes((assets / "pictures" / "coffee.png").read_bytes()[:5000])
    assert "broken.png" in one_line(midstream(*start, tmp_path / "broken.png"), 2)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not an archive")
    assert "broken.npz" in one_line(midstream(*start, tmp_path / "broken.npz"), 2)
    np.savez(tmp_path / "wrong.npz", input=np.zeros((1, 4, 4, 3), np.float32))
    assert "shape" in one_line(midstream(*start, tmp_path / "wrong.npz"), 2)
    assert "c999" in one_line(midstream(*start, assets / "pictures" / "coffee.png", "--cut", "c999"), 2)
    assert "sound" in one_line(midstream(*start, assets / "sounds" / "front_center.wav"), 2)
    (tmp_path / "empty").mkdir()
    assert "empty" in one_line(midstream("gateway", "--bundles", tmp_path / "empty", "--broker", broker.url), 2)


def test_a_broker_that_speaks_only_mqtt_3(faces_path: Path) -> None:
    """It answers a version 5 CONNECT as the 3.1.1 standard says: return code 1, unacceptable protocol version."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(1024)
                    peer.sendall(b"\x20\x02\x00\x01")

        threading.Thread(target=serve, daemon=True).start()
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        line = one_line(midstream("gateway", "--bundles", faces_path, "--broker", url), 4)
        server.shutdown(socket.SHUT_RDWR)
    assert "MQTT 5" in line
    assert "3.1.1" in line


def test_a_broker_that_wants_credentials(faces_path: Path, assets: Path, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "camera", "hunter2"], check=True)
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\n")
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with subprocess.Popen(["mosquitto", "-c", str(config)], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(500):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                threading.Event().wait(0.01)
            arguments = ["--input", assets / "pictures" / "coffee.png"]
            wrong = midstream("run", faces_path, "--broker", f"mqtt://camera:wrong@127.0.0.1:{port}", *arguments)
            line = one_line(wrong, 4)
            assert "MIDSTREAM_MQTT_USERNAME" in line
            assert "wrong@" not in wrong.stderr
            right = midstream("run", faces_path, "--broker", f"mqtt://camera:hunter2@127.0.0.1:{port}", *arguments)
            assert right.returncode == 0, right.stderr
            assert "hunter2" not in right.stdout + right.stderr
        finally:
            process.terminate()


def test_broker_runs_until_it_is_told_to_stop() -> None:
    with subprocess.Popen([*MIDSTREAM, "broker", "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "ready at mqtt://127.0.0.1:" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_broker_says_when_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in one_line(midstream("broker", "--port", port), 2)
