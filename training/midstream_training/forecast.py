"""Train the forecaster on made workloads, write it into the SDK, and its page: ``scripts/train_forecaster``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.ensemble import ensemble
from midstream.allocation.features import TARGETS
from midstream.allocation.intervals import Forecast
from midstream.allocation.predictors import Predictor
from midstream.files import write_whole
from midstream.forecaster import CARD, MODEL_FILES, Network, RecurrentForecaster
from midstream_converters.forecasting.card import NETWORK, Card, essentials
from midstream_converters.forecasting.judging import Figures, figures, forecasts
from midstream_converters.forecasting.sequences import Sequences
from midstream_converters.forecasting.training import Fitted, Recipe, fit
from midstream_training.forecast_page import page
from midstream_training.workloads import RANGES, SECONDS, Gateway, corpus, gateways

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "sdk" / "midstream" / "models"
PAGE = ROOT / "docs" / "forecast.md"
RECIPE = Recipe(epochs=30, rate=4e-3, batch=64)
SHOWN = ("last_value", "ewma", "holt", "queue_report")
"""The predictors that the page compares with, beside the mixes."""
MIX, MIX_WITH = "mix without it", "mix with it"


def main() -> int:
    """Make, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=MODELS, help="folder of the model")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--gateways", type=int, help="so many of each kind only: to try it out")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs, help="times that all is learned from")
    options = parser.parse_args()
    recipe = Recipe(options.epochs, RECIPE.rate, RECIPE.batch, RECIPE.seed)
    train, valid = (corpus(list(gateways(split, options.gateways))) for split in ("train", "validation"))
    print(f"learning from {train.features.shape[0]} partitions' {SECONDS} s", file=sys.stderr)
    fitted = fit(train, valid, recipe, "made workloads")
    print(f"losses: {', '.join(f'{loss:.4f}' for loss in fitted.losses)}", file=sys.stderr)
    tested = list(gateways("test", options.gateways))
    held_out = corpus(tested)
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in {**fitted.files, CARD: essentials()}.items():
            (Path(scratch) / name).write_bytes(content)
        found = judged(held_out, tested, Path(scratch))
    kinds = np.array([tested[group].kind for group in held_out.groups])
    by_kind = {kind: _of(held_out, found, kinds == kind) for kind in dict.fromkeys(kinds.tolist())}
    card = _card(fitted, recipe, train, figures(held_out, found, simple=False), options.gateways)
    options.into.mkdir(parents=True, exist_ok=True)
    for name, content in {**fitted.files, CARD: card.to_bytes()}.items():
        write_whole(options.into / name, content)
        print(f"{options.into / name}: {len(content):,} bytes", file=sys.stderr)
    sizes = {name: len(content) for name, content in fitted.files.items()}
    write_whole(options.page, page(card, by_kind, sizes, (*SHOWN, MIX, MIX_WITH)).encode())
    return 0


def judged(held_out: Sequences, tested: Sequence[Gateway], folder: Path) -> dict[str, NDArray[np.float64]]:
    """Forecasts by name, rows × steps × targets × 3: the network's, those it is held against, and the mixes'."""
    found = {NETWORK: forecasts(Network(folder), held_out.features)}
    shape = found[NETWORK].shape
    for name, further in ((MIX, False), (MIX_WITH, True)):
        made = {each: np.zeros(shape) for each in ((*SHOWN, name) if not further else (name,))}
        first = 0
        for gateway in tested:
            joined: list[Predictor] = [RecurrentForecaster(Network(folder))] if further else []
            first = _run(gateway, ensemble(gateway.workers, joined), name, first, made)
        found |= made
    return found


def _run(gateway: Gateway, chooser: Predictor, name: str, first: int, made: Mapping[str, NDArray[np.float64]]) -> int:
    """Fill in what the chooser, and the predictors within it, say after each interval; returns the next row."""
    partitions = gateway.observed.busiest()
    singles = {each.name: each for each in chooser.predictors if each.name in made}
    for at, intervals in enumerate(gateway.observed.intervals[:-1]):
        chooser.observe(intervals)
        for each, predictor in {**singles, name: chooser}.items():
            said = predictor.forecast()
            for place, partition in enumerate(partitions):
                if partition in said:
                    made[each][first + place, at] = _numbers(said[partition])
    return first + len(partitions)


def _numbers(forecast: Forecast) -> list[tuple[float, float, float]]:
    quantiles = (getattr(forecast, target) for target in TARGETS)
    return [(each.low, each.middle, each.high) for each in quantiles]


def _of(held_out: Sequences, found: Mapping[str, NDArray[np.float64]], rows: NDArray[np.bool_]) -> Figures:
    return figures(held_out.rows(rows), {name: values[rows] for name, values in found.items()}, simple=False)


def _card(fitted: Fitted, recipe: Recipe, train: Sequences, found: Figures, fewer: int | None) -> Card:
    data = {
        "made_workloads": {split: (fewer or ranges.of_each) * 7 for split, ranges in RANGES.items()},
        "seconds_each": SECONDS,
        "partitions_learned_from": len(train.features),
    }
    training = {**asdict(recipe), "epochs_kept": fitted.kept, "files": ", ".join(MODEL_FILES.values())}
    return Card(data, training, found)


if __name__ == "__main__":
    raise SystemExit(main())
