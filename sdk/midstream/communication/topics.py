"""Topics: their names, and reading them strictly. Who may write and read what, `roles` says.

The broker's access control decides who may write to a topic, so a topic says who sent what lies on it. The
reply topic is always derived from the request's own, never named by a peer.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, Literal

from midstream.communication.framing import WIRE_VERSION
from midstream.errors import WireError

ROOT: Final = f"midstream/{WIRE_VERSION}"
# What says which versions a gateway speaks is found by devices of every version.
PRESENCE_PREFIX: Final = "midstream/presence/"
LOAD_PREFIX: Final = "midstream/load/"
MIN_SECRET_CHARACTERS: Final = 16

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VERSION = r"midstream/(0|[1-9][0-9]{0,2})"
_REQUEST = re.compile(rf"{_VERSION}/(gw|pool)/({_ID.pattern})/req/({_ID.pattern})")
_FORWARD = re.compile(rf"{_VERSION}/gw/({_ID.pattern})/fwd/({_ID.pattern})/({_ID.pattern})")
_DEVICE_CONTROL = re.compile(rf"{_VERSION}/(gw|pool)/({_ID.pattern})/ctl/({_ID.pattern})")
_PEER_CONTROL = re.compile(rf"{_VERSION}/gw/({_ID.pattern})/peer/({_ID.pattern})")
_REPLY = re.compile(rf"{_VERSION}/dev/({_ID.pattern})/(?:rep|urg)/({_ID.pattern})")
_GATEWAY_CONTROL = re.compile(rf"{_VERSION}/dev/({_ID.pattern})/ctl/({_ID.pattern})")
_PRESENCE = re.compile(rf"{PRESENCE_PREFIX}({_ID.pattern})")
_LOAD = re.compile(rf"{LOAD_PREFIX}({_ID.pattern})")


@dataclass(frozen=True, slots=True)
class Route:
    """The two ends of a request or a reply, and the wire version that the topic is of."""

    gateway_id: str
    device_id: str
    version: int = WIRE_VERSION


@dataclass(frozen=True, slots=True)
class Inbound:
    """On what a gateway got a message.

    "request" and "control" come from the device; "forward" from gateway ``sender_id``, for the device; "peer", control
    messages, from gateway ``sender_id``, for no device. With ``pool_id`` it was sent to that pool, else to a gateway.
    """

    kind: Literal["request", "forward", "control", "peer"]
    version: int
    sender_id: str
    device_id: str = ""
    pool_id: str = ""


def check_id(name: str) -> str:
    """The id of a gateway, a pool or a device, as it is; raises WireError unless it is [A-Za-z0-9_-]{1,64}."""
    if not _ID.fullmatch(name):
        raise WireError(f"id {name[:80]!r} cannot be part of a topic; take 1 to 64 of the characters A-Z a-z 0-9 _ -")
    return name


def request_topic(gateway_id: str, device_id: str) -> str:
    """Where this device sends requests to this gateway."""
    return f"{ROOT}/gw/{check_id(gateway_id)}/req/{check_id(device_id)}"


def pool_request_topic(pool_id: str, device_id: str) -> str:
    """Where this device sends requests of a single chunk to whoever of this pool takes them."""
    return f"{ROOT}/pool/{check_id(pool_id)}/req/{check_id(device_id)}"


def forward_topic(gateway_id: str, device_id: str, sender_id: str) -> str:
    """Where gateway ``sender_id`` passes a request of this device on to this gateway."""
    return f"{ROOT}/gw/{check_id(gateway_id)}/fwd/{check_id(device_id)}/{check_id(sender_id)}"


def reply_topic(gateway_id: str, device_id: str, version: int = WIRE_VERSION) -> str:
    """Where this gateway answers this device."""
    return f"midstream/{version}/dev/{check_id(device_id)}/rep/{check_id(gateway_id)}"


def urgent_reply_topic(gateway_id: str, device_id: str) -> str:
    """Where this gateway answers this device's critical requests."""
    return f"{ROOT}/dev/{check_id(device_id)}/urg/{check_id(gateway_id)}"


def gateway_control_topic(gateway_id: str, device_id: str) -> str:
    """Where this device sends control messages to this gateway."""
    return f"{ROOT}/gw/{check_id(gateway_id)}/ctl/{check_id(device_id)}"


def pool_control_topic(pool_id: str, device_id: str) -> str:
    """Where this device sends control messages to every gateway of this pool."""
    return f"{ROOT}/pool/{check_id(pool_id)}/ctl/{check_id(device_id)}"


def device_control_topic(device_id: str, gateway_id: str) -> str:
    """Where this gateway sends control messages to this device."""
    return f"{ROOT}/dev/{check_id(device_id)}/ctl/{check_id(gateway_id)}"


def peer_control_topic(gateway_id: str, sender_id: str) -> str:
    """Where gateway ``sender_id`` sends this gateway control messages, about what one of them has passed on."""
    return f"{ROOT}/gw/{check_id(gateway_id)}/peer/{check_id(sender_id)}"


def presence_topic(gateway_id: str) -> str:
    """Where this gateway keeps its retained presence."""
    return f"{PRESENCE_PREFIX}{check_id(gateway_id)}"


def load_topic(gateway_id: str) -> str:
    """Where this gateway keeps its retained load report."""
    return f"{LOAD_PREFIX}{check_id(gateway_id)}"


