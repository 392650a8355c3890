"""The emulated link, between plain sockets: its arithmetic must hold for whatever goes over it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from midstream.errors import InputError, MidstreamError
from midstream.link import LinkEmulator

WAIT_S = 10.0
TRIES = 4


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        yield listener


def pair(link: LinkEmulator, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client's and the server's end of a new connection over the link."""
    client = socket.create_connection(("127.0.0.1", link.port), timeout=WAIT_S)
    end, _ = server.accept()
    for sock in (client, end):
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, end


def receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := sock.recv(65536)):
        data += part
    return bytes(data)


def transfer_ms(source: socket.socket, sink: socket.socket, size: int) -> float:
    """How long so many bytes take, and that they are the same at the other end."""
    sent = os.urandom(size)
    sender = threading.Thread(target=source.sendall, args=(sent,))
    began = time.perf_counter()
    sender.start()
    received = receive(sink, size)
    elapsed = (time.perf_counter() - began) * 1000
    sender.join()
    assert received == sent
    return elapsed


def quickest_ms(source: socket.socket, sink: socket.socket, size: int) -> float:
    """The shortest of some transfers: a busy machine only ever adds to what the link takes."""
    return min(transfer_ms(source, sink, size) for _ in range(TRIES))


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def target(server: socket.socket) -> tuple[str, int]:
    host, port = server.getsockname()
    return host, port


def test_each_direction_has_its_own_rate(server: socket.socket) -> None:
    with LinkEmulator(target(server), uplink_kbps=4000, downlink_kbps=16_000) as link:
        client, end = pair(link, server)
        with client, end:
            assert 100 <= quickest_ms(client, end, 50_000) < 150
            assert 50 <= quickest_ms(end, client, 100_000) < 100


def test_without_limits_it_is_quick(server: socket.socket) -> None:
    with LinkEmulator(target(server)) as link:
        client, end = pair(link, server)
        with client, end:
            assert quickest_ms(client, end, 5_000_000) < 1000


def test_half_the_round_trip_is_added_each_way(server: socket.socket) -> None:
    with LinkEmulator(target(server), rtt_ms=60) as link:
        client, end = pair(link, server)
        with client, end:
            assert 30 <= quickest_ms(client, end, 1) < 55
            assert 30 <= quickest_ms(end, client, 1) < 55


def test_delay_does_not_limit_throughput(server: socket.socket) -> None:
    with LinkEmulator(target(server), uplink_kbps=80_000, rtt_ms=200) as link:
        client, end = pair(link, server)
        with client, end:
            assert 300 <= quickest_ms(client, end, 2_000_000) < 400


def test_connections_share_the_rate_of_a_direction(server: socket.socket) -> None:
    with LinkEmulator(target(server), uplink_kbps=8000) as link:
        first, second = pair(link, server), pair(link, server)
        with ThreadPoolExecutor() as threads:
            tries = [
                list(threads.map(lambda ends: transfer_ms(ends[0], ends[1], 50_000), (first, second)))
                for _ in range(TRIES)
            ]
        for sock in (*first, *second):
            sock.close()
    assert min(min(times) for times in tries) >= 60
    assert 98 <= min(max(times) for times in tries) < 150


def test_what_the_wire_does_not_take_stays_with_the_sender(server: socket.socket) -> None:
    with LinkEmulator(target(server), uplink_kbps=100) as link:
        client, end = pair(link, server)
        with client, end:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(200_000))


def test_a_receiver_that_does_not_read_holds_the_sender_up(server: socket.socket) -> None:
    with LinkEmulator(target(server)) as link:
        client, end = pair(link, server)
        with client, end:
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(64 << 20))


def test_it_changes_while_it_runs(server: socket.socket) -> None:
    with LinkEmulator(target(server), uplink_kbps=800, rtt_ms=10) as link:
        client, end = pair(link, server)
        with client, end:
            assert transfer_ms(client, end, 10_000) >= 105
            link.set(uplink_kbps=80_000)
            assert 5 <= quickest_ms(client, end, 10_000) < 60
            link.set(rtt_ms=200)
            assert 100 <= quickest_ms(client, end, 10_000) < 160
            link.set(uplink_kbps=None, rtt_ms=0)
            assert quickest_ms(client, end, 10_000) < 60


def test_a_cut_stalls_and_a_restored_link_goes_on(server: socket.socket) -> None:
    with LinkEmulator(target(server)) as link:
        client, end = pair(link, server)
        with client, end:
            link.cut()
            client.sendall(b"during")
            late = socket.create_connection(("127.0.0.1", link.port), timeout=WAIT_S)
            late.sendall(b"late")
            end.settimeout(0.2)
            with pytest.raises(TimeoutError):
                end.recv(1)
            link.restore()
            end.settimeout(WAIT_S)
            assert receive(end, 6) == b"during"
            with late, server.accept()[0] as late_end:
                assert receive(late_end, 4) == b"late"


def test_a_close_arrives_after_what_was_sent_before_it(server: socket.socket) -> None:
    with LinkEmulator(target(server), uplink_kbps=4000, rtt_ms=20) as link:
        client, end = pair(link, server)
        with client, end:
            client.sendall(bytes(20_000))
            client.shutdown(socket.SHUT_WR)
            assert len(receive(end, 1 << 20)) == 20_000
            end.sendall(b"answer")
            assert receive(client, 6) == b"answer"
            end.close()
            assert client.recv(1) == b""


def test_a_target_that_is_not_there_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = target(gone)
    with (
        LinkEmulator(address) as link,
        socket.create_connection(("127.0.0.1", link.port), timeout=WAIT_S) as client,
    ):
        assert client.recv(1) == b""


def test_nothing_is_left_after_the_with_block(server: socket.socket) -> None:
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    with LinkEmulator(target(server), uplink_kbps=100, rtt_ms=1000) as link:
        client, end = pair(link, server)
        client.sendall(bytes(5000))
        link.cut()
    assert set(threading.enumerate()) == threads
    assert end.recv(1) == b""
    client.close()
    end.close()
    assert open_descriptors() == descriptors
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", link.port))
    with pytest.raises(MidstreamError, match="with block"):
        link.cut()


@pytest.mark.parametrize(
    "wrong",
    [
        {"uplink_kbps": 0},
        {"downlink_kbps": -1},
        {"uplink_kbps": float("nan")},
        {"rtt_ms": -1},
        {"rtt_ms": float("inf")},
    ],
)
def test_an_impossible_link_is_refused(server: socket.socket, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        LinkEmulator(target(server), **wrong)
    with LinkEmulator(target(server)) as link, pytest.raises(InputError, match=next(iter(wrong))):
        link.set(**wrong)
