"""The transport against real brokers, and against servers that are none."""

from __future__ import annotations

import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from midstream.broker import Broker
from midstream.communication.address import PASSWORD_VARIABLE, USERNAME_VARIABLE
from midstream.communication.transport import MAX_OUTBOX_BYTES, Message, MqttTransport
from midstream.errors import InputError, PeerError
from midstream.link import LinkEmulator

WAIT_S = 10.0


class Client:
    """A transport whose messages and states can be waited for."""

    def __init__(
        self, url: str, client_id: str = "client", will: tuple[str, bytes] | None = None, keepalive_s: int = 5
    ) -> None:
        self.messages: queue.Queue[Message] = queue.Queue()
        self.states: queue.Queue[bool] = queue.Queue()
        self.transport = MqttTransport(
            url,
            client_id,
            will=will,
            keepalive_s=keepalive_s,
            on_message=self.messages.put,
            on_state=self.states.put,
        )

    def settle(self) -> None:
        """Return when the broker has dealt with all that was asked so far."""
        acked = threading.Event()
        assert self.transport.publish("test/settle", b"", on_ack=lambda _ms: acked.set())
        assert acked.wait(WAIT_S)

    def next_message(self) -> Message:
        return self.messages.get(timeout=WAIT_S)

    def next_state(self) -> bool:
        return self.states.get(timeout=WAIT_S)