def probe_topic(device_id: str) -> str:
    """Where this device publishes what nobody reads, to time the link to the broker."""
    return f"{ROOT}/probe/{check_id(device_id)}"


def request_filter(gateway_id: str) -> str:
    """What a gateway subscribes to: requests to it, in any version, so that it can say which ones it speaks."""
    return f"midstream/+/gw/{check_id(gateway_id)}/req/+"


def gateway_filters(gateway_id: str) -> tuple[str, ...]:
    """What else a gateway subscribes to: what is passed on to it, and control messages of devices and gateways."""
    own = f"{ROOT}/gw/{check_id(gateway_id)}"
    return f"{own}/fwd/+/+", f"{own}/ctl/+", f"{own}/peer/+"


def pool_filters(pool_id: str, secret: str) -> tuple[str, str]:
    """What a member of a pool subscribes to: requests, shared with the other members, and control messages, not shared.

    The group's name follows from ``secret``, which all members have and nobody else: whoever could guess it could join
    the group and swallow requests. Raises WireError where it has fewer than 16 characters.
    """
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise WireError(
            f"the secret of pool {pool_id!r} has {len(secret)} characters; take {MIN_SECRET_CHARACTERS} random ones or "
            "more, the same for all of its gateways"
        )
    group = hmac.new(secret.encode(), f"pool {check_id(pool_id)}".encode(), hashlib.sha256).hexdigest()[:32]
    return f"$share/{group}/{ROOT}/pool/{pool_id}/req/+", f"{ROOT}/pool/{pool_id}/ctl/+"


def reply_filter(device_id: str) -> str:
    """What a device subscribes to: the replies of all gateways to it."""
    return f"{ROOT}/dev/{check_id(device_id)}/rep/+"


def urgent_reply_filter(device_id: str) -> str:
    """What a device subscribes to on its second connection: the replies of all gateways to its critical requests."""
    return f"{ROOT}/dev/{check_id(device_id)}/urg/+"


def device_control_filter(device_id: str) -> str:
    """What a device subscribes to: the control messages of all gateways to it."""
    return f"{ROOT}/dev/{check_id(device_id)}/ctl/+"


def presence_filter() -> str:
    """What a device subscribes to: the presence of all gateways."""
    return f"{PRESENCE_PREFIX}+"


def load_filter() -> str:
    """What a device subscribes to: the load reports of all gateways."""
    return f"{LOAD_PREFIX}+"


def parse_inbound(topic: str) -> Inbound:
    """Who sent a gateway what, in which version; raises WireError on any topic that is not for gateways."""
    if match := _REQUEST.fullmatch(topic):
        version, place, receiver, device = match.groups()
        return Inbound("request", int(version), device, device, receiver if place == "pool" else "")
    if match := _FORWARD.fullmatch(topic):
        version, _, device, sender = match.groups()
        return Inbound("forward", int(version), sender, device)
    if match := _DEVICE_CONTROL.fullmatch(topic):
        version, place, receiver, device = match.groups()
        return Inbound("control", int(version), device, device, receiver if place == "pool" else "")
    version, _, sender = _parse(_PEER_CONTROL, topic, "a gateway's")
    return Inbound("peer", int(version), sender)


def parse_request_topic(topic: str) -> Route:
    """Which device sent a request to which gateway; raises WireError on any other topic, a pool's too."""
    version, place, gateway_id, device_id = _parse(_REQUEST, topic, "a request's")
    if place != "gw":
        raise WireError(f"topic {topic[:200]!r} is a pool's, not a gateway's")
    return Route(gateway_id, device_id, int(version))


def parse_reply_topic(topic: str) -> Route:
    """Who answered whom; raises WireError on any other topic."""
    version, device_id, gateway_id = _parse(_REPLY, topic, "a reply's")
    return Route(gateway_id, device_id, int(version))


def is_device_control(topic: str) -> bool:
    """Whether it is a topic of control messages of gateways to devices."""
    return _GATEWAY_CONTROL.fullmatch(topic) is not None


def parse_device_control_topic(topic: str) -> Route:
    """Which gateway sent which device a control message; raises WireError on any other topic."""
    version, device_id, gateway_id = _parse(_GATEWAY_CONTROL, topic, "a control message's")
    return Route(gateway_id, device_id, int(version))


def parse_presence_topic(topic: str) -> str:
    """Which gateway's presence it is; raises WireError on any other topic."""
    return _parse(_PRESENCE, topic, "a presence's")[0]


def parse_load_topic(topic: str) -> str:
    """Which gateway's load report it is; raises WireError on any other topic."""
    return _parse(_LOAD, topic, "a load report's")[0]


def answer_topic(topic: str, gateway_id: str) -> str:
    """Where this gateway answers what came on ``topic``: a request to it or to a pool, or one that was passed on.

    Raises WireError on any other topic.
    """
    inbound = parse_inbound(topic)
    if inbound.kind not in ("request", "forward"):
        raise WireError(f"topic {topic[:200]!r} is not a request's topic")
    return reply_topic(gateway_id, inbound.device_id, inbound.version)


def _parse(pattern: re.Pattern[str], topic: str, whose: str) -> tuple[str, ...]:
    match = pattern.fullmatch(topic)
    if match is None:
        raise WireError(f"topic {topic[:200]!r} is not {whose} topic")
    return match.groups()
