"""What a gateway says about itself, over a real broker."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from midstream.broker import Broker
from midstream.communication import topics
from midstream.communication.load import decode_load
from midstream.communication.presence import Presence, decode_presence
from midstream.communication.transport import Message, MqttTransport
from midstream.errors import PeerError
from midstream.gateway.announcing import Announcer
from midstream.gateway.metering import LinkMeter
from midstream.gateway.work import Load

WAIT_S = 20.0


def test_presence_and_load_are_kept_for_who_comes_later(broker: Broker) -> None:
    announced: queue.Queue[Message] = queue.Queue()
    gateway = MqttTransport(broker.url, "busy", on_message=lambda _: None, on_state=lambda _: None)
    watcher = MqttTransport(broker.url, "watcher", on_message=announced.put, on_state=lambda _: None)
    with gateway, watcher:
        gateway.start(WAIT_S, required=True)
        announcer = Announcer(gateway, "busy", LinkMeter())
        announcer.presence(Presence("busy"))
        announcer.load(Load(2, 12.34, 0.5, {}), None, now_s=10.0)
        # Too soon, and then not.
        announcer.load(Load(9, 99.0, 1.0, {}), None, now_s=10.05)
        announcer.load(Load(9, 99.0, 1.0, {}), None, now_s=10.2)
        watcher.subscribe(topics.presence_topic("busy"))
        watcher.subscribe(topics.load_topic("busy"))
        watcher.start(WAIT_S, required=True)
        presence, report = None, None
        while presence is None or report is None or not report.sequence:
            message = announced.get(timeout=WAIT_S)
            if message.topic == topics.presence_topic("busy"):
                presence = decode_presence(message.payload)
            else:
                report = decode_load(message.payload)
        for topic in (topics.load_topic("busy"), topics.presence_topic("busy")):
            gateway.publish(topic, b"", retain=True)
    assert presence == Presence("busy")
    assert (report.sequence, report.queue_length, report.wait_ms, report.load) == (1, 9, 99.0, 1.0)


def test_a_broker_that_takes_too_little_is_an_error_of_the_peer(
    tmp_path: Path, mosquitto: Callable[[Path, list[str]], AbstractContextManager[int]]
) -> None:
    with mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 150"]) as port:
        gateway = MqttTransport(f"mqtt://127.0.0.1:{port}", "gw", on_message=lambda _: None, on_state=lambda _: None)
        with gateway:
            gateway.start(WAIT_S, required=True)
            announcer = Announcer(gateway, "gw", LinkMeter())
            presence = Presence("gw", (bytes(32),))
            for announce in (
                lambda: announcer.presence(presence),
                lambda: announcer.load(Load(0, 0.0, 0.0, {}), None, 1.0),
            ):
                with pytest.raises(PeerError, match="takes too little at once for a gateway to announce itself"):
                    announce()
