"""Parity chunks: of a message in k parts, any k of the parts and their parity parts give all of it.

Reed–Solomon in GF(2⁸) by zfec, the extra ``fec``: systematic, from Vandermonde's matrix (Rizzo, "Effective erasure
codes for reliable computer communication protocols", 1997). ``docs/protocol.md`` states the arithmetic. This module
alone imports zfec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from midstream.errors import MissingExtraError

FEC_LIBRARY = "fec"
# The code has no more of both, and rebuilding costs as many passes over the message as parts are rebuilt.
MAX_CODED_PARTS = 256
MAX_PARITY = 64


@cache
def fec_available() -> bool:
    """Whether this machine can make and use parity chunks."""
    return find_spec("zfec") is not None


def parity_parts(parts: Sequence[bytes | memoryview], count: int) -> list[bytes]:
    """The first ``count`` parity parts of these, which all have one length.

    Raises MissingExtraError without zfec.
    """
    coder = _zfec().Encoder(len(parts), len(parts) + count)
    return [bytes(part) for part in coder.encode(list(parts), list(range(len(parts), len(parts) + count)))]


def rebuilt(parts: Mapping[int, bytes | memoryview], count: int) -> list[bytes]:
    """All ``count`` data parts, from as many data and parity parts of one length, by index; parity begins at ``count``.

    Raises MissingExtraError without zfec.
    """
    coder = _zfec().Decoder(count, max(parts) + 1)
    return [bytes(part) for part in coder.decode(list(parts.values()), list(parts))]


def _zfec() -> Any:
    if not fec_available():
        raise MissingExtraError("zfec", "fec", "forward error correction")
    import zfec

    return zfec
