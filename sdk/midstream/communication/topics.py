"""Topics: their names, and reading them strictly.

The broker's access control decides who may write to a topic, so a topic says who sent what lies on it. The
reply topic is always derived from the request's own, never named by a peer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from midstream.errors import WireError

ROOT = "midstream/0"
PRESENCE_PREFIX = f"{ROOT}/presence/"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REQUEST = re.compile(rf"{ROOT}/gw/({_ID.pattern})/req/({_ID.pattern})")
_REPLY = re.compile(rf"{ROOT}/dev/({_ID.pattern})/rep/({_ID.pattern})")
_PRESENCE = re.compile(rf"{ROOT}/presence/({_ID.pattern})")


@dataclass(frozen=True, slots=True)
class Route:
    """The two ends of a request or a reply."""

    gateway_id: str
    device_id: str


def check_id(name: str) -> str:
    """The id of a gateway or a device, as it is; raises WireError unless it is [A-Za-z0-9_-]{1,64}."""
    if not _ID.fullmatch(name):
        raise WireError(f"id {name[:80]!r} cannot be part of a topic; take 1 to 64 of the characters A-Z a-z 0-9 _ -")
    return name


def request_topic(gateway_id: str, device_id: str) -> str:
    """Where this device sends requests to this gateway."""
    return f"{ROOT}/gw/{check_id(gateway_id)}/req/{check_id(device_id)}"


def reply_topic(gateway_id: str, device_id: str) -> str:
    """Where this gateway answers this device."""
    return f"{ROOT}/dev/{check_id(device_id)}/rep/{check_id(gateway_id)}"


def presence_topic(gateway_id: str) -> str:
    """Where this gateway keeps its retained presence."""
    return f"{ROOT}/presence/{check_id(gateway_id)}"


def probe_topic(device_id: str) -> str:
    """Where this device publishes what nobody reads, to time the link to the broker."""
    return f"{ROOT}/probe/{check_id(device_id)}"


def request_filter(gateway_id: str) -> str:
    """What a gateway subscribes to: the requests of all devices to it."""
    return f"{ROOT}/gw/{check_id(gateway_id)}/req/+"


def reply_filter(device_id: str) -> str:
    """What a device subscribes to: the replies of all gateways to it."""
    return f"{ROOT}/dev/{check_id(device_id)}/rep/+"


def presence_filter() -> str:
    """What a device subscribes to: the presence of all gateways."""
    return f"{ROOT}/presence/+"


def parse_request_topic(topic: str) -> Route:
    """Who sent a request to whom; raises WireError on any other topic."""
    gateway_id, device_id = _parse(_REQUEST, topic, "a request's")
    return Route(gateway_id, device_id)


def parse_reply_topic(topic: str) -> Route:
    """Who answered whom; raises WireError on any other topic."""
    device_id, gateway_id = _parse(_REPLY, topic, "a reply's")
    return Route(gateway_id, device_id)


def parse_presence_topic(topic: str) -> str:
    """Which gateway's presence it is; raises WireError on any other topic."""
    return _parse(_PRESENCE, topic, "a presence's")[0]


def answer_topic(topic: str) -> str:
    """Where the request that came on ``topic`` is answered; raises WireError unless that is a request's topic."""
    route = parse_request_topic(topic)
    return reply_topic(route.gateway_id, route.device_id)


def _parse(pattern: re.Pattern[str], topic: str, whose: str) -> tuple[str, ...]:
    match = pattern.fullmatch(topic)
    if match is None:
        raise WireError(f"topic {topic[:200]!r} is not {whose} topic of wire version 0")
    return match.groups()
