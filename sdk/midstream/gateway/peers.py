"""The other gateways, as one that passes requests on knows them: who can run the next stage."""

from __future__ import annotations

import logging
import threading

from midstream.communication.codecs import ZSTD_LIBRARY, find_codec
from midstream.communication.directory import Directory
from midstream.communication.presence import Presence
from midstream.communication.wire import Request, Runner, Stage
from midstream.errors import WireError

_log = logging.getLogger("midstream.gateway")


class Peers:
    """The gateways that have announced themselves. Thread-safe.

    ``bases`` are this gateway's own (`Bundle.bases_id`) by bundle digest.
    """

    def __init__(self, gateway_id: str, bases: dict[bytes, str | None]) -> None:
        self._gateway_id = gateway_id
        self._bases = bases
        self._lock = threading.Lock()
        self._directory = Directory()

    def hear(self, topic: str, payload: bytes) -> None:
        """Take in an announcement."""
        try:
            with self._lock:
                self._directory.hear(topic, payload)
        except WireError as error:
            _log.warning("ignored a message on %s: %s", topic, error)

    def forget(self) -> None:
        """The broker is lost, and what it has kept comes again with it."""
        with self._lock:
            self._directory.clear()

    def runner(self, request: Request) -> tuple[Presence | None, str]:
        """Who is to run the stage after this gateway's own; where there is nobody, why."""
        stage, digest = request.onward[0], request.bundle_digest
        with self._lock:
            there = self._named(stage)
            able = [peer for peer in self._directory.able(digest) if peer in there]
            if find_codec(request.codec).family == "klt":
                able = [peer for peer in able if peer.bases.get(digest.hex()) == self._bases.get(digest)]
            # A pool is asked in the person of another member, where there is one.
            others = [peer for peer in able if peer.gateway_id != self._gateway_id]
            chosen = self._directory.least_busy(others or able, request.request_id)
        what = f"{stage.runner.name.lower()} {stage.runner_id}, which is to run the stage from cut {stage.cut!r} on,"
        if not there:
            return None, f"{what} is not there"
        return chosen, "" if chosen is not None else f"{what} has not what this bundle needs"

    def _named(self, stage: Stage) -> list[Presence]:
        if stage.runner is Runner.POOL:
            return self._directory.members(stage.runner_id)
        peer = self._directory.gateways.get(stage.runner_id)
        return [] if peer is None else [peer]


def knows_zstd(peer: Presence) -> bool:
    """Whether it can be sent Zstandard frames."""
    return ZSTD_LIBRARY in peer.knows
