"""Whom a device asks: which gateways run a plan, whose pool is asked in their stead, who is asked after one is lost.

Time is passed in, in seconds on one clock that only moves forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from midstream.communication.breaker import Breaker
from midstream.communication.destination import Destination, to_gateway
from midstream.communication.directory import WHOLE_KEY, Directory, rendezvous
from midstream.communication.presence import Presence
from midstream.communication.versions import common_version, disagreement

_NAMED = 3
_LEAST_MS = 0.01


@dataclass(frozen=True, slots=True)
class Route:
    """The gateways that run a plan's stages, in order; none where there are none, for the reason in ``problem``.

    ``directly``: these and no others are meant. ``further`` are others that stages could be given to as well.
    """

    gateways: tuple[Presence, ...]
    problem: str = ""
    directly: bool = False
    further: tuple[Presence, ...] = ()

    @property
    def first(self) -> Presence | None:
        """Whom the device sends to."""
        return self.gateways[0] if self.gateways else None

    def by_way_of(self, names: Sequence[str]) -> Route:
        """The same over these of its gateways, by id, in this order, and no others."""
        known = {gateway.gateway_id: gateway for gateway in (*self.gateways, *self.further)}
        return Route(tuple(known[name] for name in names), directly=True)


class Gateways(Directory):
    """A `Directory` that knows, too, who has failed lately and who was heard. Not thread-safe.

    Who has failed rests until it answers a request, or a probe; who comes anew does not rest.
    """

    def __init__(self, digest: bytes) -> None:
        super().__init__(digest)
        self._digest_bytes = digest
        self._breakers: dict[str, Breaker] = {}
        self._said_s: dict[str, float] = {}

    def hear(self, topic: str, payload: bytes, now_s: float = 0.0) -> str | None:
        """As `Directory.hear`. A gateway that was not there is another one, or on another connection."""
        before = set(self.gateways)
        gone = super().hear(topic, payload, now_s)
        for gateway_id in self.gateways.keys() - before:
            self._breakers.pop(gateway_id, None)
        return gone

    def clear(self) -> None:
        """No gateway is known any more; who has failed still has."""
        super().clear()
        self._said_s.clear()

    def serving(self) -> list[Presence]:
        """The gateways that can be asked about this bundle."""
        return self.able(self._digest_bytes)

    def said(self, gateway_id: str, now_s: float) -> None:
        """This gateway has said something to this device."""
        if gateway_id in self.gateways:
            self._said_s[gateway_id] = now_s

    def failed(self, gateway_id: str, now_s: float) -> None:
        """This gateway has not answered: it rests, twice as long as the last time, until it answers a probe."""
        self._breakers.setdefault(gateway_id, Breaker()).failed(now_s)

    def answered(self, gateway_id: str) -> None:
        """This gateway has answered."""
        self._breakers.pop(gateway_id, None)

    def rests(self, gateway_id: str) -> bool:
        """Whether this gateway is left alone now."""
        breaker = self._breakers.get(gateway_id)
        return breaker is not None and not breaker.closed

    def to_probe(self, now_s: float) -> list[str]:
        """The gateways that have rested and are to be probed now, which counts as done."""
        if not self._breakers:
            return []
        due = [
            one.gateway_id
            for one in self.serving()
            if one.gateway_id in self._breakers and self._breakers[one.gateway_id].probe_due(now_s)
        ]
        for gateway_id in due:
            self._breakers[gateway_id].probed(now_s)
        return due

    def echoed(self, gateway_id: str) -> bool:
        """This gateway has answered a probe; whether it rests no longer because of that."""
        breaker = self._breakers.get(gateway_id)
        return breaker is not None and breaker.echoed()

    def resting_s(self, now_s: float) -> float | None:
        """When the first of those that serve this bundle is probed, in seconds; None where none rests."""
        return min(
            (self._breakers[one.gateway_id].rest_left_s(now_s) for one in self.serving() if self.rests(one.gateway_id)),
            default=None,
        )

    def free_route(self, request_id: bytes, most_further: int) -> Route:
        """A gateway for an input whose plan is free, and so many others that stages can be given to.

        Those that the first one's pool has are no others: whoever asks the first may be answered by them.
        """
        there = [gateway for gateway in self.serving() if not self.rests(gateway.gateway_id)]
        first = self._by_share(there, request_id)
        if first is None or not most_further:
            return Route(() if first is None else (first,))
        pool = set(first.pools)
        left = [other for other in there if other is not first and not pool.intersection(other.pools)]
        # The quickest, whatever waits there: so they are mostly the same, and so are the candidates that are kept.
        left.sort(key=lambda gateway: (self._whole_ms(gateway), gateway.gateway_id))
        return Route((first,), further=tuple(left[:most_further]))

    def _whole_ms(self, gateway: Presence) -> float:
        """What the whole model takes there alone, as it says."""
        return gateway.tail_ms.get(self._digest, {}).get(WHOLE_KEY, 1.0)

    def _by_share(self, gateways: Sequence[Presence], request_id: bytes) -> Presence | None:
        """One of them for a request, each as often as 1 / (t³ · (t + w)²) says, of ms for the whole model and to wait.

        One that takes twice as long gets hardly any (one of 33). Waits count for less, as reports are old: devices that
        have all read the same ones would rush to the same gateway. Weighted rendezvous hashing (Schindelhauer and
        Schomaker, "Weighted Distributed Hash Tables", 2005): the same request id always finds the same one.
        """

        if len(gateways) == 1:
            return gateways[0]

        def race(gateway: Presence) -> float:
            takes_ms = max(_LEAST_MS, self._whole_ms(gateway))
            wait_ms = self.wait_ms(gateway.gateway_id, self._digest_bytes, None)
            drawn = (int.from_bytes(rendezvous(gateway.gateway_id, request_id)) + 1) / (1 << 64)
            return -math.log(drawn) * takes_ms**3 * (takes_ms + wait_ms) ** 2

        return min(gateways, key=race, default=None)

    def route(self, stages: int, machines: Sequence[str] | None, request_id: bytes, *, forced: bool) -> Route:
        """The gateways for so many stages after the device's: those named, else the least busy, all of them different.

        Only forced plans go to gateways that rest after a failure, and only where there are too few others.
        """
        serving = self.serving()
        if machines is not None:
            by_id = {gateway.gateway_id: gateway for gateway in serving}
            missing = [name for name in machines if name not in by_id]
            if missing:
                return Route((), f"gateway {missing[0]} is not there, or has not this bundle" if serving else "")
            return Route(tuple(by_id[name] for name in machines), directly=True)
        left = [gateway for gateway in serving if not self.rests(gateway.gateway_id)]
        if forced and len(left) < stages:
            left = list(serving)
        found: tuple[Presence, ...] = ()
        while len(found) < stages and (chosen := self.least_busy(left, request_id)) is not None:
            found += (chosen,)
            left.remove(chosen)
        if len(found) == stages:
            return Route(found, directly=stages > 1)
        few = f"{stages} stages need as many gateways with this bundle; there are {len(serving)}"
        return Route((), few if stages > 1 and serving else "")

    def pool(self, gateway: Presence) -> tuple[str, tuple[str, ...]] | None:
        """The pool to be asked in this gateway's stead, and its members; None where there is none, or one rests."""
        pool_id = self.pool_of(gateway, self._digest_bytes)
        if pool_id is None:
            return None
        members = tuple(member.gateway_id for member in self.members(pool_id))
        return None if any(self.rests(member) for member in members) else (pool_id, members)

    def instead(
        self, gateway: Presence, request_id: bytes, asked: Sequence[Destination], since_s: float
    ) -> tuple[Destination | None, bool]:
        """A gateway for a request that was lost where it was ``asked``, None where there is none.

        Best is one that was heard since the request was sent; whether this one was.
        """
        left = self._untried(gateway, asked)
        heard = [other for other in left if self._said_s.get(other.gateway_id, since_s) > since_s]
        chosen = self.least_busy(heard or left, request_id)
        if chosen is None:
            return None, False
        before = frozenset().union(*(destination.answerers for destination in asked))
        return to_gateway(chosen.gateway_id, before=before), bool(heard)

    def silent(self, gateway_ids: frozenset[str], since_s: float) -> bool:
        """Whether none of these has said anything to this device since then."""
        return all(self._said_s.get(gateway_id, since_s) <= since_s for gateway_id in gateway_ids)

    def another(self, gateway: Presence, asked: Sequence[Destination], bearers: frozenset[str]) -> bool:
        """Whether a request that these have, and that was ``asked`` before, could go to yet another gateway."""
        return any(other.gateway_id not in bearers for other in self._untried(gateway, asked))

    def _untried(self, gateway: Presence, asked: Sequence[Destination]) -> list[Presence]:
        """The gateways that understand what this one does, do not rest, and were not asked by name."""
        tried = {destination.gateway_id for destination in asked}
        return [
            other
            for other in self.alike(gateway, self._digest_bytes)
            if other.gateway_id not in tried and not self.rests(other.gateway_id)
        ]

    def absence(self, now_s: float) -> str | None:
        """Why none of those that are there can be asked, for a person; None where none is there."""
        rest_s = self.resting_s(now_s)
        if rest_s is not None:
            return f"the gateway rests for {rest_s:.1f} s after a failure, and until it answers a probe"
        foreign = [one for one in self.gateways.values() if common_version(one.wire_versions) is None]
        if foreign:
            first = min(foreign, key=lambda one: one.gateway_id)
            return f"no gateway can be asked: {disagreement(first.gateway_id, first.wire_versions)}"
        if self.gateways:
            return f"no gateway has this bundle; there are {', '.join(sorted(self.gateways)[:_NAMED])} with others"
        return None
