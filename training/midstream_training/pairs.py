"""Inputs and what becomes of them when information is added or removed: which of both is the costlier is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.complexity import Trained as Kind
from midstream_training import pictures, sounds, sources
from midstream_training.sources import Picture, Sound, Split

SEEDS: dict[Split, int] = {"train": 3_000_000, "validation": 4_000_000, "test": 5_000_000}


@dataclass(frozen=True)
class Pair:
    """An input, what became of it, by what, whether that adds (1) or removes (-1), and of which of the sources."""

    before: NDArray[np.generic]
    after: NDArray[np.generic]
    change: str
    sign: int
    source: int


_PictureChange = Callable[[Picture, np.random.Generator, float], Picture]
_PICTURE_CHANGES: tuple[tuple[str, int, _PictureChange], ...] = (
    ("noise", 1, pictures.noise),
    ("detail", 1, pictures.detailed),
    ("overlays", 1, pictures.overlaid),
    ("blur", -1, pictures.blur),
    ("compression", -1, pictures.compressed),
    ("flat crop", -1, lambda frame, rng, strength: pictures.flat_part(frame, 0.5 - 0.3 * strength)),
)
_SoundChange = Callable[[Sound, np.random.Generator, float], Sound]
_SOUND_CHANGES: tuple[tuple[str, int, _SoundChange], ...] = (
    ("white noise", 1, lambda clean, rng, strength: sounds.noisy(clean, rng, 25.0 - 25.0 * strength)),
    ("muffling", -1, lambda clean, rng, strength: sounds.muffled(clean, 3000.0 * 0.2**strength)),
    ("silence", -1, lambda clean, rng, strength: sounds.faded(clean, 0.3 + 0.6 * strength)),
)


def pairs(kind: Kind, split: Split, count: int) -> Iterator[Pair]:
    """Of pieces of the split's sources as they are; each change in its turn, from weak to strong at random.

    Pictures change at 30 % of the strongest or more; compression, which is to be strong, at 60 %.
    """
    rng = np.random.default_rng(SEEDS[split])
    if kind == "image":
        frames = sources.pictures(split)
        for index in range(count):
            name, sign, change = _PICTURE_CHANGES[index % len(_PICTURE_CHANGES)]
            source = int(rng.integers(len(frames)))
            frame = pictures.piece(frames[source], rng)
            strength = float(rng.uniform(0.6 if name == "compression" else 0.3, 1.0))
            yield Pair(frame, change(frame, rng, strength), name, sign, source)
        return
    voices = sources.sounds(split)
    for index in range(count):
        name, sign, alter = _SOUND_CHANGES[index % len(_SOUND_CHANGES)]
        source = int(rng.integers(len(voices)))
        clean = sounds.part(voices[source], rng)
        yield Pair(clean, np.clip(alter(clean, rng, float(rng.random())), -1, 1), name, sign, source)
