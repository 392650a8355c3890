"""Two connections: what is critical passes what is large, and whatever happens to one of them is made up for."""

from __future__ import annotations

import queue
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from midstream.broker import Broker
from midstream.communication import mqtt
from midstream.communication.lanes import Lanes
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Priority
from midstream.link import LinkEmulator

WAIT_S = 10.0


def lanes(url: str, messages: queue.Queue[Message], lost: Callable[[], None] | None = None) -> Lanes:
    return Lanes(url, "lanes", on_message=messages.put, on_state=lambda _up: None, on_urgent_lost=lost)


def settle(transport: MqttTransport) -> None:
    """Return when the broker has dealt with all that was asked so far on this connection."""
    transport.start(WAIT_S, required=True)
    acked = threading.Event()
    assert transport.publish("test/settle", b"", on_ack=lambda _ms: acked.set())
    assert acked.wait(WAIT_S)


def test_what_is_critical_overtakes_what_has_begun(broker: Broker) -> None:
    came: queue.Queue[Message] = queue.Queue()
    with (
        LinkEmulator(("127.0.0.1", broker.port), uplink_kbps=4000) as link,
        MqttTransport(broker.url, "receiver", on_message=came.put, on_state=lambda _up: None) as receiver,
        lanes(link.url, queue.Queue()) as sender,
    ):
        receiver.subscribe("test/lanes/+")
        settle(receiver)
        settle(sender.main)
        settle(sender.urgent)
        sender.publish("test/lanes/large", bytes(400_000), priority=Priority.BULK)
        sender.publish("test/lanes/small", b"normal")
        sender.publish("test/lanes/small", b"critical", priority=Priority.CRITICAL)
        order = [came.get(timeout=WAIT_S).payload[:8] for _ in range(3)]
    assert order[0] == b"critical"
    assert order[1:] == [bytes(8), b"normal"]


def test_without_a_second_connection_the_first_has_it_all(broker: Broker) -> None:
    came: queue.Queue[Message] = queue.Queue()
    one = lanes(broker.url, came)
    one.subscribe("test/urgent", urgent=True)
    settle(one.main)
    try:
        assert one.publish("test/urgent", b"1", priority=Priority.CRITICAL)
        assert came.get(timeout=WAIT_S).payload == b"1"
    finally:
        one.close()


def test_what_is_urgent_comes_once_and_again_when_the_second_connection_was_lost(broker: Broker) -> None:
    came: queue.Queue[Message] = queue.Queue()
    lost = threading.Event()
    both = lanes(broker.url, came, lost.set)
    both.subscribe("test/urgent", urgent=True)
    with both:
        settle(both.urgent)
        settle(both.main)
        assert both.publish("test/urgent", b"1")
        assert came.get(timeout=WAIT_S).payload == b"1"
        # Another client of the same id takes its place, once.
        with socket.create_connection(("127.0.0.1", broker.port)) as other:
            other.sendall(mqtt.connect("lanes-urgent", 60))
            assert lost.wait(WAIT_S)
        settle(both.urgent)
        settle(both.main)
        assert both.publish("test/urgent", b"2")
        assert came.get(timeout=WAIT_S).payload == b"2"
    assert came.empty()


def test_where_an_account_has_one_connection_there_is_one(
    tmp_path: Path, mosquitto: Callable[[Path, list[str]], AbstractContextManager[int]]
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "kitchen", "hunter2"], check=True)
    passwords.chmod(0o644)
    lines = ["allow_anonymous false", f"password_file {passwords}", "use_username_as_clientid true"]
    came: queue.Queue[Message] = queue.Queue()
    with mosquitto(tmp_path, lines) as port:
        one = lanes(f"mqtt://kitchen:hunter2@127.0.0.1:{port}", came)
        one.subscribe("test/urgent", urgent=True)
        with one:
            assert one.urgent._thread is not None
            one.urgent._thread.join(WAIT_S)
            assert not one.urgent._thread.is_alive()
            settle(one.main)
            assert one.publish("test/urgent", b"1", priority=Priority.CRITICAL)
            assert came.get(timeout=WAIT_S).payload == b"1"


