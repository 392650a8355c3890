"""A secure broker with two devices and a gateway, and clients that try things on it."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from midstream.broker import Broker
from midstream.securing import SecureFolder

WAIT_S = 10.0


@pytest.fixture(scope="session")
def secure_folder(tmp_path_factory: pytest.TempPathFactory) -> SecureFolder:
    """Devices a and b, gateways g and h; device a has home/a beside that, and gateway g is of pool p."""
    path = tmp_path_factory.mktemp("secure") / "folder"
    SecureFolder.open(path, devices=["a", "b"], gateways=["g", "h"])
    roles = path / "roles.toml"
    text = roles.read_text().replace("[gateway.g]\n", '[gateway.g]\npools = ["p"]\n')
    roles.write_text(text.replace("[device.a]\n", '[device.a]\npublish = ["home/a"]\nsubscribe = ["home/a"]\n'))
    return SecureFolder.open(path)


@pytest.fixture(scope="session")
def secure_broker(secure_folder: SecureFolder) -> Iterator[Broker]:
    """It runs, with WebSockets."""
    with Broker(secure=secure_folder, websockets=free_port()) as running:
        yield running


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Attacker:
    """A plain MQTT client that says what the broker answers to each thing it tries."""

    def __init__(self, broker: Broker, credentials: Path, client_id: str = "", **will: Any) -> None:
        self._answers: queue.Queue[str] = queue.Queue()
        self._received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        context = ssl.create_default_context(cafile=credentials / "ca.pem")
        context.load_cert_chain(credentials / "cert.pem", credentials / "key.pem")
        self._client.tls_set_context(context)
        self._client.on_connect = lambda _c, _d, _f, reason, _p: self._answers.put(str(reason))
        self._client.on_publish = lambda _c, _d, _m, reason, _p: self._answers.put(str(reason))
        self._client.on_subscribe = lambda _c, _d, _m, reasons, _p: self._answers.put(str(reasons[0]))
        self._client.on_message = lambda _c, _d, message: self._received.put((message.topic, message.payload))
        self.gone = threading.Event()
        self._client.on_disconnect = lambda *_: self.gone.set()
        if will:
            self._client.will_set(**will)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self.greeting = self._answer()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> bool:
        """Whether the broker took it."""
        self._client.publish(topic, payload, qos=1, retain=retain)
        return self._answer() in ("Success", "No matching subscribers")

    def subscribe(self, topic_filter: str) -> bool:
        """Whether the broker granted it."""
        self._client.subscribe(topic_filter, 1)
        return self._answer().startswith("Granted")

    def received(self) -> tuple[str, bytes]:
        """The next message."""
        return self._received.get(timeout=WAIT_S)

    def heard_nothing(self) -> bool:
        """Whether no message has come; the broker has answered whatever was asked before."""
        return self._received.empty()

    def _answer(self) -> str:
        return self._answers.get(timeout=WAIT_S)
