"""A device and a gateway by each way to a broker: plain, WebSockets, TLS with certificates, with passwords."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.credentials import CLIENT_FILE
from midstream.device import Device
from midstream.errors import InputError
from midstream.gateway import Gateway
from midstream.securing import SecureFolder
from midstream_converters.convert import convert
from midstream_converters.opening import Options

from .conftest import until

Way = Callable[[], AbstractContextManager[tuple[str, Path | None, Path | None]]]
MODELS = Path(__file__).parent.parent / "models"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def digits_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundles") / "digits"
    convert(MODELS / "digits_float32.onnx", target, Options(max_cuts=2))
    return target


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> SecureFolder:
    return SecureFolder.open(tmp_path_factory.mktemp("secure") / "folder", devices=["board"], gateways=["big"])


@pytest.fixture(scope="module")
def secure_broker(secure: SecureFolder) -> Iterator[Broker]:
    with Broker(secure=secure, websockets=free_port()) as running:
        yield running


@pytest.fixture
def ways(
    secure: SecureFolder,
    secure_broker: Broker,
    mosquitto: Callable[[Path, list[str]], AbstractContextManager[int]],
    tmp_path: Path,
) -> dict[str, Way]:
    """Each gives the broker's URL, and the credentials of the device and of the gateway."""

    @contextmanager
    def certified(url: str | None) -> Iterator[tuple[str, Path | None, Path | None]]:
        assert url is not None
        yield url, secure.client("board"), secure.client("big")

    @contextmanager
    def set_up(scheme: str, lines: list[str], *names: str) -> Iterator[tuple[str, Path | None, Path | None]]:
        folders = [with_password(tmp_path / name, secure, name) for name in names] or [None, None]
        port = free_port()
        extra = [f"listener {port} 127.0.0.1", "socket_domain ipv4", *lines]
        with mosquitto(tmp_path, extra):
            yield f"{scheme}://127.0.0.1:{port}", folders[0], folders[1]

    def passwords() -> list[str]:
        file = tmp_path / "passwords"
        for name in ("board", "big"):
            create = [] if file.exists() else ["-c"]
            subprocess.run(["mosquitto_passwd", *create, "-b", str(file), name, f"{name}'s"], check=True)
        own = secure.path / "broker"
        tls = [f"cafile {own / 'ca.pem'}", f"certfile {own / 'cert.pem'}", f"keyfile {own / 'key.pem'}"]
        return ["allow_anonymous false", f"password_file {file}", *tls]

    return {
        "mqtt": lambda: set_up("mqtt", ["allow_anonymous true"]),
        "ws": lambda: set_up("ws", ["protocol websockets", "allow_anonymous true"]),
        "mqtts": lambda: certified(secure_broker.url),
        "wss": lambda: certified(secure_broker.websockets_url),
        "mqtts with passwords": lambda: set_up("mqtts", passwords(), "board", "big"),
    }


def with_password(folder: Path, secure: SecureFolder, name: str) -> Path:
    folder.mkdir()
    (folder / "ca.pem").write_bytes(secure.authority.read_bytes())
    (folder / CLIENT_FILE).write_text(f'username = "{name}"\npassword = "{name}\'s"\n')
    return folder


@pytest.mark.parametrize("way", ["mqtt", "ws", "mqtts", "wss", "mqtts with passwords"])
def test_a_request_goes_there_and_back(way: str, ways: dict[str, Way], digits_path: Path) -> None:
    bundle = Bundle.open(digits_path)
    inputs = {
        spec.name: np.random.default_rng(1).uniform(0, 1, bundle.manifest.sample_shapes[spec.name]).astype(spec.dtype)
        for spec in bundle.inputs
    }
    with (
        ways[way]() as (url, of_device, of_gateway),
        Gateway([digits_path], url, credentials=of_gateway, workers=1) as gateway,
        Device(bundle, url, credentials=of_device) as device,
    ):
        until(lambda: device.gateways > 0, "a gateway's presence")
        result = device.infer(inputs, cut=bundle.cuts[0].id, codec="raw")
        assert result.fallback is None
        assert result.ran_on == ("device", "gateway")
        for name, expected in bundle.run(inputs).items():
            np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-5, atol=1e-5)
        if of_device is not None and "passwords" not in way:
            assert (device.device_id, gateway.gateway_id) == ("board", "big")


def test_credentials_of_another_role_or_name_are_refused_at_once(
    secure: SecureFolder, secure_broker: Broker, digits_path: Path
) -> None:
    with pytest.raises(InputError, match="credentials of device board, and this is a gateway"):
        Gateway([digits_path], secure_broker.url, credentials=secure.client("board"))
    with pytest.raises(InputError, match="credentials of 'board', and the id asked for is 'other'"):
        Device(digits_path, secure_broker.url, credentials=secure.client("board"), device_id="other")


def test_commands_take_credentials_and_say_what_is_wrong_in_one_line(
    secure: SecureFolder, secure_broker: Broker, digits_path: Path, tmp_path: Path
) -> None:
    np.savez(
        tmp_path / "one.npz",
        **{
            s.name: np.zeros(Bundle.open(digits_path).manifest.sample_shapes[s.name], s.dtype)
            for s in Bundle.open(digits_path).inputs
        },
    )

    def run(url: str, credentials: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "midstream.cli.main", "run", str(digits_path), "--broker", url]
        command += ["--input", str(tmp_path / "one.npz"), "--credentials", str(credentials), "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    good = run(secure_broker.url, secure.client("board"))
    assert good.returncode == 0, good.stderr

    other = SecureFolder.open(tmp_path / "other", devices=["board"])
    wrong = run(secure_broker.url, other.client("board"))
    assert wrong.returncode == 4
    (line,) = wrong.stderr.splitlines()
    assert "authority unknown here" in line
    assert "copy the client's folder" in line

    plain = run(secure_broker.url.replace("mqtts", "mqtt"), secure.client("board"))
    assert plain.returncode == 2
    assert "is not encrypted" in plain.stderr
