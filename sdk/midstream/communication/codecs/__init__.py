"""The codec ladder: what each rung makes of a tensor, and back. All of it is pure."""

from midstream.communication.codecs.coding import check_table, codes, decode, encode, kept_shares
from midstream.communication.codecs.entropy import zstd_available
from midstream.communication.codecs.rungs import (
    ALL_RUNGS,
    PICTURE_RUNGS,
    SLOW,
    SOUND_RUNGS,
    TENSOR_RUNGS,
    ZSTD_LIBRARY,
    Codec,
    find_codec,
    optional_libraries,
)

__all__ = [
    "ALL_RUNGS",
    "PICTURE_RUNGS",
    "SLOW",
    "SOUND_RUNGS",
    "TENSOR_RUNGS",
    "ZSTD_LIBRARY",
    "Codec",
    "check_table",
    "codes",
    "decode",
    "encode",
    "find_codec",
    "kept_shares",
    "optional_libraries",
    "zstd_available",
]
