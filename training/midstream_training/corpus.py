"""The measured corpus: for each input its source and what the models made of it, measured once and kept."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.complexity import Trained as Kind
from midstream_training import pairs, pictures, sounds, sources, targets
from midstream_training.sources import FOLDER, Split

SEEDS: dict[Split, int] = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
_What = Literal["inputs", "pairs"]
_PIECE = 25
_DECIDING: dict[_What, tuple[ModuleType, ...]] = {
    "inputs": (sources, pictures, sounds, targets),
    "pairs": (sources, pictures, sounds, targets, pairs),
}


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
    read = _measured("inputs", kind, split, count, workers)
    joined = {name: np.concatenate([each[name] for each in read])[:count] for name in ("sources", "sizes", "hard")}
    names = {name: tuple(str(each) for each in read[0][name]) for name in ("size_names", "hard_names")}
    return Corpus(
        split, np.arange(count) + SEEDS[split], joined["sources"], names["size_names"], joined["sizes"],
        names["hard_names"], joined["hard"],
    )  # fmt: skip


def measured_pairs(
    kind: Kind, split: Split, count: int, workers: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bytes and the disagreements of the first ``count`` pairs: pairs × before and after × the corpus's columns."""
    read = _measured("pairs", kind, split, count, workers)
    sizes, hard = (np.concatenate([each[name] for each in read])[: 2 * count] for name in ("sizes", "hard"))
    return sizes.reshape(count, 2, -1), hard.reshape(count, 2, -1)


def _measured(
    what: _What, kind: Kind, split: Split, count: int, workers: int | None
) -> Sequence[dict[str, NDArray[np.generic]]]:
    bench_of(kind)
    pieces = [(what, kind, split, start) for start in range(0, count, _PIECE)]
    missing = [piece for piece in pieces if not _path(*piece).is_file()]
    if missing:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            for done, piece in enumerate(pool.map(_measure, missing), 1):
                print(f"{kind} {split} {what}: {done} of {len(missing)} pieces, {piece}", file=sys.stderr)
    return [dict(np.load(_path(*piece))) for piece in pieces]


def bench_of(kind: Kind) -> targets.Bench:
    """The models of this kind, converted once into .cache/complexity."""
    folder = FOLDER / f"{kind}_bundles"
    folder.mkdir(parents=True, exist_ok=True)
    (FOLDER / "measured").mkdir(exist_ok=True)
    return targets.Bench(targets.IMAGE_SUBJECTS if kind == "image" else targets.AUDIO_SUBJECTS, folder)


def _path(what: _What, kind: Kind, split: Split, start: int) -> Path:
    """Named by the code that decides what is in it, too."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in _DECIDING[what])
    name = f"{kind}_{split}" if what == "inputs" else f"{kind}_{split}_{what}"
    return FOLDER / "measured" / f"{name}_{start}_{hashlib.sha256(code).hexdigest()[:12]}.npz"


def _arrays(what: _What, kind: Kind, split: Split, start: int) -> Iterator[tuple[NDArray[np.generic], int]]:
    """The inputs of a piece, or both of each of its pairs, and their sources."""
    if what == "pairs":
        for pair in islice(pairs.pairs(kind, split, start + _PIECE), start, None):
            yield pair.before, pair.source
            yield pair.after, pair.source
        return
    seeds = range(start + SEEDS[split], start + SEEDS[split] + _PIECE)
    if kind == "image":
        frames = sources.pictures(split)
        yield from (pictures.picture(frames, seed) for seed in seeds)
    else:
        voices = sources.sounds(split)
        yield from (sounds.sound(voices, seed) for seed in seeds)


def _measure(piece: tuple[_What, Kind, Split, int]) -> int:
    cv2.setNumThreads(1)
    kind = piece[1]
    bench = bench_of(kind)
    found, origins = [], []
    for array, origin in _arrays(*piece):
        found.append(bench.picture(array) if kind == "image" else bench.sound(array))
        origins.append(origin)
    path = _path(*piece)
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
    return piece[3]