def test_who_attends_gets_its_answer_and_is_let_go_when_the_connection_ends(broker: Broker) -> None:
    came: queue.Queue[Message] = queue.Queue()
    threads: list[str] = []

    def take(message: Message) -> None:
        threads.append(threading.current_thread().name)
        came.put(message)

    transport = MqttTransport(broker.url, "attending", on_message=take, on_state=lambda _up: None)
    transport.subscribe("test/attend")
    with transport:
        settle(transport)
        with transport.attended() as attend:
            with transport.attended() as second:
                assert not second(lambda: True, WAIT_S)
            transport.publish("test/attend", b"x")
            assert attend(lambda: not came.empty(), WAIT_S)
        assert threads == [threading.current_thread().name]
        # Nobody attends: the transport's own thread does.
        transport.publish("test/attend", b"y")
        came.get(timeout=WAIT_S)
        assert came.get(timeout=WAIT_S).payload == b"y"
        assert threads[1] != threads[0]
        done = threading.Event()
        rouser = threading.Timer(0.05, lambda: (done.set(), transport.rouse()))
        rouser.start()
        with transport.attended() as attend:
            assert attend(done.is_set, WAIT_S)
        rouser.join()
        closer = threading.Timer(0.05, transport.close)
        closer.start()
        with transport.attended() as attend:
            assert not attend(lambda: False, WAIT_S)
        closer.join()
    with transport.attended() as attend:
        assert not attend(lambda: False, WAIT_S)


def test_threads_that_ask_at_once_all_get_their_answers(broker: Broker) -> None:
    """Whoever attends first reads for the others, too."""
    arrived = [threading.Event() for _ in range(40)]
    transport = MqttTransport(
        broker.url, "many", on_message=lambda message: arrived[int(message.payload)].set(), on_state=lambda _up: None
    )
    transport.subscribe("test/many")

    def ask(first: int) -> None:
        for number in range(first, 40, 4):
            with transport.attended() as attend:
                transport.publish("test/many", b"%d" % number)
                if not attend(arrived[number].is_set, WAIT_S):
                    arrived[number].wait(WAIT_S)

    with transport:
        settle(transport)
        threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(event.is_set() for event in arrived)


def accepted(server: socket.socket) -> dict[bool, socket.socket]:
    """Both connections of lanes, by whether each is the urgent one; each was accepted."""
    found = {}
    while len(found) < 2:
        connection, _ = server.accept()
        connection.settimeout(WAIT_S)
        found[b"-urgent" in connection.recv(1000)] = connection
        connection.sendall(b"\x20\x03\0\0\0")
    return found


def test_a_callback_that_finds_the_other_connection_broken_goes_on() -> None:
    """What the broken one still has to be read is not handed out in the midst of the callback."""
    came: queue.Queue[bytes] = queue.Queue()

    def answer(message: Message) -> None:
        if message.payload == b"ask":
            for _ in range(200):
                both.publish("answer", b"", priority=Priority.CRITICAL)
        came.put(message.payload)

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        both = Lanes(url, "lanes", on_message=answer, on_state=lambda _up: None)
        threading.Thread(target=both.start, args=(WAIT_S,)).start()
        connections = accepted(server)
        for transport in (both.main, both.urgent):
            transport.start(WAIT_S, required=True)
        # Whoever attends reads the second connection, and nobody else does: so all of this is there at once.
        with both.attended(urgent=True):
            connections[True].sendall(b"\x30\x07\0\x01t\0end")
            connections[True].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connections[True].close()
            connections[False].sendall(b"\x30\x07\0\x01t\0ask")
            assert came.get(timeout=WAIT_S) == b"ask"
        assert came.get(timeout=WAIT_S) == b"end"
        connections[False].close()
        both.close()
