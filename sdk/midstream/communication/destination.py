"""Where a request is sent, who may answer it, and whose end leaves it without an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from midstream.communication import topics


@dataclass(frozen=True, slots=True)
class Destination:
    """A gateway, or a pool: then whoever of its members takes the request.

    Replies of ``answerers`` count: besides those who have it now, whoever may have got it before. ``bearers`` are those
    who have it, or may: a request is lost where one of them ends. A pool's member has to say within ``take_within_s``
    that it has it.
    """

    gateway_id: str
    pool_id: str
    answerers: frozenset[str]
    bearers: frozenset[str]
    take_within_s: float | None = None

    @property
    def key(self) -> str:
        """What tells it from other destinations."""
        return f"pool/{self.pool_id}" if self.pool_id else self.gateway_id

    def request_topic(self, device_id: str) -> str:
        """Where this device sends its requests."""
        if self.pool_id:
            return topics.pool_request_topic(self.pool_id, device_id)
        return topics.request_topic(self.gateway_id, device_id)

    def control_topics(self, device_id: str) -> tuple[str, ...]:
        """Where this device sends control messages that are for whoever has it."""
        if self.pool_id:
            return (topics.pool_control_topic(self.pool_id, device_id),)
        return tuple(topics.gateway_control_topic(bearer, device_id) for bearer in sorted(self.bearers))

    def reply_topic(self, device_id: str) -> str | None:
        """Where the answer will be; None where that depends on who takes it."""
        return None if self.pool_id else topics.reply_topic(self.gateway_id, device_id)


def to_gateway(gateway_id: str, onward: Iterable[str] = (), before: Iterable[str] = ()) -> Destination:
    """To this gateway, which passes it on to those ``onward``; it may have been with those ``before``."""
    bearers = frozenset((gateway_id, *onward))
    return Destination(gateway_id, "", bearers | frozenset(before), bearers)


def to_pool(pool_id: str, members: Iterable[str], take_within_s: float, before: Iterable[str] = ()) -> Destination:
    """To whoever of this pool takes it; it may have been with those ``before``."""
    bearers = frozenset(members)
    return Destination("", pool_id, bearers | frozenset(before), bearers, take_within_s)
