"""What is answered to whom: who may look, which page it is, and under which rules a browser may show it. No I/O."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from midstream.gateway.status import Condition, GatewayStatus
from midstream.gateway.web.address import is_loopback
from midstream.gateway.web.page import STYLE_HASH, page

_JSON, _HTML, _TEXT = "application/json", "text/html; charset=utf-8", "text/plain; charset=utf-8"
_OPEN_METRICS = "application/openmetrics-text"
_LOCAL_NAME = "localhost"
# So long an answer is given again, and so many times as long as it took to make: however many ask, and however much
# there is to tell, what is asked for takes a twentieth of a core at most.
_KEPT_S, _KEPT_TIMES = 0.1, 20

# No script, nothing from elsewhere, in no other site's frame; the one style is known by its hash.
POLICY = f"default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's method, target as it was sent, and headers by names in small letters."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; ``headers`` go beside those that describe the body."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = _HEADERS


class Site:
    """Answers requests from one thread; ``now_s`` is a clock that never goes back.

    ``metrics`` gives Prometheus's text, or OpenMetrics where that is taken, with its type. With a ``token`` all but
    ``/healthz`` asks for it. Without one, which is for this machine alone, requests that a page of another name makes
    in somebody's browser (DNS rebinding) are refused by the name that they ask for.
    """

    def __init__(
        self,
        status: Callable[[], GatewayStatus],
        metrics: Callable[[GatewayStatus, bool], tuple[bytes, str]],
        now_s: Callable[[], float],
        *,
        token: str | None,
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._now_s = now_s
        self._token = None if token is None else token.encode()
        self._kept: dict[tuple[str, bool], tuple[float, Answer]] = {}

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request."""
        if self._token is None and not _names_this_machine(asked.headers.get("host")):
            return _told(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this page is for this machine alone: ask for it as localhost or 127.0.0.1",
            )
        if asked.method not in ("GET", "HEAD"):
            allow = ("Allow", "GET, HEAD")
            return _told(HTTPStatus.METHOD_NOT_ALLOWED, "there is nothing here but to look at: GET or HEAD", allow)
        path = asked.target.partition("?")[0]
        if path != "/healthz" and not self._may_look(asked.headers.get("authorization", "")):
            challenge = ("WWW-Authenticate", 'Basic realm="midstream gateway", charset="UTF-8", Bearer')
            why = "the gateway's token is needed: as a bearer token, or as the password of any user name"
            return _told(HTTPStatus.UNAUTHORIZED, why, challenge)
        show = {"/": self._page, "/healthz": self._health, "/metrics": self._prometheus, "/status.json": self._json}
        if path not in show:
            return _told(HTTPStatus.NOT_FOUND, f"there is only {', '.join(show)}")
        key = path, path == "/metrics" and _OPEN_METRICS in asked.headers.get("accept", "")
        now_s = self._now_s()
        until_s, kept = self._kept.get(key, (0.0, None))
        if kept is None or now_s >= until_s:
            kept = show[path](self._status(), key[1])
            done_s = self._now_s()
            self._kept[key] = done_s + max(_KEPT_S, _KEPT_TIMES * (done_s - now_s)), kept
        return kept

    def _may_look(self, authorization: str) -> bool:
        return self._token is None or hmac.compare_digest(_token_in(authorization), self._token)

    def _page(self, status: GatewayStatus, _open: bool) -> Answer:
        return Answer(HTTPStatus.OK, _HTML, page(status).encode())

    def _json(self, status: GatewayStatus, _open: bool) -> Answer:
        return Answer(HTTPStatus.OK, _JSON, json.dumps(status.to_json(), allow_nan=False).encode() + b"\n")

    def _prometheus(self, status: GatewayStatus, open_metrics: bool) -> Answer:
        body, content_type = self._metrics(status, open_metrics)
        return Answer(HTTPStatus.OK, content_type, body)

    def _health(self, status: GatewayStatus, _open: bool) -> Answer:
        condition = status.condition
        if condition is Condition.SERVING:
            return Answer(HTTPStatus.OK, _JSON, b'{"status": "ok"}\n')
        body = json.dumps({"status": condition.value, "reason": condition.why}).encode() + b"\n"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, _JSON, body)


def _told(status: HTTPStatus, why: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, _TEXT, f"{status.value} {status.phrase}: {why}\n".encode(), (*_HEADERS, *headers))


def _token_in(authorization: str) -> bytes:
    """The bearer token, or the password of basic authentication (RFC 7617); empty where there is neither."""
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode(errors="replace")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _names_this_machine(host: str | None) -> bool:
    """Whether a Host header means this machine by a name that no other site can have; HTTP/1.0 needs none."""
    if host is None:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == _LOCAL_NAME or is_loopback(name)
