"""A faulty link to a real broker: messages suffer what was asked for, and the connection stands."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from midstream.broker import Broker
from midstream.communication.transport import MqttTransport
from midstream.errors import InputError
from midstream.faults import FaultMix
from midstream.faulty_link import FaultyLink, Outages

WAIT_S = 20.0
COUNT = 300


@contextmanager
def client(url: str, name: str, came: queue.Queue[bytes], states: list[bool]) -> Iterator[MqttTransport]:
    with MqttTransport(
        url, name, on_message=lambda message: came.put(message.payload), on_state=states.append
    ) as transport:
        transport.subscribe(f"chaos/{name}")
        transport.start(WAIT_S, required=True)
        yield transport


def drained(came: queue.Queue[bytes], last: bytes) -> list[bytes]:
    found = []
    while (payload := came.get(timeout=WAIT_S)) != last:
        found.append(payload)
    return found


@pytest.mark.parametrize("qos", [0, 1])
def test_all_faults_at_once_leave_the_connection_standing(broker: Broker, qos: int) -> None:
    came: queue.Queue[bytes] = queue.Queue()
    states: list[bool] = []
    acknowledged = threading.Semaphore(0)
    mix = FaultMix(0.1, 0.1, 0.1, 0.1)
    with (
        FaultyLink(("127.0.0.1", broker.port), mix, mix, seed=3, rtt_ms=2) as link,
        client(link.url, "faulty", came, states) as transport,
    ):
        sent = [number.to_bytes(4, "big") * 50 for number in range(COUNT)]
        for payload in sent:
            assert transport.publish("chaos/faulty", payload, qos=qos, on_ack=lambda _ms: acknowledged.release())
        if qos:
            # Whether they arrive or not: nobody above TCP hears of a loss.
            assert all(acknowledged.acquire(timeout=WAIT_S) for _ in sent)
        # Before the faults end, most of what was sent has to be on its way back.
        end = time.monotonic() + WAIT_S
        while link.down.messages < COUNT // 2:
            assert time.monotonic() < end, f"{link.down.messages} messages have come back"
            time.sleep(0.002)
        link.set(up=FaultMix(), down=FaultMix())
        transport.publish("chaos/faulty", b"last")
        found = drained(came, b"last")
        up, down = link.up, link.down
        assert states == [True]
        assert up.messages == COUNT + 1
        assert min(up.dropped, up.duplicated, up.reordered, up.flipped, down.dropped, down.flipped) > 0
        assert len(set(sent) - set(found)) >= up.dropped
        assert set(found) - set(sent)  # damaged ones
        assert len(found) > len(set(found))  # doubled ones
        assert [payload for payload in found if payload in sent] != sorted(p for p in found if p in sent)


def test_a_cut_link_stalls_and_goes_on(broker: Broker) -> None:
    came: queue.Queue[bytes] = queue.Queue()
    with (
        FaultyLink(("127.0.0.1", broker.port)) as link,
        client(link.url, "cut", came, []) as transport,
    ):
        transport.publish("chaos/cut", b"before")
        assert came.get(timeout=WAIT_S) == b"before"
        link.cut()
        transport.publish("chaos/cut", b"during")
        with pytest.raises(queue.Empty):
            came.get(timeout=0.2)
        link.restore()
        assert came.get(timeout=WAIT_S) == b"during"
        assert link.cuts == 1


def test_outages_come_by_themselves(broker: Broker) -> None:
    with FaultyLink(("127.0.0.1", broker.port), outages=Outages(0.2, 0.05)) as link:
        end = threading.Event()
        while link.cuts < 3:
            end.wait(0.01)
    with pytest.raises(InputError, match="cannot be cut"):
        Outages(5, 5)
    with pytest.raises(InputError, match="with block"):
        FaultyLink(("127.0.0.1", 1)).cut()
