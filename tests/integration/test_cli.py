"""``midstream run``, ``gateway`` and ``broker`` as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.cli.gateway import find_bundles
from midstream.errors import BundleError
from midstream.inputs import AudioInput
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

from .conftest import device_with_gateway

MIDSTREAM = [sys.executable, "-m", "midstream.cli.main"]


def midstream(*arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = MIDSTREAM + [str(argument) for argument in arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The error, after checking that it is all there is."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("midstream: ")
    return line


def test_run_over_pictures(broker: Broker, start_gateway, faces_path: Path, assets: Path, tmp_path: Path) -> None:
    start_gateway(broker)
    with device_with_gateway(Bundle.open(faces_path), broker.url):
        result = midstream(
            "run", faces_path, "--broker", broker.url, "--input", assets / "pictures", "--json", "--state", tmp_path
        )
    assert result.returncode == 0, result.stderr
    assert [file.stem for file in tmp_path.iterdir()] == [Bundle.open(faces_path).digest.hex()]
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


def test_run_logs_each_request_under_its_id(broker: Broker, faces_path: Path, assets: Path) -> None:
    picture = assets / "pictures" / "coffee.png"
    options = ["--cut", "local", "--log-format", "json", "--log-level", "debug"]
    result = midstream("run", faces_path, "--broker", broker.url, "--input", picture, *options)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    (ended,) = [line for line in lines if "request_id" in line]
    assert (ended["logger"], ended["level"], ended["outcome"]) == ("midstream.device", "debug", "ok")
    assert len(bytes.fromhex(ended["request_id"])) == 16
    assert ended["latency_ms"] > 0


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


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 400 samples of sound that gives twice as much."""
    folder = tmp_path_factory.mktemp("twice")
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,400] x) => (float[1,400] y)
        { a = Add(x, x)\n y = Identity(a) }"""
    onnx.save(onnx.parser.parse_model(text), folder / "twice.onnx")
    convert(folder / "twice.onnx", folder / "bundle", Options(semantics={"x": AudioInput(16_000)}))
    return folder / "bundle"


def write_sound(path: Path, samples: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.full(samples, 1 << 13, "<i2").tobytes())


def test_the_end_of_every_sound_is_run(broker: Broker, twice: Path, tmp_path: Path) -> None:
    for name, samples in (("long", 900), ("short", 100), ("whole", 400)):
        write_sound(tmp_path / f"{name}.wav", samples)
    arguments = ["--input", tmp_path, "--cut", "local", "--save", tmp_path / "out", "--json"]
    result = midstream("run", twice, "--broker", broker.url, *arguments)
    names = [entry["input"] for entry in json.loads(result.stdout)["results"]]
    assert names == ["long-0000", "long-0001", "long-0002", "short-0000", "whole-0000"]
    long, short = result.stderr.splitlines()
    assert "long.wav: the last of its pieces of 400 samples ends in 300 samples of silence" in long
    assert "short.wav" in short
    with np.load(tmp_path / "out" / "long-0002.npz") as saved:
        assert np.allclose(saved["y"], [[0.5] * 100 + [0.0] * 300])


def test_a_folder_of_all_kinds_is_run_whole_and_nothing_is_saved_over(
    broker: Broker, faces_path: Path, inputs: Tensors, assets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "[" / "in]"
    folder.mkdir(parents=True)
    for name in ("a.png", "a.jpg", "a.jpg.png"):
        shutil.copy(assets / "pictures" / ("rocket.jpg" if name == "a.jpg" else "coins.png"), folder / name)
    np.savez(folder / "b.npz", **inputs)  # type: ignore[arg-type]
    arguments = ["--input", folder, "--cut", "local", "--save", tmp_path / "out"]
    result = midstream("run", faces_path, "--broker", broker.url, *arguments)
    assert result.returncode == 0, result.stderr
    saved = {"a", "a.jpg", "a.png", "b"}
    assert {file.stem for file in (tmp_path / "out").iterdir()} == saved
    assert all(f" {name} " in result.stdout for name in saved)


def test_inputs_are_read_one_by_one(broker: Broker, faces_path: Path, assets: Path, tmp_path: Path) -> None:
    shutil.copy(assets / "pictures" / "coins.png", tmp_path / "a.png")
    (tmp_path / "z.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    arguments = ["--input", tmp_path, "--cut", "local", "--save", tmp_path / "out"]
    assert "z.png" in one_line(midstream("run", faces_path, "--broker", broker.url, *arguments), 2)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cut", "c999"], "has no cut 'c999'"),
        (["--codec", "gzip"], "'gzip'"),
        (["--deadline-ms", "-5"], "deadline_ms is -5.0"),
        (["--deadline-ms", "inf"], "deadline_ms is inf"),
        (["--min-agreement", "nan"], "--min-agreement"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_waited_for(
    faces_path: Path, assets: Path, options: list[str], said: str
) -> None:
    """There is no broker, which would be another error."""
    arguments = ["--broker", "mqtt://127.0.0.1:9", "--input", assets / "pictures" / "coins.png", *options]
    assert said in one_line(midstream("run", faces_path, *arguments), 2)


@pytest.mark.parametrize("what", ["npy", "damaged", "encrypted"])
def test_arrays_that_cannot_be_read_are_one_error(faces_path: Path, inputs: Tensors, tmp_path: Path, what: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **inputs)  # type: ignore[arg-type]
    content = bytearray(path.read_bytes())
    if what == "npy":
        np.save(tmp_path / "x.npy", inputs["input"])
        content = bytearray((tmp_path / "x.npy").read_bytes())
    elif what == "damaged":
        content[200:400] = b"\x55" * 200
    else:
        content[content.find(b"PK\x01\x02") + 8] |= 1
        content[content.find(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(content)
    line = one_line(midstream("run", faces_path, "--broker", "mqtt://127.0.0.1:9", "--input", path), 2)
    assert "bad.npz is not an .npz archive of plain arrays" in line


def test_hidden_folders_hold_no_bundles(faces_path: Path, tmp_path: Path) -> None:
    shutil.copytree(faces_path, tmp_path / ".being written")
    with pytest.raises(BundleError, match="neither a bundle nor a folder of bundles"):
        find_bundles([tmp_path])
    shutil.copytree(faces_path, tmp_path / "b")
    assert find_bundles([tmp_path]) == [tmp_path / "b"]


@pytest.mark.parametrize("planner", ["adaptive", "bandit"])
def test_decisions_of_a_run_are_replayed(
    broker: Broker, start_gateway, faces_path: Path, assets: Path, tmp_path: Path, planner: str
) -> None:
    start_gateway(broker)
    log = tmp_path / "log.jsonl"
    options = ["--planner", planner, "--decisions", log, "--priority", "critical", "--json"]
    ran = midstream("run", faces_path, "--broker", broker.url, "--input", assets / "pictures", *options)
    assert ran.returncode == 0, ran.stderr
    told = midstream("replay", log, "--json")
    assert (told.returncode, told.stderr) == (0, "")
    replayed = json.loads(told.stdout)
    assert replayed["header"]["planner"] == planner
    # The adaptive one decides some inputs twice.
    assert replayed["decisions"] == replayed["equal"] >= len(json.loads(ran.stdout)["results"]) > 0


def test_what_the_bandit_cannot_minimise_is_one_line(faces_path: Path, assets: Path, tmp_path: Path) -> None:
    start = ["run", faces_path, "--broker", "mqtt://127.0.0.1:9", "--input", assets / "pictures"]
    log = ["--decisions", tmp_path / "log"]
    assert "learns latencies" in one_line(midstream(*start, "--planner", "bandit", "--objective", "energy", *log), 2)
    assert "cannot be written there" in one_line(midstream(*start, "--decisions", tmp_path / "no" / "log"), 2)
    assert list(tmp_path.iterdir()) == []
