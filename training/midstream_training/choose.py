"""Which recipe is the best: cross-validation over the sources that are learned from, and no others.

    PYTHONPATH=training python -m midstream_training.choose --kind image

Each source's inputs and pairs are scored by a network that has seen none of that source; made inputs are spread at
random. Prints a table for docs/complexity.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from midstream.complexity import Trained as Kind
from midstream_training.examples import Examples, Ordered
from midstream_training.judging import Figures, Scores
from midstream_training.linear import Linear
from midstream_training.sources import fetch
from midstream_training.train import RECIPES, Recipe, data, fit

_PARTS = 3
_PICTURES, _SOUNDS = RECIPES["image"], RECIPES["audio"]
_ALIKE, _LIGHT = replace(_PICTURES, often={}), replace(_SOUNDS, pair_share=1.0)
_TRIED: Mapping[Kind, Mapping[str, Recipe]] = {
    "image": {
        "every change alike": _ALIKE,
        "the same, pairs weigh 1": replace(_ALIKE, pair_share=1.0),
        "the same, pairs weigh 3": replace(_ALIKE, pair_share=3.0),
        "the same, 24 epochs": replace(_ALIKE, epochs=24),
        "compression twice as often: taken": _PICTURES,
    },
    "audio": {
        "pairs weigh 1": _LIGHT,
        "the same, not turned": replace(_LIGHT, turned=False),
        "the same, 40 epochs": replace(_LIGHT, epochs=40),
        "pairs weigh 3, white noise thrice as often": replace(_SOUNDS, couples=24, often={"white noise": 3.0}),
        "pairs weigh 3: taken": _SOUNDS,
    },
}


def main() -> int:
    """Try them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("image", "audio"), required=True)
    kind: Kind = parser.parse_args().kind
    fetch()
    ((learned, pairs),) = data(kind, ("train",))
    print("| tried | error, points | rank with target | rank with bytes | pairs |\n| --- | ---: | ---: | ---: | ---: |")
    for name, recipe in {"linear": None, **_TRIED[kind]}.items():
        found = Figures.of(crossed(kind, recipe, learned, pairs), learned, pairs)
        print(
            f"| {name} | {found.error:.2f} | {found.rank:.3f} | {found.rank_with_bytes:.3f} | {found.pairs:.1%} |",
            flush=True,
        )
    return 0


def crossed(kind: Kind, recipe: Recipe | None, learned: Examples, pairs: Ordered) -> Scores:
    """Scores of all, each by a network that has not seen its source; by linear models where there is no recipe."""
    rng = np.random.default_rng(0)
    part_of = rng.permutation(int(learned.sources.max()) + 1) % _PARTS
    of_inputs = np.where(learned.sources < 0, rng.integers(0, _PARTS, len(learned.sources)), part_of[learned.sources])
    of_pairs = part_of[pairs.sources]
    scores: list[NDArray[np.float64]] = [np.zeros(count) for count in (len(of_inputs), len(of_pairs), len(of_pairs))]
    for part in range(_PARTS):
        fitted, tried = learned.part(of_inputs != part), learned.part(of_inputs == part)
        tried_pairs = pairs.part(of_pairs == part)
        if recipe is None:
            linear = Linear.fit(fitted.seen.features, fitted.targets)
            found = Scores.of(lambda seen, linear=linear: linear(seen.features), tried, tried_pairs)
        else:
            found = Scores.of(fit(kind, recipe, fitted, pairs.part(of_pairs != part)).predict, tried, tried_pairs)
        scores[0][of_inputs == part] = found.examples
        scores[1][of_pairs == part], scores[2][of_pairs == part] = found.less, found.more
    return Scores(*scores)


if __name__ == "__main__":
    raise SystemExit(main())
