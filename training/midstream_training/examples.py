"""What is learned from: inputs with their targets, and pairs of which it is known which is the costlier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.complexity import Trained as Kind
from midstream_training.corpus import Corpus, inputs
from midstream_training.pairs import pairs
from midstream_training.sources import Split
from midstream_training.targets import LEAST_DEVIATION, Reference, raw_target
from midstream_training.views import Seen, seen

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Examples:
    """Inputs, as the networks see them; targets of 0–1, the cost at the cuts, and of which of the split's sources."""

    seen: Seen
    targets: NDArray[np.float32]
    costs: NDArray[np.float64]
    sources: NDArray[np.int64]

    def part(self, rows: Rows) -> Examples:
        """Some of them."""
        return Examples(self.seen.part(rows), self.targets[rows], self.costs[rows], self.sources[rows])


@dataclass(frozen=True)
class Ordered:
    """Pairs: the one with less information, the one with more, by what change, and of which source."""

    less: Seen
    more: Seen
    changes: NDArray[np.str_]
    sources: NDArray[np.int64]

    def part(self, rows: Rows) -> Ordered:
        """Some of them."""
        return Ordered(self.less.part(rows), self.more.part(rows), self.changes[rows], self.sources[rows])


def examples(kind: Kind, corpus: Corpus, reference: Reference) -> Examples:
    """A corpus as examples."""
    targets = reference.percentile(raw_target(corpus.sizes, corpus.disagreements, reference)) / 100
    found = seen(kind, inputs(kind, corpus.split, corpus.seeds))
    return Examples(found, targets.astype(np.float32), cut_costs(corpus, reference), corpus.sources)


def ordered(kind: Kind, split: Split, count: int) -> Ordered:
    """The first pairs of a split."""
    changes, origins = [], []

    def both() -> Iterator[NDArray[np.generic]]:
        for pair in pairs(kind, split, count):
            changes.append(pair.change)
            origins.append(pair.source)
            yield from (pair.before, pair.after) if pair.sign > 0 else (pair.after, pair.before)

    found = seen(kind, both())
    first = np.arange(2 * count) % 2 == 0
    return Ordered(found.part(first), found.part(~first), np.array(changes), np.array(origins))


def counted_cuts(corpus: Corpus, reference: Reference) -> list[int]:
    """The columns of cuts, not of the input itself, whose bytes vary."""
    return [
        column
        for column, name in enumerate(corpus.size_names)
        if " / input / " not in name and reference.size_std[column] >= LEAST_DEVIATION
    ]


def cut_costs(corpus: Corpus, reference: Reference) -> NDArray[np.float64]:
    """Of each input, the mean over those columns of the standardised logarithm of bytes."""
    logs = (np.log(corpus.sizes) - reference.size_mean) / reference.size_std
    return np.asarray(logs[:, counted_cuts(corpus, reference)].mean(axis=1))
