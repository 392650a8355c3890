"""Samples in files, one each, so that another process can read them one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midstream.tensors import Tensors


@dataclass(frozen=True)
class StoredSamples:
    """A folder of samples of these inputs, in the order in which they were stored."""

    folder: Path
    inputs: tuple[str, ...]

    def store(self, samples: Iterable[Tensors]) -> int:
        """Write them into the folder, which is made; how many there were."""
        self.folder.mkdir()
        count = 0
        for sample in samples:
            # Any name may be an input's, not any may be a keyword of savez.
            np.savez(self.folder / f"{count:06}.npz", *(sample[name] for name in self.inputs))
            count += 1
        return count

    def __iter__(self) -> Iterator[Tensors]:
        for file in sorted(self.folder.iterdir()):
            with np.load(file, allow_pickle=False) as arrays:
                yield {name: arrays[f"arr_{index}"] for index, name in enumerate(self.inputs)}
