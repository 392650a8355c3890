"""Who may look at a gateway's state, and what is answered."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from http import HTTPStatus

import pytest

from midstream.gateway.status import Condition, GatewayStatus
from midstream.gateway.web.site import Asked, Site

TOKEN = "0123456789abcdef"
PATHS = ("/", "/metrics", "/status.json", "/healthz")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Looked:
    """A site over a status that may change, and how often it was looked at."""

    def __init__(self, status: GatewayStatus, token: str | None = None) -> None:
        self.status = status
        self.times = 0
        self.clock = Clock()
        self._site = Site(self._now, self._metrics, self.clock, token=token)

    def _now(self) -> GatewayStatus:
        self.times += 1
        return self.status

    def _metrics(self, status: GatewayStatus, open_metrics: bool) -> tuple[bytes, str]:
        return f"up_for {status.uptime_s} {open_metrics}".encode(), "text/prometheus"

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPStatus, str, dict[str, str]]:
        answer = self._site.answer(Asked(method, path, {"host": "localhost:9464", **headers}))
        return answer.status, answer.body.decode(), dict(answer.headers)


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


def test_there_is_a_page_metrics_health_and_the_status(status: GatewayStatus) -> None:
    looked = Looked(status)
    code, body, headers = looked.get("/?refresh")
    assert (code, "attic" in body) == (200, True)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert looked.get("/metrics")[1] == "up_for 3725.0 False"
    assert looked.get("/metrics", accept="application/openmetrics-text;version=1.0.0;q=0.5,*/*")[1].endswith("True")
    assert json.loads(looked.get("/status.json")[1])["gateway"] == "attic"
    assert looked.get("/healthz")[:2] == (HTTPStatus.OK, '{"status": "ok"}\n')


@pytest.mark.parametrize(
    "path", ["/metrics/", "//", "/../etc/passwd", "/%2e%2e/", "/index.html", "*", "http://localhost/metrics", "", "/ "]
)
def test_there_is_nothing_else(path: str, status: GatewayStatus) -> None:
    code, body, _ = Looked(status).get(path)
    assert code is HTTPStatus.NOT_FOUND
    assert body.startswith("404 Not Found: there is only /, /healthz")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X"])
def test_one_can_only_look(method: str, status: GatewayStatus) -> None:
    looked = Looked(status)
    code, _, headers = looked.get("/metrics", method)
    assert (code, headers["Allow"], looked.times) == (405, "GET, HEAD", 0)


@pytest.mark.parametrize("condition", [each for each in Condition if each is not Condition.SERVING])
def test_who_does_not_serve_says_why_and_not_where_its_broker_is(condition: Condition, status: GatewayStatus) -> None:
    looked = Looked(replace(status, condition=condition, broker_error="10.1.2.3 refuses"), TOKEN)
    code, body, _ = looked.get("/healthz")
    assert code is HTTPStatus.SERVICE_UNAVAILABLE
    assert json.loads(body) == {"status": condition.value, "reason": condition.why}
    assert "10.1.2.3" not in body


@pytest.mark.parametrize("path", PATHS)
def test_with_a_token_all_but_health_asks_for_it(path: str, status: GatewayStatus) -> None:
    looked = Looked(status, TOKEN)
    for right in (
        f"Bearer {TOKEN}",
        f"bearer  {TOKEN} ",
        basic(f"anybody:{TOKEN}".encode()),
        basic(f":{TOKEN}".encode()),
    ):
        assert looked.get(path, authorization=right)[0] is HTTPStatus.OK
    wrongs = (
        "", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Digest {TOKEN}", "Bearer ÿü", "Basic %%%",
        "Basic é", basic(TOKEN.encode()), basic(f"{TOKEN}:".encode()), basic(b"\xff:\xff"), "Basic",
    )  # fmt: skip
    for wrong in wrongs:
        code, body, headers = looked.get(path, authorization=wrong)
        assert code == (200 if path == "/healthz" else 401), wrong
        if code == 401:
            assert headers["WWW-Authenticate"].startswith("Basic realm=")
            assert "attic" not in body


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("LOCALHOST:1", True), ("127.0.0.1:9464", True), ("[::1]:80", True), ("127.3.2.1", True),
        ("evil.example", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example:9464", False), ("", False),
        ("192.0.2.1", False), ("[::1", False), ("0.0.0.0", False), ("lokalhost", False), ("\x00", False),
    ],
)  # fmt: skip
def test_where_anyone_may_look_a_page_of_another_name_may_not(host: str, local: bool, status: GatewayStatus) -> None:
    """A name that resolves to 127.0.0.1 for a moment makes a browser ask here with that name (DNS rebinding)."""
    for path in PATHS:
        assert Looked(status).get(path, host=host)[0] == (200 if local else 421)
    # With a token it is this that keeps others out, and a proxy may pass on the name that it was asked for by.
    assert Looked(status, TOKEN).get("/metrics", host=host, authorization=f"Bearer {TOKEN}")[0] == 200


def test_however_often_one_asks_it_is_made_ten_times_a_second(status: GatewayStatus) -> None:
    looked = Looked(status)
    for _ in range(50):
        looked.get("/metrics")
        looked.get("/metrics", accept="application/openmetrics-text")
    assert looked.times == 2
    looked.status = replace(status, uptime_s=1.0)
    looked.clock.now_s += 0.125
    assert looked.get("/metrics")[1] == "up_for 1.0 False"
    assert looked.times == 3


def test_what_takes_long_to_make_is_given_again_for_longer(
    status: GatewayStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Looked(status)
    make = looked._now

    def slowly() -> GatewayStatus:
        looked.clock.now_s += 0.5
        return make()

    monkeypatch.setattr(looked._site, "_status", slowly)
    for waited_s, times in ((0.0, 1), (9.5, 1), (1.0, 2)):
        looked.clock.now_s += waited_s
        looked.get("/")
        assert looked.times == times


def test_what_was_made_for_one_is_not_given_to_who_may_not_look(status: GatewayStatus) -> None:
    looked = Looked(status, TOKEN)
    assert looked.get("/metrics", authorization=f"Bearer {TOKEN}")[0] == 200
    assert looked.get("/metrics")[0] == 401
