"""The codec ladder of one bundle: what each rung makes of what crosses at each place, measured.

A place is a cut, or None for the whole input. `midstream calibrate` measures, and ``codecs.json`` holds it beside the
bundle's other files; it is no part of the bundle's identity. Only a `Basis` must be alike on both ends, and its digest
travels with what it has transformed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

LADDER_FILE = "codecs.json"
DIGEST_BYTES = 4

Entropy = Literal["none", "zlib", "zlib-rle", "zstd", "lzma"]
ENTROPIES: tuple[Entropy, ...] = get_args(Entropy)
FAST_ENTROPIES: tuple[Entropy, ...] = ("none", "zlib", "zlib-rle", "zstd")

FEWEST_KEPT = 1 / 16
"""The least share of what is not zero that must not become zero, where no calibration says another."""

# How far from what was seen a prediction of a size may go.
_FARTHEST = 4.0


@dataclass(frozen=True)
class Basis:
    """The directions in which a tensor's channels vary, by falling variance.

    ``axis`` is that of the channels, 1 or -1; ``mean`` has C values, ``vectors`` K × C of orthonormal rows, float32.
    """

    axis: int
    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]

    @cached_property
    def digest(self) -> bytes:
        """The first bytes of the SHA-256 of what both ends must have alike."""
        parts = (bytes([self.axis % 256]), self.mean.tobytes(), self.vectors.tobytes())
        return hashlib.sha256(b"".join(parts)).digest()[:DIGEST_BYTES]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape has these channels."""
        return len(shape) >= 2 and shape[self.axis] == len(self.mean)

    def rows(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The tensor as positions × channels."""
        return channel_rows(values, self.axis)

    def tensor(self, rows: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The reverse of `rows`."""
        moved = (shape[0], *shape[2:], shape[1]) if self.axis == 1 else shape
        return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), -1, self.axis))


def channel_rows(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A tensor as positions × channels, the channels along ``axis``."""
    return np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])


@dataclass(frozen=True, slots=True)
class Settings:
    """How to encode for a place and a rung; the defaults are safe for any tensors.

    ``bases`` are by tensor name. ``last_first`` names the tensors whose codes pack better with the last axis first.
    ``kept`` is, by tensor, the least share of what is not zero that must not become zero: a tensor in which more would
    is none like those that were calibrated, and travels exact.
    """

    entropy: Entropy = "zlib-rle"
    bases: Mapping[str, Basis] = field(default_factory=dict)
    last_first: frozenset[str] = frozenset()
    kept: Mapping[str, float] = field(default_factory=dict)


UNCALIBRATED: Final = Settings()


@dataclass(frozen=True, slots=True)
class SizeModel:
    """An encoded size from an input's features: bytes = exp(intercept + Σ weight · feature).

    ``error`` is the mean absolute share by which it was wrong on inputs that it was not fitted to. ``low`` and ``high``
    are the smallest and largest sizes seen; predictions stay within four times as far.
    """

    intercept: float
    weights: Mapping[str, float]
    low: float
    high: float
    error: float

    def scaled(self, by: float) -> SizeModel:
        """The same, for payloads so many times as large."""
        return replace(self, intercept=self.intercept + math.log(by), low=self.low * by, high=self.high * by)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that it predicts."""
        return self.low / _FARTHEST, self.high * _FARTHEST


@dataclass(frozen=True, slots=True)
class MeasuredRung:
    """What one codec makes of what crosses at one place.

    ``agreement`` is with the whole model, 0 to 1, over the inputs that were held out. ``payload_bytes`` is the mean,
    ``spread`` the mean absolute share by which an input differs from it. Times are of one thread of the machine that
    calibrated. ``size`` predicts better than the mean does, or is None.
    """

    codec: str
    lossless: bool
    entropy: Entropy
    agreement: float
    payload_bytes: float
    spread: float
    encode_ms: float
    decode_ms: float
    kept: Mapping[str, float] = field(default_factory=dict)
    size: SizeModel | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The rungs of one cut, or of the whole input where ``cut`` is None; ``raw_bytes`` is the mean of what crosses."""

    cut: str | None
    raw_bytes: float
    rungs: tuple[MeasuredRung, ...]
    bases: Mapping[str, Basis] = field(default_factory=dict)
    last_first: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ReplySize:
    """Bytes of the whole model's outputs: the mean, how far inputs differ from it (`MeasuredRung.spread`), and a model.

    They vary where the length of an answer follows from the input: how many boxes, words or steps there are.
    ``packed_bytes`` is their mean as replies to all codecs but raw bring them, lossless; None where nobody measured it.
    """

    mean_bytes: float
    spread: float
    size: SizeModel | None = None
    packed_bytes: float | None = None

    @property
    def packed_share(self) -> float:
        """What of them is left when they are packed."""
        return 1.0 if self.packed_bytes is None or not self.mean_bytes else self.packed_bytes / self.mean_bytes


@dataclass(frozen=True, slots=True)
class Ladder:
    """All places of the bundle whose digest is ``bundle``.

    ``whole_ms`` is what the whole model took on the machine that calibrated, ``metric`` what agreement was measured by,
    on ``samples`` inputs; ``held_out`` says that none of these was used to set the rungs up. Rungs
    below ``min_agreement`` are not here. ``reply`` is what comes back.
    """

    bundle: str
    machine: str
    whole_ms: float
    metric: str
    samples: int
    held_out: bool
    min_agreement: float
    places: tuple[Place, ...]
    reply: ReplySize | None = None

    def place(self, cut: str | None) -> Place | None:
        """What was measured there, if anything."""
        return next((place for place in self.places if place.cut == cut), None)

    def rung(self, cut: str | None, codec: str) -> MeasuredRung | None:
        """What was measured of this codec there, if anything."""
        place = self.place(cut)
        return next((rung for rung in place.rungs if rung.codec == codec), None) if place else None

    def settings(self, cut: str | None, codec: str) -> Settings:
        """How to encode with this codec there, as calibrated where it was."""
        place, rung = self.place(cut), self.rung(cut, codec)
        if place is None:
            return UNCALIBRATED
        if rung is None:
            kept = dict.fromkeys(place.bases, FEWEST_KEPT)
            return Settings(bases=place.bases, last_first=place.last_first, kept=kept)
        return Settings(rung.entropy, place.bases, place.last_first, rung.kept)

    def bases(self, cut: str | None) -> Mapping[str, Basis]:
        """The bases of a place by tensor name."""
        place = self.place(cut)
        return {} if place is None else place.bases

    @property
    def bases_id(self) -> str:
        """What two ladders share that can decode what the other has transformed; 16 hexadecimal digits."""
        known = ((place.cut or "", name, basis.digest) for place in self.places for name, basis in place.bases.items())
        parts = (f"{cut}\0{name}\0".encode() + digest for cut, name, digest in sorted(known))
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
