"""Fuzz the protocol: ``python -m hostile.wire [--frames N] [--seed N]``. Whatever comes is decoded or refused."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random, SystemRandom

from hostile.damage import damaged_bytes
from midstream.communication.checksum import sealed
from midstream.communication.chunks import MIN_CHUNK_BYTES, Reassembler, split
from midstream.communication.control import decode_control, encode_control
from midstream.communication.load import LoadReport, decode_load, encode_load
from midstream.communication.packs import decode_pack, encode_pack
from midstream.communication.presence import Presence, decode_presence, encode_presence
from midstream.communication.versions import decode_notice, encode_notice
from midstream.communication.wire import Limits, decode_reply, decode_request, encode_reply, encode_request
from midstream.errors import WireError

GOLDEN = Path(__file__).parent.parent / "golden"
MAX_BYTES = 64 << 10
LIMITS = Limits(MAX_BYTES, MAX_BYTES)


def _canonical(decode: Callable[[bytes], object], encode: Callable[..., bytes]) -> Callable[[bytes], None]:
    """Decodes a payload, and insists that what is taken has no other encoding."""

    def check(payload: bytes) -> None:
        if encode(decode(payload)) != payload:
            raise AssertionError("another encoding of the same message was taken")

    return check


class Target:
    """Everything that decodes what a peer sends."""

    def __init__(self) -> None:
        self.reassembler = Reassembler(MAX_BYTES, max_messages=8)
        self.decoders: dict[str, Callable[[bytes], object]] = {
            "request": _canonical(lambda payload: decode_request(payload, LIMITS), encode_request),
            "reply": _canonical(lambda payload: decode_reply(payload, LIMITS), encode_reply),
            "pack": _canonical(decode_pack, lambda parts: encode_pack([bytes(part) for part in parts])),
            "chunk": self._chunk,
            "control": _canonical(decode_control, encode_control),
            "notice": _canonical(decode_notice, encode_notice),
            "presence": decode_presence,
            "load": decode_load,
        }
        chunks = {path.name: path.read_bytes() for path in sorted(GOLDEN.iterdir())}
        presence = Presence("gw", (bytes(32),), knows=("zstd",), tail_ms={bytes(32).hex(): {"whole": 1.5, "c1": 2.0}})
        self.sources = {
            "request": [chunks["request-v1.bin"]],
            "reply": [chunks["reply-v1.bin"], chunks["partial-v1.bin"]],
            "pack": [chunks["pack-v1.bin"]],
            "chunk": [chunks["chunk-v1.bin"], *split(bytes(range(256)) * 20, bytes(16), MIN_CHUNK_BYTES, parity=2)],
            "control": [chunks["missing-v1.bin"], chunks["cancel-v1.bin"], chunks["taken-v1.bin"]],
            "notice": [chunks["versions.bin"]],
            "presence": [encode_presence(presence)],
            "load": [encode_load(LoadReport("gw", "run", 3, 2, 12.5, 0.5, 1 << 30, {bytes(32).hex(): {"c1": 2.0}}))],
        }

    def frame(self, random: Random) -> tuple[str, bytes]:
        """A kind and a payload for its decoder: a damaged one, mostly with a right checksum, or any bytes."""
        kind = random.choice(list(self.decoders))
        if random.random() < 0.02:
            return kind, random.randbytes(random.choice((0, 1, 4, 36, 37, 38, 300)))
        source = kind if random.random() < 0.97 else random.choice(list(self.sources))
        payload = random.choice(self.sources[source])
        if random.random() < 0.8 and source not in ("presence", "load"):
            return kind, sealed(damaged_bytes(payload[:-4], random))
        return kind, damaged_bytes(payload, random)

    def outcome(self, kind: str, payload: bytes) -> str:
        """What became of it. Raises whatever else than WireError a decoder raises."""
        try:
            self.decoders[kind](payload)
        except WireError:
            return "refused"
        return "taken"

    def _chunk(self, payload: bytes) -> None:
        whole = self.reassembler.add("peer", payload)
        assert whole is None or len(whole) <= MAX_BYTES
        assert self.reassembler.pending_messages <= 8
        assert self.reassembler.pending_bytes <= 4 * MAX_BYTES


def run(frames: int, seed: int) -> Counter[tuple[str, str]]:
    """Decode so many frames; counts by kind and outcome. Names the frame that brought something else."""
    target, random = Target(), Random(seed)
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(frames):
        kind, payload = target.frame(random)
        try:
            counts[kind, target.outcome(kind, payload)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, frame {number}, {kind}: {payload.hex()}") from error
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="hostile.wire", description="Fuzz the protocol.")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    options = parser.parse_args()
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    counts = run(options.frames, seed)
    print(f"seed {seed}: " + ", ".join(f"{kind} {what} {count}" for (kind, what), count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
