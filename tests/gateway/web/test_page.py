"""The status page: all in one, harmless, and complete."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

from midstream.gateway.status import BundleStatus, Condition, GatewayStatus
from midstream.gateway.tallying import StageName
from midstream.gateway.web.page import STYLE_HASH, page

_VOID = {"meta", "br"}


class Read(HTMLParser):
    """What a page holds; fails where its elements do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_the_gateway_its_stages_and_forecasts(status: GatewayStatus) -> None:
    texts = [text.strip() for text in Read(page(status)).texts if text.strip()]
    for text in ("attic", "serving", "75%", "12.5 ms", "1,000 MB", "unknown", "2, 5 MB", "faces", "c5", "input",
                 "rnn (followed)", "ewma", "arrivals", "3.00", "0.25", "ab" * 32):  # fmt: skip
        assert text in texts
    assert "midstream 1.2.3, up 1 h 2 min, at 2023-11-14 22:13:20 UTC" in texts
    # One request in order, none refused, one failed; and one refused at the whole input.
    assert re.search(r"<td>output</td>(<td class=\"number\">\d</td>){4}", page(status))
    assert re.findall(r">(\d)<", page(status).split("<td>output</td>")[1])[:4] == ["2", "1", "0", "1"]


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(status: GatewayStatus) -> None:
    html = page(status)
    read = Read(html)
    assert {tag for tag, _ in read.elements}.isdisjoint({"script", "img", "link", "iframe", "form", "object", "base"})
    for _, attributes in read.elements:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
    assert {attributes["href"] for tag, attributes in read.elements if tag == "a"} == {
        "/metrics",
        "/status.json",
        "/healthz",
    }
    assert "://" not in html
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)
    assert style is not None
    digest = hashlib.sha256(style[1].encode()).digest()
    assert base64.b64encode(digest).decode() == STYLE_HASH.removeprefix("sha256-")
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in read.elements


def test_hostile_names_are_only_text(status: GatewayStatus) -> None:
    evil = "</style><script>alert(1)</script>\" onload='x' &amp; \x00\u202e\U0001f600"
    partitions = tuple(replace(each, name=StageName(evil, evil, evil)) for each in status.partitions)
    bundles = (BundleStatus(evil, evil, (evil,)),)
    condition, told = Condition.BROKER_LOST, evil * 1000
    hostile = replace(
        status, gateway_id=evil, version=evil, pool=evil, condition=condition, broker_error=told, partitions=partitions,
        bundles=bundles,
    )  # fmt: skip
    html = page(hostile)
    plain, odd = Read(page(replace(status, condition=condition, pool="x"))), Read(html)
    assert [element for element in odd.elements if element[0] != "p"] == [
        each for each in plain.elements if each[0] != "p"
    ]
    assert "\x00" not in html
    assert "\u202e" not in html
    assert len(html) < 20_000


def test_forecasts_of_the_busiest_stages_are_shown_and_the_others_counted(status: GatewayStatus) -> None:
    busy, other = status.partitions
    quiet = [
        replace(other, name=StageName("faces", f"c{number}", "output"), predictors=busy.predictors)
        for number in range(20, 28)
    ]
    html = page(replace(status, partitions=(*quiet, busy)))
    assert html.count("<h2>Forecast") == 5
    assert html.index("Forecast: faces, c5 to output") < html.index("Forecast: faces, c20 to output")
    assert "4 more stages are forecast" in html


def test_every_condition_is_shown_and_why(status: GatewayStatus) -> None:
    for condition in Condition:
        html = page(replace(status, condition=condition, partitions=(), broker_error="nobody is there"))
        Read(html)
        assert condition.value in html
        assert (f"{condition.why}: nobody is there" in html) == (condition is not Condition.SERVING)
        assert "No request has come yet." in html
