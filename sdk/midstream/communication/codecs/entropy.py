"""The entropy stage: bytes in fewer bytes, and back within the size that is known."""

from __future__ import annotations

import lzma
import zlib
from importlib.util import find_spec
from typing import Any, Final

from midstream.errors import CodecError
from midstream.ladder import Entropy

# How the bytes were packed, as the wire says it.
STORED: Final = 0
DEFLATED: Final = 1
ZSTD: Final = 2
LZMA: Final = 3
METHODS = (STORED, DEFLATED, ZSTD, LZMA)

_ZLIB_LEVEL = 1
_ZSTD_LEVEL = 1
# Neither header nor check value: the message has its own CRC.
_WINDOW_BITS, _MEMORY = -15, 9
# Of what decides the size of a decoder's memory, only the dictionary is of any size.
_LZMA_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2, "dict_size": 1 << 18, "lc": 4, "lp": 0, "pb": 0,
        "mode": lzma.MODE_NORMAL, "nice_len": 32, "mf": lzma.MF_BT2, "depth": 2,
    }
]  # fmt: skip

Buffer = bytes | memoryview


def zstd_available() -> bool:
    """Whether this machine can pack and unpack zstd."""
    return find_spec("zstandard") is not None


def pack(plain: Buffer, entropy: Entropy) -> tuple[int, Buffer]:
    """The method and what it made of the bytes; stored where they would not get fewer, or cannot be zstd here."""
    match entropy:
        case "none":
            return STORED, plain
        case "zstd" if zstd_available():
            method, packed = ZSTD, _zstd().ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
        case "zlib-rle":
            method, packed = DEFLATED, _deflate(plain, zlib.Z_RLE)
        case "lzma":
            method, packed = LZMA, lzma.compress(plain, lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
        case _:
            method, packed = DEFLATED, _deflate(plain, zlib.Z_DEFAULT_STRATEGY)
    return (method, packed) if len(packed) < len(plain) else (STORED, plain)


def unpack(method: int, packed: Buffer, size: int, name: str) -> Buffer:
    """Exactly ``size`` bytes. Raises CodecError naming the tensor ``name`` where there are more, fewer, or damage.

    No more than ``size`` bytes are taken, whatever the packed ones promise.
    """
    if method == STORED:
        plain = packed
    elif method == DEFLATED:
        plain = _inflate(packed, size, name)
    elif method == LZMA:
        plain = _unlzma(packed, size, name)
    elif method == ZSTD:
        plain = _unzstd(packed, size, name)
    else:
        raise CodecError(f"tensor {name!r} came packed by method {method}; known are {METHODS}")
    if len(plain) != size:
        raise CodecError(f"tensor {name!r} came with {len(plain)} bytes, needed {size}")
    return plain


def _deflate(plain: Buffer, strategy: int) -> bytes:
    packer = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY, strategy)
    return packer.compress(plain) + packer.flush()


def _inflate(packed: Buffer, size: int, name: str) -> bytes:
    inflater = zlib.decompressobj(_WINDOW_BITS)
    try:
        plain = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise CodecError(f"tensor {name!r} of {len(packed)} bytes cannot be inflated: {error}") from None
    if len(plain) != size or not inflater.eof or inflater.unused_data:
        raise CodecError(f"tensor {name!r} does not inflate to exactly the {size} bytes of its shape")
    return plain


def _unlzma(packed: Buffer, size: int, name: str) -> bytes:
    opener = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
    try:
        plain = opener.decompress(packed, size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise CodecError(f"tensor {name!r} of {len(packed)} bytes cannot be unpacked: {error}") from None
    if len(plain) != size or not opener.eof or opener.unused_data:
        raise CodecError(f"tensor {name!r} does not unpack to exactly the {size} bytes of its shape")
    return plain


def _unzstd(packed: Buffer, size: int, name: str) -> bytes:
    if not zstd_available():
        raise CodecError(f"tensor {name!r} came as zstd, which is not installed here: pip install 'midstream[zstd]'")
    zstandard = _zstd()
    try:
        # The frame says how much it holds, and the library takes that much memory at once.
        declared = zstandard.get_frame_parameters(packed).content_size
        if declared != size:
            raise CodecError(f"tensor {name!r} came as {declared} bytes of zstd, needed exactly {size}")
        return bytes(zstandard.ZstdDecompressor().decompress(packed, max_output_size=size, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise CodecError(f"tensor {name!r} of {len(packed)} bytes cannot be unpacked: {error}") from None


def _zstd() -> Any:
    import zstandard

    return zstandard
