"""Brokers of one's own: both kinds, how they begin and how they end."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from midstream import broker as broker_module
from midstream.broker import Broker, BrokerKind
from midstream.communication.address import parse_broker_url
from midstream.communication.transport import Message, MqttTransport
from midstream.errors import InputError, MidstreamError, MissingExtraError
from midstream.securing import SecureFolder
from midstream.securing.configuration import CONFIGURATION_FILE, INSTALLED_FOLDER, SECURE_PORT, listeners

WAIT_S = 10.0
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "raspberry_pi" / "mosquitto.conf"
MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "iotcore"]


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    never = threading.Event()
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        never.wait(0.01)


def echo(url: str, payload: bytes) -> Message:
    """What comes back of a message with MQTT 5 properties."""
    messages: queue.Queue[Message] = queue.Queue()
    with MqttTransport(url, "echo", on_message=messages.put, on_state=lambda _up: None) as transport:
        transport.subscribe("test/+")
        transport.start(WAIT_S, required=True)
        transport.publish("test/echo", payload, correlation=b"id", response_topic="test/answer")
        return messages.get(timeout=WAIT_S)


@pytest.mark.parametrize("kind", KINDS)
def test_either_kind_carries_mqtt_5_and_a_megabyte(kind: BrokerKind) -> None:
    payload = os.urandom(1 << 20)
    with Broker(kind=kind) as broker:
        assert broker.kind == kind
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        message = echo(broker.url, payload)
    assert message == Message("test/echo", payload, False, b"id", "test/answer")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_after_the_with_block(kind: BrokerKind) -> None:
    threads = set(threading.enumerate())
    descriptors = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    with Broker(kind=kind) as broker:
        pid = broker.pid
        assert pid is not None
        assert listens(broker.port)
    assert not Path(f"/proc/{pid}").exists()
    assert not listens(broker.port)
    assert broker.pid is None
    assert set(threading.enumerate()) == threads
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == descriptors
    broker.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_with_the_process_that_started_it(kind: BrokerKind) -> None:
    program = (
        "import sys\n"
        "from midstream.broker import Broker\n"
        "with Broker(kind=sys.argv[1]) as broker:\n"
        "    print(broker.port, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not listens(port))


def test_a_stopped_broker_starts_again_on_its_port() -> None:
    with Broker() as broker:
        port, pid = broker.port, broker.pid
        assert broker.start() is broker
        assert broker.pid == pid
        broker.stop()
        broker.start()
        assert broker.port == port
        assert broker.pid not in (None, pid)
        assert echo(broker.url, b"again").payload == b"again"


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MidstreamError, match=f"cannot listen on 127.0.0.1:{port}: it is in use"):
            Broker(port=port).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "broker.home", "::"])
def test_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(InputError, match="--secure DIR"):
        Broker(host=host)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_a_port(port: int) -> None:
    with pytest.raises(InputError, match="0 for a free one"):
        Broker(port=port)


def test_waiting_returns_when_told_to_stop(broker: Broker) -> None:
    stop = threading.Event()
    waiter = threading.Thread(target=broker.wait, args=(stop,))
    waiter.start()
    assert waiter.is_alive()
    stop.set()
    waiter.join(WAIT_S)
    assert not waiter.is_alive()
    assert broker.pid is not None


def test_waiting_returns_when_the_broker_is_stopped() -> None:
    with Broker() as own:
        waiter = threading.Thread(target=own.wait, args=(threading.Event(),))
        waiter.start()
    waiter.join(WAIT_S)
    assert not waiter.is_alive()


def test_waiting_fails_where_the_broker_ends_by_itself() -> None:
    with Broker() as own:
        assert own.pid is not None
        os.kill(own.pid, signal.SIGKILL)
        with pytest.raises(MidstreamError, match=f"{own.kind} at {own.url} has ended by itself: it said nothing"):
            own.wait(threading.Event())


def test_a_broker_that_cannot_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho 'Error: the disk is full' >&2\nexit 1\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(broker_module, "_find_mosquitto", lambda: str(program))
    monkeypatch.setattr(broker_module, "_unprivileged_user", lambda: None)
    with pytest.raises(MidstreamError, match="ended while starting: Error: the disk is full"):
        Broker(kind="mosquitto").start()


def test_without_any_broker_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_find_mosquitto", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"apt install mosquitto.*midstream\[broker\]"):
        Broker().start()
    with pytest.raises(MidstreamError, match="apt install mosquitto"):
        Broker(kind="mosquitto").start()
    with pytest.raises(MissingExtraError, match=r"midstream\[broker\]"):
        Broker(kind="iotcore").start()


def test_without_mosquitto_it_is_iotcore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_find_mosquitto", lambda: None)
    with Broker() as own:
        assert own.kind == "iotcore"


@needs_mosquitto
def test_the_example_configuration_is_what_a_secure_broker_is_told(tmp_path: Path) -> None:
    folder = SecureFolder.open(tmp_path / "secure", devices=["pi1"])
    folder.write_installable(listeners(SECURE_PORT, None, None))
    assert (folder.path / "broker" / CONFIGURATION_FILE).read_text() == EXAMPLE.read_text()


@needs_mosquitto
def test_the_example_configuration_runs_as_a_service(tmp_path: Path) -> None:
    folder = SecureFolder.open(tmp_path / "secure", devices=["pi1"])
    folder.write_installable(listeners(SECURE_PORT, None, None))
    installed = tmp_path / "installed"
    shutil.copytree(folder.path / "broker", installed)
    port = free_port()
    config = installed / CONFIGURATION_FILE
    text = config.read_text().replace(INSTALLED_FOLDER, str(installed))
    assert text.count(f"\nlistener {SECURE_PORT}\n") == 1
    text = text.replace(f"\nlistener {SECURE_PORT}\n", f"\nlistener {port} 127.0.0.1\n")
    # Root may read its own folder; whom mosquitto would change to may not.
    config.write_text(text + "user root\n")
    with subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: listens(port) or process.poll() is not None)
            connected = process.poll() is None and connects(f"mqtts://127.0.0.1:{port}", folder.client("pi1"))
        finally:
            process.terminate()
        _, said = process.communicate(timeout=WAIT_S)
    assert connected, said
    assert "Error" not in said
    assert "deprecated" not in said


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def connects(url: str, credentials: Path) -> bool:
    address = parse_broker_url(url, {}, credentials)
    with MqttTransport(address, "t", on_message=lambda _m: None, on_state=lambda _up: None) as transport:
        transport.start(WAIT_S, required=True)
        return transport.connected


@needs_mosquitto
def test_a_secure_broker_starts_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = SecureFolder.open(tmp_path / "secure", devices=["pi1"])
    left = set(Path(tempfile.gettempdir()).glob("midstream-broker-*"))
    with Broker(secure=folder) as broker:
        assert broker.kind == "mosquitto"
        assert broker.url == f"mqtts://127.0.0.1:{broker.port}"
        assert connects(broker.url, folder.client("pi1"))
        broker.stop()
        broker.start()
        assert connects(broker.url, folder.client("pi1"))
        assert set(Path(tempfile.gettempdir()).glob("midstream-broker-*")) == left


@needs_mosquitto
def test_a_secure_broker_is_at_the_address_it_was_told_and_nowhere_else(tmp_path: Path) -> None:
    folder = SecureFolder.open(tmp_path / "secure")
    with Broker(secure=folder, host="127.0.0.1", websockets=free_port()) as broker:
        assert broker.websockets_url is not None
        for port in (broker.port, int(broker.websockets_url.rpartition(":")[2])):
            assert listens(port)
            assert not listens(port, "127.0.0.2")
    with Broker(secure=folder, host=None, websockets=free_port()) as broker:
        assert broker.websockets_url is not None
        for port in (broker.port, int(broker.websockets_url.rpartition(":")[2])):
            assert listens(port)
            assert listens(port, "127.0.0.2")


@needs_mosquitto
def test_what_a_secure_broker_cannot_be(tmp_path: Path) -> None:
    folder = SecureFolder.open(tmp_path / "secure")
    with pytest.raises(InputError, match="iotcore knows no certificates"):
        Broker(secure=folder, kind="iotcore")
    with pytest.raises(InputError, match="take two ports"):
        Broker(8883, secure=folder, websockets=8883)
    with pytest.raises(InputError, match="only a secure broker"):
        Broker(websockets=8884)
    with pytest.raises(InputError, match="cannot listen for WebSockets at ::1 alone"):
        Broker(secure=folder, host="::1", websockets=8884).start()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MidstreamError, match=f"cannot listen on 127.0.0.1:{port}: it is in use"):
            Broker(secure=folder, websockets=port).start()


def test_without_mosquitto_there_is_no_secure_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_find_mosquitto", lambda: None)
    with pytest.raises(MidstreamError, match=r"apt install mosquitto.*a secure broker is always mosquitto"):
        Broker(secure=SecureFolder.open(tmp_path / "secure")).start()
