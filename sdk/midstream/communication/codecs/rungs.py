"""The rungs of the ladder by their names, which say everything about them but what a bundle holds.

=====================  =======================================================================================
name                   what it does
=====================  =======================================================================================
``raw``                the elements as they lie in memory
``lossless``           the same, shuffled and packed
``f16``, ``bf16``      single precision in two bytes
``int8``               8-bit minimum/maximum quantisation
``step0.25``           a step of 0.25 σ
``klt0.25``            channels decorrelated by the bundle's basis, then a step of 0.25 σ
``…+lzma``             any of those but ``raw``, packed by LZMA: smaller and slower, for slow links
``png``, ``webp101``   an input that is a picture, without loss
``jpeg90``, ``webp75`` the same, at this quality
``pcm16``, ``flac``    an input that is a sound, in 16-bit samples
``opus24``             the same, at 24 kbit/s
=====================  =======================================================================================

What a rung does not apply to travels as with ``lossless``: other dtypes, other inputs, values that it would not keep.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal, get_args

from midstream.communication.codecs.entropy import zstd_available
from midstream.communication.codecs.pictures import LOSSLESS_QUALITY, PictureFormat
from midstream.communication.codecs.sounds import SoundFormat
from midstream.errors import CodecError
from midstream.ladder import Entropy

Family = Literal["raw", "lossless", "f16", "bf16", "int8", "step", "klt"] | PictureFormat | SoundFormat

_WITH_SETTING = re.compile(r"([a-z]+)([0-9]{1,3}(?:\.[0-9]{1,5})?)", re.ASCII)
_PLAIN: tuple[Family, ...] = ("raw", "lossless", "f16", "bf16", "int8", "png", "pcm16", "flac")
_MULTIPLES = (0.001, 100.0)
# What the number after the name may be, whole where it is a quality or a rate.
_SETTINGS: dict[Family, tuple[float, float]] = {
    "step": _MULTIPLES,
    "klt": _MULTIPLES,
    "jpeg": (1, 100),
    "webp": (1, LOSSLESS_QUALITY),
    "opus": (6, 256),
}
SLOW = "+lzma"
_EXAMPLES = "raw, lossless, f16, bf16, int8, step0.25, klt0.25, step0.25+lzma, png, jpeg90, webp75, pcm16, flac, opus24"


@dataclass(frozen=True, slots=True)
class Codec:
    """One rung. ``setting`` is the number in its name, or 0; ``entropy`` the stage that it names, if it does."""

    name: str
    family: Family
    setting: float = 0.0
    entropy: Entropy | None = None

    @property
    def lossless(self) -> bool:
        """Whether everything comes back as it was."""
        return self.family in ("raw", "lossless", "png") or (self.family, self.setting) == ("webp", LOSSLESS_QUALITY)

    @property
    def takes(self) -> Literal["tensors", "pictures", "sounds"]:
        """What it does more to than ``lossless``."""
        if self.family in get_args(PictureFormat):
            return "pictures"
        return "sounds" if self.family in get_args(SoundFormat) else "tensors"

    @property
    def packs(self) -> bool:
        """Whether what it makes of a tensor goes through an entropy stage."""
        return self.takes == "tensors" and self.family != "raw"

    @property
    def library(self) -> str | None:
        """What the receiver has to know besides: a name of `optional_libraries`."""
        return SOUND_LIBRARY if self.family in ("flac", "opus") else None


ZSTD_LIBRARY, SOUND_LIBRARY = "zstd", "sound"


def optional_libraries() -> tuple[str, ...]:
    """Which of them this machine has: ``zstd`` (zstandard) and ``sound`` (soundfile)."""
    there = {ZSTD_LIBRARY: zstd_available(), SOUND_LIBRARY: find_spec("soundfile") is not None}
    return tuple(name for name, here in there.items() if here)


# Those that calibration tries, from the mildest on.
TENSOR_RUNGS: tuple[str, ...] = (
    *("raw", "lossless", "f16", "bf16", "int8"),
    *(f"step{multiple}" for multiple in ("0.015", "0.03", "0.06", "0.125", "0.25", "0.5", "1", "2", "4")),
    *(f"klt{multiple}" for multiple in ("0.03", "0.06", "0.125", "0.25", "0.5", "1", "2")),
)
PICTURE_RUNGS: tuple[str, ...] = (
    *("png", "webp101"),
    *(f"jpeg{quality}" for quality in (95, 90, 75, 50)),
    *(f"webp{quality}" for quality in (95, 90, 75, 50, 25)),
)
SOUND_RUNGS: tuple[str, ...] = ("pcm16", "flac", "opus64", "opus24", "opus12")
ALL_RUNGS = (*TENSOR_RUNGS, *PICTURE_RUNGS, *SOUND_RUNGS)


def find_codec(name: str) -> Codec:
    """The codec of this name; raises CodecError naming some there are."""
    plain, plus, _ = name.partition(SLOW) if isinstance(name, str) and len(name) <= 32 else ("", "", "")
    codec = _codec(plain)
    if codec is not None and plus:
        codec = replace(codec, name=f"{plain}{SLOW}", entropy="lzma") if codec.packs and name.endswith(SLOW) else None
    if codec is None:
        raise CodecError(f"codec {str(name)[:64]!r} is unknown; there are {_EXAMPLES}, and others of these kinds")
    return codec


def _codec(name: str) -> Codec | None:
    """The codec of a name that says nothing of an entropy stage."""
    for plain in _PLAIN:
        if name == plain:
            return Codec(name, plain)
    found = _WITH_SETTING.fullmatch(name)
    family, number = ("", "") if found is None else found.groups()
    for known, (least, most) in _SETTINGS.items():
        if family == known and least <= float(number) <= most:
            whole = known in ("step", "klt") or number.isdecimal()
            canonical = f"{float(number):g}" == number
            return Codec(name, known, float(number)) if whole and canonical else None
    return None
