"""The codec ladder: what each rung makes of a tensor, and back. All of it is pure."""

from midstream.communication.codecs.coding import codes, decode, encode, kept_shares
from midstream.communication.codecs.entropy import zstd_available
from midstream.communication.codecs.rungs import PICTURE_RUNGS, SOUND_RUNGS, TENSOR_RUNGS, Codec, find_codec

__all__ = [
    "PICTURE_RUNGS",
    "SOUND_RUNGS",
    "TENSOR_RUNGS",
    "Codec",
    "codes",
    "decode",
    "encode",
    "find_codec",
    "kept_shares",
    "zstd_available",
]
