"""Roles: what each client of a broker with accounts may publish to and subscribe to. The one table of it.

The topic says who sent a message, so these rights are what keeps one client from speaking for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from midstream.communication import topics

Role = Literal["device", "gateway"]

_SHARED: Final = "$share/"


@dataclass(frozen=True, slots=True)
class Rights:
    """Topics, or filters over topics, that a client may ``publish`` to, and filters that it may ``subscribe`` to.

    A subscription has to be written as it stands here: a narrower one is not granted either. One that is shared,
    ``$share/GROUP/FILTER``, is granted in this group alone.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    @property
    def receive(self) -> tuple[str, ...]:
        """The filters over the topics whose messages may reach the client."""
        return tuple(_unshared(topic_filter) for topic_filter in self.subscribe)

    def __or__(self, other: Rights) -> Rights:
        return Rights(self.publish + other.publish, self.subscribe + other.subscribe)


def of_any(topic_of: Callable[[str], str]) -> str:
    """The filter over ``topic_of(id)`` for every id: + where the topics of two ids differ."""
    one, other = topic_of("a").split("/"), topic_of("b").split("/")
    return "/".join(level if level == its else "+" for level, its in zip(one, other, strict=True))


def of_any_version(topic_filter: str) -> str:
    """The filter over the same topics of all wire versions, so that rights outlive an update of one end."""
    return topic_filter.replace(f"{topics.ROOT}/", "midstream/+/", 1)


def _device(name: str) -> Rights:
    publish = (
        of_any(lambda gateway: topics.request_topic(gateway, name)),
        of_any(lambda gateway: topics.gateway_control_topic(gateway, name)),
        of_any(lambda pool: topics.pool_request_topic(pool, name)),
        of_any(lambda pool: topics.pool_control_topic(pool, name)),
        topics.probe_topic(name),
    )
    return Rights(
        publish=tuple(map(of_any_version, publish)),
        subscribe=(
            topics.presence_filter(),
            topics.load_filter(),
            topics.reply_filter(name),
            topics.urgent_reply_filter(name),
            topics.device_control_filter(name),
        ),
    )


def _gateway(name: str) -> Rights:
    publish = (
        topics.presence_topic(name),
        topics.load_topic(name),
        of_any(lambda device: topics.reply_topic(name, device)),
        of_any(lambda device: topics.urgent_reply_topic(name, device)),
        of_any(lambda device: topics.device_control_topic(device, name)),
        of_any(lambda gateway: of_any(lambda device: topics.forward_topic(gateway, device, name))),
        of_any(lambda gateway: topics.peer_control_topic(gateway, name)),
    )
    return Rights(
        publish=tuple(map(of_any_version, publish)),
        subscribe=(
            topics.presence_filter(),
            topics.load_filter(),
            topics.request_filter(name),
            *topics.gateway_filters(name),
        ),
    )


_TABLE: Final[Mapping[Role, Callable[[str], Rights]]] = {"device": _device, "gateway": _gateway}
ROLES: Final[tuple[Role, ...]] = tuple(_TABLE)


def rights(role: Role, name: str) -> Rights:
    """What the client of this name and role may do; raises WireError where the name cannot be part of a topic."""
    return _TABLE[role](topics.check_id(name))


def pool_member(pool_id: str, secret: str) -> Rights:
    """What a gateway of this pool may do besides; raises WireError as `topics.pool_filters` does."""
    return Rights(subscribe=topics.pool_filters(pool_id, secret))


def _unshared(topic_filter: str) -> str:
    return topic_filter.split("/", 2)[2] if topic_filter.startswith(_SHARED) else topic_filter
