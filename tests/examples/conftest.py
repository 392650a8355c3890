"""The example programs' modules, and their models as bundles with one cut each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.inputs import parse_semantics
from midstream_converters.convert import convert
from midstream_converters.opening import Options

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / "raspberry_pi"), str(EXAMPLES / "demo")]

WAIT_S = 30.0


@pytest.fixture(scope="session")
def bundle_of(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Bundle]:
    """Converts one of the demo's models, once."""
    kept: dict[str, Bundle] = {}

    def make(model: Any) -> Bundle:
        if model.file not in kept:
            target = tmp_path_factory.mktemp("bundles") / Path(model.file).stem
            options = Options(
                max_cuts=1,
                semantics=dict([parse_semantics(model.input)]),
                shapes=model.shapes,
                values=model.values,
            )
            convert(assets / "models" / model.file, target, options)
            kept[model.file] = Bundle.open(target)
        return kept[model.file]

    return make


class Inbox:
    """What came on a topic."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._changed = Condition()

    def add(self, payload: bytes) -> None:
        with self._changed:
            self._messages.append(payload)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[bytes]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._messages) >= count, WAIT_S), f"{len(self._messages)} came"
            return list(self._messages)


@contextmanager
def listening(broker: Broker, topic: str) -> Iterator[Inbox]:
    """A subscriber of any kind, such as a user's own."""
    inbox, ready = Inbox(), Inbox()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: ready.add(b"")
    client.on_message = lambda _client, _data, message: inbox.add(message.payload)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        ready.wait_for(1)
        yield inbox
    finally:
        client.disconnect()
        client.loop_stop()
