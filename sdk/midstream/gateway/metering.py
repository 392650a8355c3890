"""How fast a gateway's own connection is, as its acknowledged transfers show."""

from __future__ import annotations

import threading
from collections.abc import Callable

from midstream.partitioning.link import TELLING_BYTES, LinkEstimate


class LinkMeter:
    """Averages what the broker's acknowledgements show. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link = LinkEstimate()

    def after_echo(self, ms: float) -> None:
        """A small message was acknowledged."""
        with self._lock:
            self._link = self._link.after_echo(ms)

    def transfer(self, payload_bytes: int) -> Callable[[float], None] | None:
        """What is to be told once a payload is acknowledged, and how long that took; None where it says nothing."""
        if payload_bytes < TELLING_BYTES:
            return None

        def acknowledged(ms: float) -> None:
            with self._lock:
                self._link = self._link.after_acknowledged(payload_bytes, ms)

        return acknowledged

    def uplink_kbps(self) -> float | None:
        """What it can send, to two digits; None where nothing was seen of that."""
        with self._lock:
            return float(f"{self._link.uplink_kbps:.2g}") if self._link.uplink_samples else None

    def rtt_ms(self) -> float | None:
        """The round trip to the broker, to two digits; None where none was seen."""
        with self._lock:
            return float(f"{self._link.rtt_ms:.2g}") if self._link.echoes else None
