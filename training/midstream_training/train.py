"""Train both networks and write them into the SDK: ``scripts/train_complexity``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midstream.analysis.views import STEPS
from midstream.complexity import Trained as Kind
from midstream_training.corpus import measured
from midstream_training.examples import Examples, Ordered, examples, ordered
from midstream_training.judging import Figures, Scores
from midstream_training.linear import Linear
from midstream_training.sources import ROOT, Split, fetch
from midstream_training.targets import Reference

MODELS = ROOT / "sdk" / "midstream" / "models"
COUNTS: dict[Kind, dict[Split, int]] = {
    "image": {"train": 1400, "validation": 150, "test": 300},
    "audio": {"train": 2100, "validation": 150, "test": 250},
}
PAIRS: dict[Kind, dict[Split, int]] = {
    "image": {"train": 1800, "validation": 600, "test": 300},
    "audio": {"train": 900, "validation": 300, "test": 300},
}
_BATCH = 32
_RATE = 2e-3
# What is less than this apart adds to the loss, in whichever order.
_APART = 0.03


@dataclass(frozen=True)
class Recipe:
    """How long to train, by how much pairs weigh, how many beside each 32 inputs, and which changes come more often."""

    epochs: int
    pair_share: float = 1.0
    couples: int = 16
    often: Mapping[str, float] = field(default_factory=dict)
    turned: bool = True


# The best of those that `midstream_training.choose` tries.
RECIPES: Mapping[Kind, Recipe] = {
    "image": Recipe(12, pair_share=2.0, couples=24, often={"compression": 2.0}),
    "audio": Recipe(20, pair_share=3.0),
}


def main() -> int:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("image", "audio"), action="append", help="only this one")
    parser.add_argument("--into", type=Path, default=MODELS, help="folder of the models")
    parser.add_argument("--inputs", type=int, help="learn from so many inputs and pairs only: to try it out")
    options = parser.parse_args()
    fetch()
    options.into.mkdir(parents=True, exist_ok=True)
    for kind in options.kind or ("image", "audio"):
        train(kind, options.into, options.inputs)
    return 0


def train(kind: Kind, folder: Path, most: int | None = None) -> None:
    """One network, as TFLite and as ONNX, into the folder; says how it does on the validation sources."""
    from midstream_training import exporting

    (fitted, pairs), (tried, tried_pairs) = data(kind, ("train", "validation"), most)
    model = fit(kind, RECIPES[kind], fitted, pairs)
    linear = Linear.fit(fitted.seen.features, fitted.targets)
    for name, scorer in (("linear", lambda seen: linear(seen.features)), ("network", model.predict)):
        figures = Figures.of(Scores.of(scorer, tried, tried_pairs), tried, tried_pairs)
        print(f"{kind}, {name}, on validation: {figures}", file=sys.stderr)
    for suffix, content in (("tflite", exporting.to_tflite(model.net)), ("onnx", exporting.to_onnx(model.net))):
        path = folder / f"complexity_{kind}.{suffix}"
        path.write_bytes(content)
        print(f"{path}: {len(content):,} bytes", file=sys.stderr)


def data(kind: Kind, splits: tuple[Split, ...], most: int | None = None) -> list[tuple[Examples, Ordered]]:
    """Examples and pairs of the splits; percentiles are of the first one's inputs."""
    corpora = [measured(kind, split, min(most or COUNTS[kind][split], COUNTS[kind][split])) for split in splits]
    reference = Reference.of(corpora[0].sizes, corpora[0].disagreements)
    return [
        (
            examples(kind, corpus, reference),
            ordered(kind, corpus.split, min(most or PAIRS[kind][corpus.split], PAIRS[kind][corpus.split])),
        )
        for corpus in corpora
    ]


def fit(kind: Kind, recipe: Recipe, fitted: Examples, pairs: Ordered) -> Any:
    """A `nets.Trained`: mean absolute error, and pairs in their order; the rate falls to nothing."""
    from midstream_training import nets

    nets.seed()
    linear = Linear.fit(fitted.seen.features, fitted.targets)
    net = nets.image_net(linear) if kind == "image" else nets.audio_net(linear)
    steps = recipe.epochs * (len(fitted.targets) // _BATCH)
    trained = nets.Trained(net, _RATE, steps, recipe.pair_share, _APART)
    rng = np.random.default_rng(0)
    often = np.array([recipe.often.get(str(change), 1.0) for change in pairs.changes])
    for _ in range(recipe.epochs):
        order = rng.permutation(len(fitted.targets))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            rows = order[start : start + _BATCH]
            couples = rng.choice(len(often), recipe.couples, p=often / often.sum())
            turn = _turn(kind, rng) if recipe.turned else lambda views: views
            trained.step(
                turn(fitted.seen.views[rows]), fitted.seen.features[rows], fitted.targets[rows],
                *(part for each in (pairs.less, pairs.more)
                  for part in (turn(each.views[couples]), each.features[couples])),
            )  # fmt: skip
    return trained


def _turn(kind: Kind, rng: np.random.Generator) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """What costs the models about the same: pictures mirrored both ways, seconds shifted in a circle and reversed."""
    if kind == "audio":
        shift, along = int(rng.integers(STEPS)), int(rng.choice((-1, 1)))
        return lambda views: np.roll(views[:, ::along], shift, axis=1)
    down, along = rng.choice((-1, 1), 2)
    return lambda views: np.ascontiguousarray(views[:, ::down, ::along])


if __name__ == "__main__":
    raise SystemExit(main())
