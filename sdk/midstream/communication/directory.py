"""Which gateways there are, how busy each is, and whom to ask, as devices and other gateways know it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from midstream.communication.load import LoadReport, decode_load
from midstream.communication.presence import Presence, decode_presence
from midstream.communication.topics import LOAD_PREFIX, PRESENCE_PREFIX, parse_load_topic, parse_presence_topic
from midstream.communication.versions import common_version

MAX_GATEWAYS = 256
WHOLE_KEY = "whole"


def rendezvous(gateway_id: str, request_id: bytes) -> bytes:
    """What tells gateways apart for a request, 8 bytes: the same for the same two, spread evenly over all."""
    return hashlib.blake2b(gateway_id.encode(), key=request_id, digest_size=8).digest()


def is_announcement(topic: str) -> bool:
    """Whether a message on this topic is for a `Directory`."""
    return topic.startswith((PRESENCE_PREFIX, LOAD_PREFIX))


class Directory:
    """The presences and load reports of up to 256 gateways. Not thread-safe.

    Of times by cut it keeps those of one bundle, ``digest``, or none: others are of no use here, and may be many.
    """

    def __init__(self, digest: bytes | None = None) -> None:
        self._digest = "" if digest is None else digest.hex()
        self.gateways: dict[str, Presence] = {}
        self.loads: dict[str, LoadReport] = {}
        self._heard_s: dict[str, float] = {}

    def hear(self, topic: str, payload: bytes, now_s: float = 0.0) -> str | None:
        """Take in an announcement: the id of the gateway that is gone by it, if one is. Raises WireError."""
        if topic.startswith(LOAD_PREFIX):
            self._hear_load(parse_load_topic(topic), decode_load(payload), now_s)
            return None
        gateway_id, presence = parse_presence_topic(topic), decode_presence(payload)
        if presence is None:
            self.gateways.pop(gateway_id, None)
            self._forget_load(gateway_id)
            return gateway_id
        if gateway_id in self.gateways or len(self.gateways) < MAX_GATEWAYS:
            self.gateways[gateway_id] = replace(presence, gateway_id=gateway_id, tail_ms=self._of_use(presence.tail_ms))
        return None

    def clear(self) -> None:
        """Nothing is known any more."""
        self.gateways.clear()
        self.loads.clear()
        self._heard_s.clear()

    def report(self, gateway_id: str, now_s: float) -> LoadReport | None:
        """A gateway's last load report, as it is expected to be by now; None without one."""
        report = self.loads.get(gateway_id)
        return None if report is None else report.after(now_s - self._heard_s[gateway_id])

    def able(self, digest: bytes) -> list[Presence]:
        """The gateways that have this bundle and a wire version in common with this end."""
        return [
            gateway
            for gateway in self.gateways.values()
            if digest in gateway.bundles and common_version(gateway.wire_versions) is not None
        ]

    def wait_ms(self, gateway_id: str, digest: bytes, cut: str | None) -> float:
        """What a request at this cut (None or empty: the whole input) would wait there by its last report; else 0."""
        report = self.loads.get(gateway_id)
        return 0.0 if report is None else report.wait_at(digest.hex(), cut or WHOLE_KEY)

    def least_busy(self, gateways: Iterable[Presence], request_id: bytes) -> Presence | None:
        """Where a request waits least; of those where it waits equally long, each gets its share of the requests.

        These are told apart by rendezvous hashing (Thaler and Ravishankar, 1998): of the same gateways, the same
        request id always finds the same one.
        """

        def order(gateway: Presence) -> tuple[float, float, bytes]:
            report = self.loads.get(gateway.gateway_id)
            digest = rendezvous(gateway.gateway_id, request_id)
            return (0.0, 0.0, digest) if report is None else (report.wait_ms, report.load, digest)

        return min(gateways, key=order, default=None)

    def members(self, pool_id: str) -> list[Presence]:
        """The gateways that announce this pool."""
        return [gateway for gateway in self.gateways.values() if pool_id in gateway.pools]

    def pool_of(self, gateway: Presence, digest: bytes) -> str | None:
        """A pool of this gateway's that can be asked in its stead; None where there is none.

        It has two members or more, and each of them can be asked the same: whoever takes a request must understand it.
        """
        for pool_id in gateway.pools:
            members = self.members(pool_id)
            if len(members) > 1 and len(self.alike(gateway, digest, members)) == len(members):
                return pool_id
        return None

    def alike(self, gateway: Presence, digest: bytes, others: Sequence[Presence] | None = None) -> list[Presence]:
        """Of the others, or of all, those that understand all that this gateway does of this bundle."""
        bases = gateway.bases.get(digest.hex())
        return [
            other
            for other in self.able(digest)
            if (others is None or other in others)
            and set(gateway.knows) <= set(other.knows)
            and other.bases.get(digest.hex()) == bases
        ]

    def _hear_load(self, gateway_id: str, report: LoadReport | None, now_s: float) -> None:
        if report is None:
            self._forget_load(gateway_id)
        elif (gateway_id in self.loads or len(self.loads) < MAX_GATEWAYS) and report.follows(
            self.loads.get(gateway_id)
        ):
            self.loads[gateway_id] = replace(report, waits_ms=self._of_use(report.waits_ms))
            self._heard_s[gateway_id] = now_s

    def _forget_load(self, gateway_id: str) -> None:
        self.loads.pop(gateway_id, None)
        self._heard_s.pop(gateway_id, None)

    def _of_use(self, times: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
        return {digest: of_cuts for digest, of_cuts in times.items() if digest == self._digest}
