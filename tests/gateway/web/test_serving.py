"""The server's own bounds, with real sockets and hostile clients."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http import HTTPStatus
from urllib.parse import urlsplit

import pytest

from midstream.errors import InputError
from midstream.gateway.web import serving
from midstream.gateway.web.address import parse_http_address
from midstream.gateway.web.serving import MOST_OPEN, HttpServer
from midstream.gateway.web.site import Answer, Asked

WAIT_S = 20.0
# More than the system keeps for who does not read.
LARGE_BYTES = 30_000_000
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Site:
    """Answers with what was asked, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        if asked.target == "/broken":
            raise ZeroDivisionError("secret")
        body = b"x" * LARGE_BYTES if asked.target == "/large" else asked.target.encode()
        return Answer(HTTPStatus.OK, "text/plain", body)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def server(site: Site) -> Iterator[HttpServer]:
    running = HttpServer(parse_http_address(0), site.answer)
    running.start()
    yield running
    running.close()
    assert not any(thread.name == "midstream-http" for thread in threading.enumerate())


def connected(server: HttpServer) -> socket.socket:
    parts = urlsplit(server.url or "")
    return socket.create_connection((str(parts.hostname), parts.port or 0), WAIT_S)


def until_closed(client: socket.socket) -> bytes:
    """All that comes until the server ends the connection, however it does."""
    received = b""
    try:
        while part := client.recv(1 << 16):
            received += part
    except ConnectionError:
        pass
    return received


def sent(server: HttpServer, request: bytes) -> bytes:
    with closing(connected(server)) as client:
        client.sendall(request)
        return until_closed(client)


def is_served(server: HttpServer) -> bool:
    return sent(server, GET).startswith(b"HTTP/1.1 200")


def test_one_request_one_answer(server: HttpServer, site: Site) -> None:
    parts = urlsplit(server.url or "")
    client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WAIT_S)
    client.request("GET", "/metrics?x=1", headers={"Accept": "text/plain"})
    response = client.getresponse()
    assert (response.status, response.read()) == (200, b"/metrics?x=1")
    assert response.headers["Connection"] == "close"
    assert response.headers["Content-Security-Policy"]
    assert site.asked[0].headers["accept"] == "text/plain"
    client.close()
    head = sent(server, b"HEAD /abc HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"Content-Length: 4\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert sent(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_second_request_on_the_same_connection_is_not_read(server: HttpServer, site: Site) -> None:
    assert sent(server, GET + b"GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n").count(b"HTTP/1.1 ") == 1
    assert [asked.target for asked in site.asked] == ["/"]


def test_requests_may_come_byte_by_byte(server: HttpServer) -> None:
    with closing(connected(server)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET:
            client.sendall(bytes([byte]))
        assert until_closed(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: z\rx\r\n\r\n",
        "GET /ü HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 3000 + b"\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_served(junk: bytes, server: HttpServer, site: Site) -> None:
    answer = sent(server, junk)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 501", b"HTTP/1.1 505"), answer
    assert site.asked == []
    assert is_served(server)


def test_headers_cannot_be_put_into_an_answer(server: HttpServer) -> None:
    answer = sent(server, b"GET /%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"\nSet-Cookie" not in answer.partition(b"\r\n\r\n")[0]


def test_an_endless_head_is_not_read_to_its_end(server: HttpServer) -> None:
    with closing(connected(server)) as client:
        try:
            for _ in range(1000):
                client.sendall(b"X" * 10_000)
            pytest.fail("ten megabytes of a head were taken")
        except ConnectionError:
            pass
    assert is_served(server)


def test_who_sends_a_body_can_read_the_answer(server: HttpServer) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n"
    assert sent(server, head + b"x" * 500_000).startswith(b"HTTP/1.1 200")


def test_a_mistake_of_ours_is_one_answer_and_its_reason_is_in_the_log(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    answer = sent(server, b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer
    assert "ZeroDivisionError: secret" in caplog.text
    assert is_served(server)


def test_who_holds_connections_keeps_out_nobody(server: HttpServer) -> None:
    """The oldest give way, of those that send nothing and of those that send half a request."""
    with ExitStack() as held:
        clients = [held.enter_context(closing(connected(server))) for _ in range(2 * MOST_OPEN)]
        for client in clients[MOST_OPEN:]:
            client.sendall(GET[:20])
        assert is_served(server)
        # So many were there before the last of them, and the one that was served.
        assert all(until_closed(client) == b"" for client in clients[: MOST_OPEN - 1])


def test_who_sends_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch, server: HttpServer) -> None:
    monkeypatch.setattr(serving, "_REQUEST_S", 0.05)
    with closing(connected(server)) as client:
        client.sendall(GET[:20])
        assert until_closed(client) == b""


def test_who_reads_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch, server: HttpServer) -> None:
    gone, lost = threading.Event(), serving._Connection.connection_lost
    monkeypatch.setattr(serving, "_ANSWER_S", 0.05)
    monkeypatch.setattr(serving._Connection, "connection_lost", lambda *given: (lost(*given), gone.set()))
    with closing(connected(server)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        assert gone.wait(WAIT_S)
        assert len(until_closed(client)) < LARGE_BYTES


def test_large_answers_arrive_whole(server: HttpServer) -> None:
    assert len(sent(server, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").partition(b"\r\n\r\n")[2]) == LARGE_BYTES


def test_closing_cuts_off_who_is_there_and_frees_the_port(site: Site) -> None:
    first = HttpServer(parse_http_address(0), site.answer)
    first.start()
    port = urlsplit(first.url or "").port or 0
    with closing(connected(first)) as client:
        first.close()
        assert until_closed(client) == b""
    again = HttpServer(parse_http_address(port), site.answer)
    again.start()
    assert is_served(again)
    again.close()


def test_a_server_that_has_not_started_can_be_closed(site: Site) -> None:
    HttpServer(parse_http_address(0), site.answer).close()


def test_a_port_that_is_taken_is_one_error_with_the_remedy(server: HttpServer, site: Site) -> None:
    port = urlsplit(server.url or "").port or 0
    with pytest.raises(
        InputError, match=rf"at port {port} of 127.0.0.1: another program has this port; give --http an"
    ):
        HttpServer(parse_http_address(port), site.answer).start()
    # 192.0.2.0/24 belongs to documents (RFC 5737), and so to no machine.
    with pytest.raises(InputError, match=r"port 1234 of 192\.0\.2\.1: this machine has no such address"):
        HttpServer(parse_http_address("192.0.2.1:1234"), site.answer).start()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_is_served_too(site: Site) -> None:
    running = HttpServer(parse_http_address("[::1]:0"), site.answer)
    try:
        running.start()
    except InputError:
        pytest.skip("this machine has no IPv6 loopback")
    assert (running.url or "").startswith("http://[::1]:")
    assert is_served(running)
    running.close()
