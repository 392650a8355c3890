"""What a gateway's log says of requests, so that a line and what it is about are found again by the request's id."""

from __future__ import annotations

import logging

from midstream.allocation.usage import Outcome, Usage
from midstream.communication.wire import REQUEST_ID_BYTES
from midstream.gateway.tallying import StageNames

_log = logging.getLogger("midstream.gateway")

_LEVELS = {
    Outcome.OK: logging.DEBUG,
    Outcome.CANCELLED: logging.DEBUG,
    Outcome.FAILED: logging.WARNING,
    Outcome.CANNOT_FORWARD: logging.WARNING,
}


def about(device_id: str, request_id: bytes | None) -> dict[str, str]:
    """What goes as ``extra`` with a line about a request, or about what was to be one."""
    return {"device_id": device_id} | (
        {} if request_id is None else {"request_id": request_id[:REQUEST_ID_BYTES].hex()}
    )


class LogUsage:
    """Writes one line for each `Usage`: for what went well if all is logged, for refusals and failures always."""

    def __init__(self, names: StageNames) -> None:
        self._names = names

    def __call__(self, usage: Usage) -> None:
        """Write it."""
        level = _LEVELS.get(usage.outcome, logging.INFO)
        if not _log.isEnabledFor(level):
            return
        name = self._names.of(usage.partition)
        extra: dict[str, object] = {
            **about(usage.device_id, usage.request_id),
            "bundle": name.bundle,
            "cut": name.cut,
            "next_cut": name.next_cut,
            "outcome": usage.outcome.value,
            "latency_ms": round(usage.latency_ms, 3),
        }
        if usage.reason:
            _log.log(level, "a request of %s ended: %s", usage.device_id, usage.reason, extra=extra)
        else:
            _log.log(level, "a request of %s ended", usage.device_id, extra=extra)