Connect = Callable[..., Client]
Mosquitto = Callable[[Path, list[str]], AbstractContextManager[int]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes connected clients, ``connect(url, *topic_filters, …)``, and closes them."""
    with ExitStack() as stack:

        def make(
            url: str,
            *filters: str,
            client_id: str = "client",
            will: tuple[str, bytes] | None = None,
            keepalive_s: int = 5,
        ) -> Client:
            client = Client(url, client_id, will, keepalive_s)
            stack.callback(client.transport.close)
            for topic_filter in filters:
                client.transport.subscribe(topic_filter)
            client.transport.start(WAIT_S, required=True)
            client.settle()
            return client

        yield make


@pytest.fixture
def idle_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that answers the first thing it hears, then closes; with None it never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            held = []
            while True:
                try:
                    connection, _ = server.accept()
                    held.append(connection)
                    if connection.recv(4096) and answer is not None:
                        connection.sendall(answer)
                        held.pop().close()
                except OSError:
                    break
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"mqtt://kitchen:hunter2@127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def refusal_of(url: str, wait_s: float = 0.0, keepalive_s: int = 5) -> tuple[str, bool]:
    """What a required start raises, and whether it was given up."""
    client = Client(url, keepalive_s=keepalive_s)
    with pytest.raises(PeerError) as caught:
        client.transport.start(wait_s, required=True)
    assert client.transport.last_error == str(caught.value)
    assert not client.transport.connected
    return str(caught.value), client.transport.given_up


def test_a_message_comes_with_all_that_travels_beside_it(broker: Broker, connect: Connect) -> None:
    receiver = connect(broker.url, "test/+/ask", client_id="receiver")
    sender = connect(broker.url, client_id="sender")
    assert sender.transport.publish(
        "test/a/ask", b"payload", correlation=b"\x00\x01id", response_topic="test/a/answer", expiry_s=30
    )
    message = receiver.next_message()
    assert message.expiry_s in (29, 30)
    assert (message.topic, message.payload, message.retained) == ("test/a/ask", b"payload", False)
    assert (message.correlation, message.response_topic) == (b"\x00\x01id", "test/a/answer")


def test_messages_arrive_in_order_with_either_qos(broker: Broker, connect: Connect) -> None:
    client = connect(broker.url, "test/order")
    sent = [str(number).encode() for number in range(300)]
    for number, payload in enumerate(sent):
        client.transport.publish("test/order", payload, qos=number // 150)
    assert [client.next_message().payload for _ in sent] == sent


def test_only_what_was_kept_from_before_is_retained(broker: Broker, connect: Connect) -> None:
    sender = connect(broker.url, client_id="sender")
    sender.transport.publish("test/kept", b"old", retain=True)
    sender.settle()
    receiver = connect(broker.url, "test/kept", client_id="receiver")
    first = receiver.next_message()
    sender.transport.publish("test/kept", b"", retain=True)
    second = receiver.next_message()
    assert (first.payload, first.retained) == (b"old", True)
    assert (second.payload, second.retained) == (b"", False)


def test_the_acknowledgement_is_timed(broker: Broker, connect: Connect) -> None:
    client = connect(broker.url)
    times: queue.Queue[float] = queue.Queue()
    began = time.perf_counter()
    client.transport.publish("test/ack", b"1", on_ack=times.put)
    ms = times.get(timeout=WAIT_S)
    assert 0 < ms <= (time.perf_counter() - began) * 1000


def test_a_megabyte_arrives_whole(broker: Broker, connect: Connect) -> None:
    client = connect(broker.url, "test/large")
    payload = os.urandom(1 << 20)
    client.transport.publish("test/large", payload)
    assert client.next_message().payload == payload


def test_a_callback_may_publish(broker: Broker, connect: Connect) -> None:
    client = connect(broker.url, "test/answer", client_id="asker")

    def answer(message: Message) -> None:
        server.publish("test/answer", message.payload[::-1])

    with MqttTransport(broker.url, "server", on_message=answer, on_state=lambda _up: None) as server:
        server.subscribe("test/question")
        server.start(WAIT_S, required=True)
        acked = threading.Event()
        server.publish("test/settle", b"", on_ack=lambda _ms: acked.set())
        assert acked.wait(WAIT_S)
        client.transport.publish("test/question", b"abc")
        assert client.next_message().payload == b"cba"


def test_what_a_callback_raises_is_logged_and_no_more(
    broker: Broker, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    received: queue.Queue[bytes] = queue.Queue()

    def receive(message: Message) -> None:
        received.put(message.payload)
        raise LookupError("from the callback")

    def change(_up: bool) -> None:
        raise LookupError("from the callback")

    with MqttTransport(broker.url, "raiser", on_message=receive, on_state=change) as transport:
        transport.subscribe("test/raise")
        transport.start(WAIT_S, required=True)
        for payload in (b"1", b"2"):
            transport.publish("test/raise", payload)
        assert [received.get(timeout=WAIT_S) for _ in range(2)] == [b"1", b"2"]
        assert transport.connected
    assert "from the callback" in caplog.text


def test_a_killed_process_leaves_its_will(broker: Broker, connect: Connect) -> None:
    watcher = connect(broker.url, "test/will", client_id="watcher")
    program = (
        "import sys\n"
        "from midstream.communication.transport import MqttTransport\n"
        "will = ('test/will', b'gone')\n"
        "t = MqttTransport(sys.argv[1], 'doomed', will=will, on_message=print, on_state=lambda _: 0)\n"
        "t.start(10, required=True)\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, broker.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == b"up\n"
        assert watcher.messages.empty()
        doomed.send_signal(signal.SIGKILL)
        assert watcher.next_message().payload == b"gone"
    watcher.transport.publish("test/will", b"", retain=True)


def test_a_goodbye_says_the_last_word_and_leaves_no_will(broker: Broker, connect: Connect) -> None:
    watcher = connect(broker.url, "test/bye", client_id="watcher")
    leaver = connect(broker.url, client_id="leaver", will=("test/bye", b"will"))
    leaver.transport.publish("test/bye", b"under way")
    leaver.transport.close(last=("test/bye", b""))
    assert [watcher.next_message().payload for _ in range(2)] == [b"under way", b""]
    watcher.settle()
    assert watcher.messages.empty()


def test_it_comes_back_with_its_subscriptions_after_the_broker_does(connect: Connect) -> None:
    with Broker() as own:
        client = connect(own.url, "test/again")
        assert client.next_state() is True
        own.stop()
        assert client.next_state() is False
        assert not client.transport.connected
        assert not client.transport.publish("test/again", b"lost")
        own.start()
        assert client.next_state() is True
        assert client.transport.publish("test/again", b"back")
        assert client.next_message().payload == b"back"
        assert client.transport.last_error is None


def test_it_may_start_before_the_broker_does(idle_port: int) -> None:
    client = Client(f"mqtt://127.0.0.1:{idle_port}")
    with client.transport:
        client.transport.subscribe("test/early")
        assert not client.transport.publish("test/early", b"lost")
        with Broker(port=idle_port):
            assert client.next_state() is True
            client.transport.publish("test/early", b"1")
            assert client.next_message().payload == b"1"


def test_a_refused_connection_says_how_to_start_a_broker(idle_port: int) -> None:
    message, given_up = refusal_of(f"mqtt://kitchen:hunter2@127.0.0.1:{idle_port}")
    assert f"no broker answers at 127.0.0.1:{idle_port}" in message
    assert "midstream broker" in message
    assert "hunter2" not in message
    assert not given_up


needs_mosquitto = pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="iotcore cannot be set up so")


@pytest.fixture(scope="module")
def locked_port(tmp_path_factory: pytest.TempPathFactory, mosquitto: Mosquitto) -> Iterator[int]:
    """mosquitto that knows nobody but kitchen, whose password is hunter2."""
    folder = tmp_path_factory.mktemp("locked")
    passwords = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "kitchen", "hunter2"], check=True)
    with mosquitto(folder, ["allow_anonymous false", f"password_file {passwords}"]) as port:
        yield port


@needs_mosquitto
def test_the_right_credentials_are_accepted(locked_port: int, connect: Connect) -> None:
    client = connect(f"mqtt://kitchen:hunter2@127.0.0.1:{locked_port}", "test/locked")
    client.transport.publish("test/locked", b"in")
    assert client.next_message().payload == b"in"


@needs_mosquitto
def test_wrong_credentials_are_refused_for_good_without_being_shown(locked_port: int) -> None:
    message, given_up = refusal_of(f"mqtt://kitchen:hunter3@127.0.0.1:{locked_port}", wait_s=WAIT_S)
    assert "refuses these credentials" in message
    assert "in the URL" in message
    assert "hunter3" not in message
    assert "kitchen" not in message
    assert given_up


@needs_mosquitto
def test_missing_credentials_are_asked_for(locked_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(USERNAME_VARIABLE, raising=False)
    message, given_up = refusal_of(f"mqtt://127.0.0.1:{locked_port}", wait_s=WAIT_S)
    assert "wants credentials" in message
    assert f"{USERNAME_VARIABLE}/{PASSWORD_VARIABLE}" in message
    assert given_up


@pytest.mark.parametrize(
    ("answer", "permanent"), [(b"\x20\x02\x00\x01", True), (b"", False), (b"\x20\x02\x00\x05", False)]
)
def test_a_broker_of_mqtt_3_is_named_as_one(answer: bytes, permanent: bool) -> None:
    with answering(answer) as url:
        message, given_up = refusal_of(url)
    assert "speaks only MQTT 3.1.1" in message
    assert "hunter2" not in message
    assert given_up is permanent


def test_something_else_that_answers_is_no_broker() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        message, given_up = refusal_of(url)
    assert "is no broker" in message
    assert not given_up


def test_a_server_that_never_answers_is_not_waited_for_forever() -> None:
    with answering(None) as url:
        message, given_up = refusal_of(url, keepalive_s=1)
    assert "does not answer in time" in message
    assert not given_up


def test_waiting_ends_when_its_time_is_over() -> None:
    with answering(None) as url:
        client = Client(url)
        began = time.monotonic()
        client.transport.start(0.2)
        assert 0.2 <= time.monotonic() - began < 2
        assert not client.transport.connected
        client.transport.close()


def test_nothing_is_left_after_close(broker: Broker, connect: Connect) -> None:
    connect(broker.url, client_id="before")
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    client = Client(broker.url)
    client.transport.subscribe("test/close")
    client.transport.start(WAIT_S, required=True)
    client.settle()
    assert open_descriptors() > descriptors
    assert set(threading.enumerate()) > threads
    client.transport.close()
    client.transport.close()
    assert set(threading.enumerate()) == threads
    assert open_descriptors() == descriptors
    assert not client.transport.publish("test/close", b"")
    assert not client.transport.given_up


def test_close_from_a_callback_does_not_wait_for_itself(broker: Broker) -> None:
    closed = threading.Event()

    def close(_up: bool) -> None:
        transport.close()
        closed.set()

    transport = MqttTransport(broker.url, "closer", on_message=lambda _m: None, on_state=close)
    transport.start()
    assert closed.wait(WAIT_S)
    transport.close()
    assert not transport.connected


def test_a_wrong_url_is_refused_before_anything_starts() -> None:
    with pytest.raises(InputError, match="mqtt://host"):
        Client("http://broker")


def test_what_mqtt_does_not_allow_is_a_value_error(broker: Broker, connect: Connect) -> None:
    client = connect(broker.url)
    for topic in ("", "a/+", "a/#", "a\0b", "ä" * 40_000):
        with pytest.raises(ValueError, match="cannot publish"):
            client.transport.publish(topic, b"")
    for topic_filter in ("", "a/#/b", "a+", "a/b#"):
        with pytest.raises(ValueError, match="is not a topic filter"):
            client.transport.subscribe(topic_filter)
    with pytest.raises(ValueError, match="QoS 2"):
        client.transport.publish("test/qos", b"", qos=2)
    with pytest.raises(ValueError, match="in chunks"):
        client.transport.publish("test/size", bytes(1_500_001))
    with pytest.raises(ValueError, match="cannot publish"):
        Client(broker.url, will=("a/#", b""))


@needs_mosquitto
def test_a_payload_is_held_to_the_packet_size_that_the_broker_takes(
    tmp_path: Path, connect: Connect, mosquitto: Mosquitto
) -> None:
    with mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 4000"]) as port:
        client = connect(f"mqtt://127.0.0.1:{port}", "test/packet")
        with pytest.raises(ValueError, match="in chunks"):
            client.transport.publish("test/packet", bytes(4000))
        for beside in ({}, {"correlation": bytes(16), "response_topic": "test/answer", "expiry_s": 9}):
            limit = client.transport.payload_limit("test/packet", **beside)
            assert 3900 < limit < 4000
            with pytest.raises(ValueError, match="in chunks"):
                client.transport.publish("test/packet", bytes(limit + 1), **beside)
            client.transport.publish("test/packet", bytes(limit), **beside)
            assert len(client.next_message().payload) == limit


def test_what_waits_is_bounded_and_can_be_taken_back(broker: Broker, connect: Connect) -> None:
    with LinkEmulator(("127.0.0.1", broker.port)) as link:
        client = connect(link.url, "test/queue/+", keepalive_s=60)
        client.transport.in_flight_bytes = 1
        link.cut()
        client.transport.publish("test/queue/sent", b"1")
        client.transport.publish("test/queue/expired", b"2", expiry_s=0)
        taken = 0
        while client.transport.publish("test/queue/stale", bytes(1_500_000), correlation=b"stale"):
            taken += 1
        assert taken * 1_500_000 >= MAX_OUTBOX_BYTES > (taken - 1) * 1_500_000
        client.transport.withdraw(b"stale")
        assert client.transport.publish("test/queue/later", b"3", correlation=b"later")
        link.restore()
        assert [client.next_message().payload for _ in range(2)] == [b"1", b"3"]
        client.settle()
        assert client.messages.empty()


def test_no_more_is_in_flight_than_is_asked_for(broker: Broker, connect: Connect) -> None:
    client = connect(broker.url, "test/paced")
    client.transport.in_flight_bytes = 1
    for number in range(50):
        client.transport.publish("test/paced", bytes([number]) * 1000)
    assert [client.next_message().payload[0] for _ in range(50)] == list(range(50))


def test_where_there_is_no_poll_select_waits(broker: Broker, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    with LinkEmulator(("127.0.0.1", broker.port), uplink_kbps=20_000) as link:
        client = connect(link.url, "test/select")
        client.transport.publish("test/select", bytes(300_000))
        client.transport.publish("test/select", b"after")
        assert [len(client.next_message().payload) for _ in range(2)] == [300_000, 5]


def test_a_transfer_takes_as_long_as_the_link_needs(broker: Broker, connect: Connect) -> None:
    with LinkEmulator(("127.0.0.1", broker.port), uplink_kbps=8000, rtt_ms=20) as link:
        client = connect(link.url)
        times: queue.Queue[float] = queue.Queue()
        client.transport.publish("test/slow", bytes(100_000), on_ack=times.put)
        client.transport.publish("test/slow", b"", on_ack=times.put)
        large_ms, after_ms = times.get(timeout=WAIT_S), times.get(timeout=WAIT_S)
        assert 120 <= large_ms < 250
        assert after_ms >= 110
        client.transport.publish("test/slow", b"", on_ack=times.put)
        assert 20 <= times.get(timeout=WAIT_S) < 60


@pytest.mark.parametrize("direction", ["uplink_kbps", "downlink_kbps"])
def test_a_transfer_longer_than_the_keepalive_is_not_a_dead_connection(
    broker: Broker, connect: Connect, direction: str
) -> None:
    with LinkEmulator(("127.0.0.1", broker.port), **{direction: 160}) as link:
        client = connect(link.url, "test/long", keepalive_s=1)
        client.transport.publish("test/long", bytes(50_000))
        assert len(client.next_message().payload) == 50_000
        assert client.states.qsize() == 1


def test_a_cut_link_is_noticed_and_a_restored_one_taken_again(broker: Broker, connect: Connect) -> None:
    with LinkEmulator(("127.0.0.1", broker.port)) as link:
        client = connect(link.url, "test/cut", keepalive_s=1)
        assert client.next_state() is True
        link.cut()
        assert client.next_state() is False
        assert "does not answer" in (client.transport.last_error or "")
        link.restore()
        assert client.next_state() is True
        client.transport.publish("test/cut", b"again")
        assert client.next_message().payload == b"again"


@pytest.mark.parametrize(("said", "shares"), [(b"", True), (b"\x2a\x01", True), (b"\x2a\x00", False)])
def test_a_broker_says_whether_it_shares_subscriptions(said: bytes, shares: bool) -> None:
    """By Shared Subscription Available in its CONNACK; where it says nothing, it does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        transport = MqttTransport(url, "asks", on_message=lambda _: None, on_state=lambda _: None)
        with transport:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(bytes([0x20, 3 + len(said), 0, 0, len(said)]) + said)
                transport.start(10.0, required=True)
                assert transport.shares_subscriptions is shares


def test_a_burst_that_comes_at_once_is_acknowledged_and_answered() -> None:
    """More than may wait to be written: it was read before anything could be."""
    count = 5000
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        transport = MqttTransport(
            url, "burst", on_message=lambda _: transport.publish("a", b"", qos=0), on_state=lambda _: None
        )
        with transport:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(WAIT_S)
                connection.recv(1000)
                connection.sendall(b"\x20\x03\0\0\0")
                transport.start(WAIT_S, required=True)
                connection.sendall(
                    b"".join(b"\x32\x06\0\x01t" + number.to_bytes(2) + b"\0" for number in range(1, count + 1))
                )
                heard = bytearray()
                # An acknowledgement has four bytes, an answer six.
                while len(heard) < 10 * count and (part := connection.recv(1 << 16)):
                    heard += part
                assert heard.count(b"\x30\x04\0\x01a\0") == count
                assert len(heard) == 10 * count
                assert transport.connected


def test_closing_waits_for_what_is_under_way_whoever_has_attended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstream.communication.transport.FLUSH_S", 6 * WAIT_S)
    left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        transport = MqttTransport(url, "closes", on_message=lambda _: None, on_state=lambda _: None)
        transport.start()
        connection, _ = server.accept()
        with connection:
            connection.settimeout(WAIT_S)
            connection.recv(1000)
            connection.sendall(b"\x20\x03\0\0\0")
            transport.start(WAIT_S, required=True)

            def ask() -> None:
                with transport.attended() as attend:
                    transport.publish("t", b"")
                    attend(lambda: False, 6 * WAIT_S)
                    left.wait(6 * WAIT_S)

            threads = [threading.Thread(target=ask), threading.Thread(target=transport.close)]
            threads[0].start()
            packet_id = connection.recv(1000)[5:7]
            threads[1].start()
            connection.sendall(b"\x40\x02" + packet_id)
            try:
                assert connection.recv(1000) == b"\xe0\0"
            finally:
                left.set()
                connection.close()
                for thread in threads:
                    thread.join(WAIT_S)
