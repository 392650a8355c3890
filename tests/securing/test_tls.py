"""The transport over TLS and WebSockets on a real broker: large messages, sockets, and what goes wrong."""

from __future__ import annotations

import datetime
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from midstream.broker import Broker
from midstream.communication.address import BrokerAddress, parse_broker_url
from midstream.communication.transport import Message, MqttTransport
from midstream.errors import PeerError
from midstream.securing import SecureFolder, certificates
from midstream.securing.certificates import Pair

from .conftest import WAIT_S

NOW = datetime.datetime.now(datetime.UTC)
CHUNK_BYTES = 256 << 10

Mosquitto = Callable[[Path, list[str]], AbstractContextManager[int]]


def transport(address: BrokerAddress, messages: queue.Queue[Message]) -> MqttTransport:
    return MqttTransport(address, "t", on_message=messages.put, on_state=lambda _up: None)


def address_of(broker: Broker, folder: SecureFolder, scheme: str = "mqtts") -> BrokerAddress:
    url = broker.url if scheme == "mqtts" else broker.websockets_url
    assert url is not None
    return parse_broker_url(url, {}, folder.client("a"))


def refusal(address: BrokerAddress) -> str:
    with pytest.raises(PeerError) as caught, transport(address, queue.Queue()) as client:
        client.start(required=True)
    assert caught.value.exit_code == 4
    return str(caught.value)


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    never, end = threading.Event(), time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        never.wait(0.01)


def test_chunks_in_flight_arrive_over_tls(secure_broker: Broker, secure_folder: SecureFolder) -> None:
    messages: queue.Queue[Message] = queue.Queue()
    chunks = [os.urandom(CHUNK_BYTES) for _ in range(12)]
    with transport(address_of(secure_broker, secure_folder), messages) as client:
        client.subscribe("home/a")
        client.start(WAIT_S, required=True)
        assert client.in_flight_bytes == 2 * CHUNK_BYTES
        for chunk in chunks:
            assert client.publish("home/a", chunk)
        assert [messages.get(timeout=WAIT_S).payload for _ in chunks] == chunks


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_no_message_waits_for_an_acknowledgement(
    secure_broker: Broker, secure_folder: SecureFolder, scheme: str
) -> None:
    address = address_of(secure_broker, secure_folder, scheme)
    with transport(address, queue.Queue()) as client:
        client.start(WAIT_S, required=True)
        (own,) = sockets_to(address.port)
        assert own == 1


def sockets_to(port: int) -> list[int]:
    """TCP_NODELAY of each socket of this process that is connected to a port."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            copy = os.dup(int(entry.name))
        except OSError:
            continue
        try:
            with socket.socket(fileno=copy) as one:
                if one.family == socket.AF_INET and one.getpeername()[1] == port:
                    found.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:
            os.close(copy)
    return found


def test_a_certificate_renewed_in_place_is_used_at_the_next_connection(
    secure_broker: Broker, secure_folder: SecureFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    for file in secure_folder.client("a").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    good = {name: (folder / name).read_bytes() for name in ("cert.pem", "key.pem")}
    authority = secure_folder.path / "authority"
    signer = Pair((authority / "cert.pem").read_bytes(), (authority / "key.pem").read_bytes())
    old = certificates.client_certificate(signer, good["key.pem"], "a", NOW - datetime.timedelta(days=40), days=30)
    (folder / "cert.pem").write_bytes(old)
    address = parse_broker_url(secure_broker.url, {}, folder)
    with transport(address, queue.Queue()) as client:
        client.start()
        wait_for(lambda: "certificate has expired" in (client.last_error or ""))
        assert not client.given_up
        (folder / "cert.pem").write_text("")
        wait_for(lambda: "cannot be used" in (client.last_error or ""))
        (folder / "cert.pem").write_bytes(good["cert.pem"])
        client.start(WAIT_S, required=True)


def test_a_wrong_authority_is_said_to_be(secure_broker: Broker, tmp_path: Path) -> None:
    other = SecureFolder.open(tmp_path / "other", devices=["a"])
    said = refusal(parse_broker_url(secure_broker.url, {}, other.client("a")))
    assert "is of an authority unknown here" in said
    assert str(other.client("a") / "ca.pem") in said


def test_without_an_authority_the_brokers_own_is_unknown(secure_broker: Broker) -> None:
    said = refusal(parse_broker_url(secure_broker.url, {}))
    assert "give --credentials a folder" in said


@pytest.mark.parametrize(("began", "days", "words"), [(-40, 30, "has expired"), (40, 30, "is not valid yet")])
def test_a_brokers_certificate_out_of_its_time_is_said_to_be(
    secure_folder: SecureFolder, tmp_path: Path, mosquitto: Mosquitto, began: int, days: int, words: str
) -> None:
    authority = secure_folder.path / "authority"
    signer = Pair((authority / "cert.pem").read_bytes(), (authority / "key.pem").read_bytes())
    key = certificates.new_key()
    start = NOW + datetime.timedelta(days=began)
    (tmp_path / "cert.pem").write_bytes(certificates.server_certificate(signer, key, ["127.0.0.1"], start, days))
    (tmp_path / "key.pem").write_bytes(key)
    lines = [f"certfile {tmp_path / 'cert.pem'}", f"keyfile {tmp_path / 'key.pem'}", "allow_anonymous true"]
    with mosquitto(tmp_path, lines) as port:
        assert words in refusal(parse_broker_url(f"mqtts://127.0.0.1:{port}", {}, secure_folder.client("a")))


def test_a_name_that_the_certificate_lacks_is_named(
    secure_folder: SecureFolder, tmp_path: Path, mosquitto: Mosquitto
) -> None:
    own = secure_folder.path / "broker"
    authority = secure_folder.path / "authority"
    signer = Pair((authority / "cert.pem").read_bytes(), (authority / "key.pem").read_bytes())
    (tmp_path / "cert.pem").write_bytes(
        certificates.server_certificate(signer, (own / "key.pem").read_bytes(), ["broker.home", "10.0.0.1"], NOW)
    )
    lines = [f"certfile {tmp_path / 'cert.pem'}", f"keyfile {own / 'key.pem'}", "allow_anonymous true"]
    with mosquitto(tmp_path, lines) as port:
        for host in ("127.0.0.1", "localhost"):
            said = refusal(parse_broker_url(f"mqtts://{host}:{port}", {}, secure_folder.client("a")))
            assert f"is not made for '{host}'" in said
            assert f"--host {host}" in said


def test_plain_websockets_to_a_tls_port_say_so(secure_broker: Broker) -> None:
    assert secure_broker.websockets_url is not None
    said = refusal(parse_broker_url(secure_broker.websockets_url.replace("wss", "ws"), {}))
    assert "wss:// where it wants TLS" in said
