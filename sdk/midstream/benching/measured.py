"""What was really measured of a bench's device, gateway and way between them, and the simulation's kind made of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from midstream.bundle import Bundle
from midstream.ladder import Ladder, MeasuredRung, Place
from midstream.partitioning import Candidate, MachineTimes, Table
from midstream.profiles import Profile
from midstream.simulating.scenario import Kind

Key = tuple[str | None, str]
"""Cut (None: the whole input) and codec."""


@dataclass(frozen=True, slots=True)
class Coded:
    """What a codec makes of what crosses at one place, over the bench's own inputs."""

    payload_bytes: float
    encode_ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds of the slowed device and of the gateway, by cut, and what a request takes beside these parts.

    ``own_ms`` is what the device does for each input beside running the model: analysis and planning. ``overhead_ms``
    is what a request on a link without limits takes beside the parts: broker, processes, the reply's decoding.
    ``reply_bytes`` are what comes back by cut, without headers, to raw requests. To others the gateway packs it, which
    no model of costs knows: into ``packed_share`` of that, in ``packing_ms``.
    """

    device: MachineTimes
    gateway: MachineTimes
    coded: Mapping[Key, Coded]
    reply_bytes: Mapping[str | None, float]
    packed_share: float
    packing_ms: float
    own_ms: float
    overhead_ms: float
    notes: tuple[str, ...] = field(default=())

    def kind(self, bundle: Bundle, board: Profile) -> Kind:
        """The bundle on this device: its times, payloads and encoding as measured, decoding as calibrated.

        What the device does for each input beside is added to its first step. Payloads are means, without a spread.
        Whoever plans believes what the real device does: payloads, encoding and replies as calibrated.
        """
        whole_ms = self.device.whole_ms + self.own_ms
        device = MachineTimes(
            whole_ms, {cut: ms + self.own_ms for cut, ms in self.device.head_ms.items()}, self.device.tail_ms
        )
        found = copy(bundle)
        found.early_exit = None
        found.ladder = None if bundle.ladder is None else _without_spread(bundle.ladder)
        bare = Kind.measured(found, board, device, self.gateway)
        found = copy(found)
        rows: dict[str | None, list[MeasuredRung]] = {}
        for each in _offers(bare):
            rows.setdefault(each.cut, []).append(self._rung(each, whole_ms))
        known = {} if bundle.ladder is None else {place.cut: place for place in bundle.ladder.places}
        places = tuple(
            replace(known[cut], rungs=tuple(rungs)) if cut in known else Place(cut, 0.0, tuple(rungs))
            for cut, rungs in rows.items()
        )
        found.ladder = (
            Ladder(bundle.digest.hex(), board.name, whole_ms, "measured", 1, True, 0.0, places)
            if bundle.ladder is None
            else replace(bundle.ladder, whole_ms=whole_ms, places=places)
        )
        true = Kind.measured(found, board, device, self.gateway)
        answered = [self._answered(each) if each.tail else each for each in true.made.table.candidates]
        made = replace(true.made, table=Table(answered, true.power))
        return replace(true, made=made, bundle=bare.bundle, options=bare.options)

    def _answered(self, candidate: Candidate) -> Candidate:
        reply_bytes, packs = self.reply_bytes[candidate.cut], candidate.codec != "raw"
        return replace(
            candidate,
            reply_bytes=round(reply_bytes * (self.packed_share if packs else 1.0)),
            decode_ms=candidate.decode_ms + packs * self.packing_ms,
        )

    def _rung(self, candidate: Candidate, whole_ms: float) -> MeasuredRung:
        """A candidate at its true cost, in the terms of a ladder that a machine of this speed has calibrated."""
        coded = self.coded.get((candidate.cut, candidate.codec))
        if coded is None:
            coded = Coded(candidate.payload_bytes, candidate.encode_ms)
        encode_ms = coded.encode_ms
        if candidate.cut is None:
            encode_ms += self.own_ms
        agreement = 0.0 if candidate.agreement is None else candidate.agreement
        decode_ms = candidate.decode_ms * whole_ms / self.gateway.whole_ms
        return MeasuredRung(
            candidate.codec, candidate.lossless, "none", agreement, coded.payload_bytes, 0.0, encode_ms, decode_ms
        )

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return {
            "device": _times_json(self.device),
            "gateway": _times_json(self.gateway),
            "coded": [
                {"cut": cut, "codec": codec, "payload_bytes": each.payload_bytes, "encode_ms": each.encode_ms}
                for (cut, codec), each in self.coded.items()
            ],
            "replies": [{"cut": cut, "bytes": size} for cut, size in self.reply_bytes.items()],
            "packed_share": self.packed_share,
            "packing_ms": self.packing_ms,
            "own_ms": self.own_ms,
            "overhead_ms": self.overhead_ms,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Measured:
        """The reverse."""
        return cls(
            MachineTimes(**found["device"]),
            MachineTimes(**found["gateway"]),
            {(each["cut"], each["codec"]): Coded(each["payload_bytes"], each["encode_ms"]) for each in found["coded"]},
            {each["cut"]: each["bytes"] for each in found["replies"]},
            found["packed_share"],
            found["packing_ms"],
            found["own_ms"],
            found["overhead_ms"],
            tuple(found["notes"]),
        )


def _without_spread(ladder: Ladder) -> Ladder:
    """The same, but that every input is like the mean."""
    places = [
        replace(place, rungs=tuple(replace(rung, spread=0.0, size=None) for rung in place.rungs))
        for place in ladder.places
    ]
    return replace(ladder, places=tuple(places))


def _offers(kind: Kind) -> list[Candidate]:
    """All that may be sent in one place and codec: what the bundle offers, and the fixed policies' pictures."""
    found = {(each.cut, each.codec): each for each in kind.made.table.candidates if each.tail}
    for codec in ("raw", "jpeg75", "jpeg90"):
        fixed = kind.input_in(codec)
        if fixed is not None:
            found.setdefault((None, codec), fixed)
    return list(found.values())


def _times_json(times: MachineTimes) -> dict[str, Any]:
    return {"whole_ms": times.whole_ms, "head_ms": dict(times.head_ms), "tail_ms": dict(times.tail_ms)}
