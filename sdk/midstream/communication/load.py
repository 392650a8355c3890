"""Load: what a gateway publishes, retained, about how busy it is, so that devices plan with what they will wait.

JSON of at most 16 KiB, sent where it has changed, at most every 100 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from midstream.communication.announcements import Announcement, dumped, microseconds
from midstream.communication.topics import check_id

MAX_LOAD_BYTES = 16 << 10
# What is not sent again before is no longer of use to who comes later: the broker then drops it.
LOAD_EXPIRY_S = 60
# How far ahead a report's forecast is.
FORECAST_S = 1.0
_MAX_WHOLE = (1 << 53) - 1
_NEWS_S, _CHANGE_S, _AGAIN_S = 0.1, 1.0, 30.0
# What is news: so many ms and this share of the wait, this much of the workers, this share of the memory.
_NEWS_MS, _NEWS_SHARE, _NEWS_LOAD = 1.0, 0.1, 0.25
_MEMORY_STEP = 16 << 20


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How busy a gateway is.

    ``run`` is another name each time that the gateway starts, and ``sequence`` counts its reports. ``queue_length``
    requests wait. ``wait_ms`` is what a request that came now would wait, ``waits_ms`` the same for single tails where
    it differs: a bundle's digest in hexadecimal → cut id, or "whole" → ms. ``forecast_ms`` is what a request will wait
    in the second after, None where nothing is forecast. ``load`` is the share of its workers that is busy,
    ``free_bytes`` the memory that it could still take, None where the system does not say. ``uplink_kbps`` and
    ``rtt_ms`` are of its own way to the broker, None where it has seen too little of that.
    """

    gateway_id: str
    run: str
    sequence: int = 0
    queue_length: int = 0
    wait_ms: float = 0.0
    load: float = 0.0
    free_bytes: int | None = None
    waits_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    uplink_kbps: float | None = None
    rtt_ms: float | None = None
    forecast_ms: float | None = None

    def after(self, age_s: float) -> LoadReport:
        """The report as it is expected to be so long after it was made: its waits on their way to the forecast one."""
        if self.forecast_ms is None or age_s <= 0.0:
            return self
        change_ms = (self.forecast_ms - self.wait_ms) * min(1.0, age_s / FORECAST_S)
        waits_ms = {
            digest: {cut: max(0.0, ms + change_ms) for cut, ms in waits.items()}
            for digest, waits in self.waits_ms.items()
        }
        return replace(self, wait_ms=max(0.0, self.wait_ms + change_ms), waits_ms=waits_ms)

    def wait_at(self, digest: str, cut: str) -> float:
        """What a request at this cut ("whole": the whole input) of this bundle would wait, ms."""
        return self.waits_ms.get(digest, {}).get(cut, self.wait_ms)

    def follows(self, other: LoadReport | None) -> bool:
        """Whether this one is the newer."""
        return other is None or self.run != other.run or self.sequence > other.sequence


@dataclass(frozen=True, slots=True)
class LoadThrottle:
    """What was published last, and when: so when to publish again."""

    published: LoadReport | None = None
    at_s: float = 0.0

    def due_s(self, report: LoadReport) -> float:
        """When this may be published: what is news after 100 ms, a small change after 1 s, and else after 30 s.

        News is a wait, or one forecast, that differs by 1 ms and a tenth, a load by a quarter, memory by a tenth, or
        another run. The way to the broker, which always varies, is told along with the rest.
        """
        last = self.published
        if last is None or last.run != report.run:
            return self.at_s
        if _is_news(last, report):
            return self.at_s + _NEWS_S
        return self.at_s + (_AGAIN_S if _is_same(last, report) else _CHANGE_S)

    def after(self, report: LoadReport, now_s: float) -> LoadThrottle:
        """Once this was published."""
        return LoadThrottle(report, now_s)


def rounded(report: LoadReport) -> LoadReport:
    """The report without what changes all the time: waits to 0.1 ms, the load to a hundredth, memory to 16 MiB."""
    free = report.free_bytes
    return replace(
        report,
        wait_ms=round(report.wait_ms, 1),
        load=round(report.load, 2),
        waits_ms={
            digest: {cut: round(ms, 1) for cut, ms in waits.items()} for digest, waits in report.waits_ms.items()
        },
        free_bytes=None if free is None else free // _MEMORY_STEP * _MEMORY_STEP,
        forecast_ms=None if report.forecast_ms is None else round(report.forecast_ms, 1),
    )


def encode_load(report: LoadReport) -> bytes:
    """The JSON to publish. Raises WireError where a value is out of range or the whole exceeds 16 KiB."""
    body = {
        "gateway": report.gateway_id,
        "run": report.run,
        "sequence": report.sequence,
        "queue_length": report.queue_length,
        "wait_ms": microseconds(report.wait_ms),
        "load": report.load,
        "waits_ms": {
            digest: {cut: microseconds(ms) for cut, ms in waits.items()} for digest, waits in report.waits_ms.items()
        },
    }
    for key in ("free_bytes", "uplink_kbps", "rtt_ms"):
        if getattr(report, key) is not None:
            body[key] = getattr(report, key)
    if report.forecast_ms is not None:
        body["forecast_ms"] = microseconds(report.forecast_ms)
    payload = dumped(body)
    decode_load(payload)
    return payload


def decode_load(payload: bytes) -> LoadReport | None:
    """The report in a payload, or None for the empty one. Unknown keys are ignored. Raises WireError."""
    if not payload:
        return None
    found = Announcement(payload, "load report", MAX_LOAD_BYTES)
    return LoadReport(
        check_id(found.text("gateway")),
        found.name("run"),
        found.whole("sequence", _MAX_WHOLE),
        found.whole("queue_length", _MAX_WHOLE),
        found.number("wait_ms"),
        found.number("load"),
        found.whole("free_bytes", _MAX_WHOLE) if "free_bytes" in found else None,
        found.times_of_cuts("waits_ms"),
        found.number("uplink_kbps", positive=True) if "uplink_kbps" in found else None,
        found.number("rtt_ms", positive=True) if "rtt_ms" in found else None,
        found.number("forecast_ms") if "forecast_ms" in found else None,
    )


def _is_same(last: LoadReport, report: LoadReport) -> bool:
    """Whether they differ at most in what is told along."""
    return (
        report.wait_ms == last.wait_ms
        and report.load == last.load
        and report.queue_length == last.queue_length
        and report.free_bytes == last.free_bytes
        and report.waits_ms == last.waits_ms
        and report.gateway_id == last.gateway_id
        and report.run == last.run
        and (report.forecast_ms is None) == (last.forecast_ms is None)
    )


def _is_news(last: LoadReport, report: LoadReport) -> bool:
    if last.waits_ms.keys() != report.waits_ms.keys() or (last.free_bytes is None) != (report.free_bytes is None):
        return True
    if _is_longer_or_shorter(last.wait_ms, report.wait_ms):
        return True
    if _is_longer_or_shorter(last.forecast_ms or 0.0, report.forecast_ms or 0.0):
        return True
    return (
        abs(report.load - last.load) >= _NEWS_LOAD
        or abs((report.free_bytes or 0) - (last.free_bytes or 0)) > _NEWS_SHARE * (last.free_bytes or 0)
        or any(
            _is_longer_or_shorter(last.wait_at(digest, cut), wait_ms)
            for digest, tails in report.waits_ms.items()
            for cut, wait_ms in tails.items()
        )
    )


def _is_longer_or_shorter(old_ms: float, new_ms: float) -> bool:
    return abs(new_ms - old_ms) >= max(_NEWS_MS, _NEWS_SHARE * max(old_ms, new_ms))
