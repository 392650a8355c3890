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


def _device(name: str) -> Rights:
    return Rights(
        publish=(of_any(lambda gateway: topics.request_topic(gateway, name)), topics.probe_topic(name)),
        subscribe=(topics.presence_filter(), topics.reply_filter(name)),
    )


def _gateway(name: str) -> Rights:
    return Rights(
        publish=(topics.presence_topic(name), of_any(lambda device: topics.reply_topic(name, device))),
        subscribe=(topics.request_filter(name),),
    )


_TABLE: Final[Mapping[Role, Callable[[str], Rights]]] = {"device": _device, "gateway": _gateway}
ROLES: Final[tuple[Role, ...]] = tuple(_TABLE)


def rights(role: Role, name: str) -> Rights:
    """What the client of this name and role may do; raises WireError where the name cannot be part of a topic."""
    return _TABLE[role](topics.check_id(name))


def _unshared(topic_filter: str) -> str:
    return topic_filter.split("/", 2)[2] if topic_filter.startswith(_SHARED) else topic_filter
