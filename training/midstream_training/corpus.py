"""The measured corpus: for each input its source and what the models made of it, measured once and kept."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream_training import pictures, sounds, sources, targets
from midstream_training.sources import FOLDER, Split

Kind = Literal["image", "audio"]
SEEDS: dict[Split, int] = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
_PIECE = 25


@dataclass(frozen=True)
class Corpus:
    """Inputs × columns of bytes and of disagreements; ``sources`` are indices into the split's sources, -1 for made."""

    split: Split
    seeds: NDArray[np.int64]
    sources: NDArray[np.int64]
    size_names: tuple[str, ...]
    sizes: NDArray[np.float64]
    hard_names: tuple[str, ...]
    disagreements: NDArray[np.float64]


def inputs(kind: Kind, split: Split, seeds: NDArray[np.int64]) -> Iterator[NDArray[np.generic]]:
    """The pictures or sounds themselves; made again, never stored."""
    if kind == "image":
        frames = sources.pictures(split)
        yield from (pictures.picture(frames, int(seed))[0] for seed in seeds)
    else:
        voices = sources.sounds(split)
        yield from (sounds.sound(voices, int(seed))[0] for seed in seeds)


def measured(kind: Kind, split: Split, count: int, workers: int | None = None) -> Corpus:
    """The first ``count`` inputs of a split; measures what .cache/complexity does not hold yet."""
    bench = bench_of(kind)
    pieces = [(kind, split, start) for start in range(0, count, _PIECE)]
    missing = [piece for piece in pieces if not _path(*piece).is_file()]
    if missing:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            for done, piece in enumerate(pool.map(_measure, missing), 1):
                print(f"{kind} {split}: {done} of {len(missing)} pieces, {piece}", file=sys.stderr)
    read = [dict(np.load(_path(*piece))) for piece in pieces]
    joined = {name: np.concatenate([each[name] for each in read])[:count] for name in ("sources", "sizes", "hard")}
    names = {name: tuple(str(each) for each in read[0][name]) for name in ("size_names", "hard_names")}
    del bench
    return Corpus(
        split, np.arange(count) + SEEDS[split], joined["sources"], names["size_names"], joined["sizes"],
        names["hard_names"], joined["hard"],
    )  # fmt: skip


def bench_of(kind: Kind) -> targets.Bench:
    """The models of this kind, converted once into .cache/complexity."""
    folder = FOLDER / f"{kind}_bundles"
    folder.mkdir(parents=True, exist_ok=True)
    (FOLDER / "measured").mkdir(exist_ok=True)
    return targets.Bench(targets.IMAGE_SUBJECTS if kind == "image" else targets.AUDIO_SUBJECTS, folder)


def _path(kind: Kind, split: Split, start: int) -> Path:
    """Named by the code that decides what is in it, too."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (sources, pictures, sounds, targets))
    return FOLDER / "measured" / f"{kind}_{split}_{start}_{hashlib.sha256(code).hexdigest()[:12]}.npz"


def _measure(piece: tuple[Kind, Split, int]) -> int:
    kind, split, start = piece
    cv2.setNumThreads(1)
    bench = bench_of(kind)
    seeds = np.arange(start, start + _PIECE) + SEEDS[split]
    found, origins = [], []
    frames = sources.pictures(split) if kind == "image" else []
    voices = sources.sounds(split) if kind == "audio" else []
    for seed in seeds:
        if kind == "image":
            frame, origin = pictures.picture(frames, int(seed))
            found.append(bench.picture(frame))
        else:
            sound, origin = sounds.sound(voices, int(seed))
            found.append(bench.sound(sound))
        origins.append(origin)
    path = _path(kind, split, start)
    temporary = path.with_suffix(".part.npz")
    np.savez(
        temporary,
        sources=np.array(origins),
        sizes=np.array([list(each.sizes.values()) for each in found]),
        hard=np.array([list(each.disagreements.values()) for each in found]),
        size_names=np.array(list(found[0].sizes)),
        hard_names=np.array(list(found[0].disagreements)),
    )
    temporary.replace(path)
    return start
