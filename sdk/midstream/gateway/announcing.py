"""What a gateway publishes about itself: its presence where that has changed, its load as often as is of use."""

from __future__ import annotations

import logging
import uuid

from midstream.communication import topics
from midstream.communication.lanes import Lanes
from midstream.communication.load import (
    LOAD_EXPIRY_S,
    LoadReport,
    LoadThrottle,
    decode_load,
    encode_load,
    rounded,
)
from midstream.communication.presence import Presence, encode_within
from midstream.errors import PeerError, WireError
from midstream.gateway.metering import LinkMeter
from midstream.gateway.work import Load
from midstream.sensing import free_memory_bytes

_log = logging.getLogger("midstream.gateway")


class Announcer:
    """Publishes a gateway's presence and load reports, retained. Not thread-safe, but for the transport."""

    def __init__(self, transport: Lanes, gateway_id: str, meter: LinkMeter) -> None:
        self._transport = transport
        self._meter = meter
        self._gateway_id = gateway_id
        self._presence: Presence | None = None
        self._run = uuid.uuid4().hex
        self._sequence = 0
        self._has_twin = False
        self._throttle = LoadThrottle()

    def heard(self, payload: bytes) -> None:
        """Somebody has published a load report under this gateway's name; say so, once, where it was another."""
        try:
            report = decode_load(payload)
        except WireError:
            return
        if report is None or report.run == self._run or self._has_twin:
            return
        self._has_twin = True
        _log.warning(
            "another gateway calls itself %s at this broker, and each of them runs every request; give one of them "
            "another name (--id), or credentials of its own",
            self._gateway_id,
        )

    def forget(self) -> None:
        """The broker keeps it no longer: the next presence and load are news."""
        self._presence = None
        self._throttle = LoadThrottle()

    def presence(self, presence: Presence, *, always: bool = False) -> None:
        """Publish it where it is another one, or ``always``.

        Raises PeerError where the broker takes too little at once.
        """
        if not always and presence == self._presence:
            return
        topic = topics.presence_topic(self._gateway_id)
        try:
            payload = encode_within(presence, self._transport.payload_limit(topic))
            if self._transport.publish(topic, payload, retain=True):
                self._presence = presence
        except (WireError, ValueError) as error:
            raise _takes_too_little(error) from None

    def load(self, load: Load, forecast_ms: float | None, now_s: float, *, always: bool = False) -> None:
        """Publish a report where it is time for this one, or ``always``. Raises PeerError as `presence` does.

        ``forecast_ms`` is as in `LoadReport`.
        """
        report = rounded(
            LoadReport(
                self._gateway_id,
                self._run,
                self._sequence,
                load.queue_length,
                load.wait_ms,
                load.load,
                free_memory_bytes(),
                load.waits_ms,
                self._meter.uplink_kbps(),
                self._meter.rtt_ms(),
                forecast_ms,
            )
        )
        if not always and now_s < self._throttle.due_s(report):
            return
        topic = topics.load_topic(self._gateway_id)
        try:
            published = self._transport.publish(
                topic, encode_load(report), retain=True, expiry_s=LOAD_EXPIRY_S, on_ack=self._meter.after_echo
            )
        except ValueError as error:
            raise _takes_too_little(error) from None
        if published:
            self._throttle = self._throttle.after(report, now_s)
            self._sequence += 1


def _takes_too_little(error: Exception) -> PeerError:
    return PeerError(f"the broker takes too little at once for a gateway to announce itself: {error}")
