"""One codec tried on what crosses at one place, input by input."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median

import numpy as np

from midstream.calibrating.sizes import fit_size, spread
from midstream.communication.codecs import (
    SLOW,
    codes,
    decode,
    encode,
    find_codec,
    kept_shares,
    zstd_available,
)
from midstream.communication.wire import decoded_bytes
from midstream.inputs import Semantics
from midstream.ladder import FAST_ENTROPIES, MeasuredRung, Settings
from midstream.tensors import Tensors, TensorSpec

# A smaller payload than this much less is not worth a slower entropy stage.
_WORTH = 1.02
_TURNS = 3
# How far below the smallest share that was seen to be kept an input may be before it travels exact.
_MARGIN = 0.25


@dataclass
class Trial:
    """What is known so far of one codec at one place; ``lost`` sums up how far answers changed."""

    codec: str
    settings: Settings
    specs: Sequence[TensorSpec]
    semantics: Mapping[str, Semantics]
    lost: float = 0.0
    sizes: list[int] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)

    @property
    def lossless(self) -> bool:
        """Whether the codec says so."""
        return find_codec(self.codec).lossless

    @property
    def agreement(self) -> float:
        """The mean over the inputs so far."""
        return 1.0 - self.lost / max(1, len(self.sizes))

    def packed_slowly(self) -> Trial:
        """The same codec with the slow entropy stage, whose sizes and times are not known yet."""
        settings = replace(self.settings, entropy="lzma")
        return Trial(f"{self.codec}{SLOW}", settings, self.specs, self.semantics)

    def rung_like(self, other: MeasuredRung, sizes: Sequence[int]) -> MeasuredRung:
        """Another rung with this one's entropy stage and times, as much smaller as this one is on the first inputs.

        ``sizes`` are the other's of all inputs.
        """
        smaller = sum(self.sizes) / max(1, sum(sizes[: len(self.sizes)]))
        size = other.size
        return replace(
            other,
            codec=self.codec,
            entropy=self.settings.entropy,
            payload_bytes=other.payload_bytes * smaller,
            encode_ms=median(self.encode_ms),
            decode_ms=median(self.decode_ms),
            size=None if size is None else size.scaled(smaller),
        )

    def carry(self, tensors: Tensors) -> Tensors:
        """What comes out at the other end; its size and times are noted."""
        started = time.perf_counter()
        encoded = encode(self.codec, tensors, self.semantics, self.settings)
        between = time.perf_counter()
        limit = sum(decoded_bytes(tensor.shape, tensor.dtype) for tensor in tensors.values())
        found = decode(self.codec, encoded, self.specs, self.semantics, limit, self.settings.bases)
        ended = time.perf_counter()
        self.sizes.append(sum(len(tensor.data) for tensor in encoded))
        self.encode_ms.append((between - started) * 1e3)
        self.decode_ms.append((ended - between) * 1e3)
        for name, share in kept_shares(self.codec, tensors, self.settings).items():
            self.kept[name] = min(share, self.kept.get(name, 1.0))
        return found

    def _least_kept(self) -> dict[str, float]:
        """The least share of values to keep, by tensor.

        It is all of them where this codec has never coded a tensor, such as a state that was always zero: what it does
        to the answer there was not measured.
        """
        quantises = find_codec(self.codec).family in ("int8", "step", "klt")
        return {
            spec.name: self.kept[spec.name] * _MARGIN if spec.name in self.kept else 1.0
            for spec in self.specs
            if quantises and spec.dtype in (np.float32, np.float16)
        }

    def rung(self, features: Sequence[Mapping[str, float]]) -> MeasuredRung:
        """The result; ``features`` are those of the inputs, in their order, or none."""
        return MeasuredRung(
            self.codec,
            self.lossless,
            self.settings.entropy,
            self.agreement,
            fmean(self.sizes),
            spread(self.sizes),
            median(self.encode_ms),
            median(self.decode_ms),
            self._least_kept(),
            fit_size(features, self.sizes),
        )


def applies(codec: str, tensors: Tensors, semantics: Mapping[str, Semantics], settings: Settings) -> bool:
    """Whether a codec does anything to these tensors that ``lossless`` would not."""
    return codec in ("raw", "lossless") or codes(codec, encode(codec, tensors, semantics, settings))


def choose_entropy(
    codec: str, samples: Sequence[Tensors], semantics: Mapping[str, Semantics], settings: Settings
) -> Settings:
    """The settings with the fastest entropy stage of those that pack these tensors about as small as any.

    All are timed in turns, and the best time of each counts: other work on this machine slows some turns, never all.
    """
    if find_codec(codec).takes != "tensors" or codec == "raw":
        return settings
    entropies = [entropy for entropy in FAST_ENTROPIES if entropy != "zstd" or zstd_available()]
    tried = [replace(settings, entropy=entropy) for entropy in entropies]
    sizes = [0] * len(tried)
    took = [math.inf] * len(tried)
    for _ in range(_TURNS):
        for place, setting in enumerate(tried):
            started = time.thread_time()
            encoded = [encode(codec, tensors, semantics, setting) for tensors in samples]
            took[place] = min(took[place], time.thread_time() - started)
            sizes[place] = sum(len(tensor.data) for each in encoded for tensor in each)
    enough = min(sizes) * _WORTH
    return tried[min((place for place in range(len(tried)) if sizes[place] <= enough), key=took.__getitem__)]
