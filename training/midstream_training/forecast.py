"""Train the forecaster on made workloads, write it into the SDK, and its page: ``scripts/train_forecaster``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.ensemble import ensemble
from midstream.allocation.features import TARGETS
from midstream.allocation.mixing import Chooser
from midstream.files import write_whole
from midstream.forecaster import CARD, MODEL_FILES, Network, RecurrentForecaster
from midstream_converters.forecasting.card import NETWORK, Card
from midstream_converters.forecasting.judging import Figures, figures, forecasts
from midstream_converters.forecasting.sequences import Sequences
from midstream_converters.forecasting.training import Recipe, fit
from midstream_training.forecast_page import page
from midstream_training.workloads import ALL_KINDS, RANGES, SECONDS, Gateway, corpus, gateways

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
    parser.add_argument("--judge", action="store_true", help="train nothing: judge the model that is there")
    options = parser.parse_args()
    if not options.judge:
        train(options.into, replace(RECIPE, epochs=options.epochs), options.gateways)
    judge(options.into, options.page, options.gateways)
    return 0


def train(into: Path, recipe: Recipe, of_each: int | None) -> None:
    """Learn from the made workloads, and write the model with what its card says before it is judged."""
    learned, looked_at = (corpus(list(gateways(split, of_each))) for split in ("train", "validation"))
    print(f"learning from {len(learned.features)} partitions' {SECONDS} s", file=sys.stderr)
    fitted = fit(learned, looked_at, recipe, "made workloads")
    print(f"losses: {', '.join(f'{loss:.4f}' for loss in fitted.losses)}", file=sys.stderr)
    data = {
        "made_workloads": {split: (of_each or ranges.of_each) * len(ALL_KINDS) for split, ranges in RANGES.items()},
        "seconds_each": SECONDS,
        "partitions_learned_from": len(learned.features),
    }
    training = {**asdict(recipe), "epochs_kept": fitted.kept}
    into.mkdir(parents=True, exist_ok=True)
    for name, content in {**fitted.files, CARD: Card(data, training, Figures({}, {}, {})).to_bytes()}.items():
        write_whole(into / name, content)
        print(f"{into / name}: {len(content):,} bytes", file=sys.stderr)


def judge(folder: Path, into: Path, of_each: int | None) -> None:
    """Hold the model against others on the test workloads; write its card and its page."""
    tested = list(gateways("test", of_each))
    held_out = corpus(tested)
    found = judged(held_out, tested, folder)
    kinds = np.array([tested[group].kind for group in held_out.groups])
    by_kind = {kind: _of(held_out, found, kinds == kind) for kind in dict.fromkeys(kinds.tolist())}
    known = json.loads((folder / CARD).read_bytes())
    card = Card(known["data"], known["training"], figures(held_out, found, simple=False))
    write_whole(folder / CARD, card.to_bytes())
    sizes = {name: (folder / name).stat().st_size for name in MODEL_FILES.values()}
    write_whole(into, page(card, by_kind, sizes, (*SHOWN, MIX, MIX_WITH)).encode())


def judged(held_out: Sequences, tested: Sequence[Gateway], folder: Path) -> dict[str, NDArray[np.float64]]:
    """Forecasts by name, rows × steps × targets × 3: the network's, those it is held against, and the mixes'.

    Of all but the network's there is the middle only, as all three.
    """
    found = {NETWORK: forecasts(Network(folder), held_out.features)}
    found |= {name: np.zeros_like(found[NETWORK]) for name in (*SHOWN, MIX, MIX_WITH)}
    first = 0
    for gateway in tested:
        rows = slice(first, first + len(gateway.observed.busiest()))
        _run(gateway, ensemble(gateway.workers), {name: found[name][rows] for name in SHOWN}, found[MIX][rows])
        _run(gateway, ensemble(gateway.workers, [RecurrentForecaster(Network(folder))]), {}, found[MIX_WITH][rows])
        first = rows.stop
    return found


def _run(
    gateway: Gateway, chooser: Chooser, singles: Mapping[str, NDArray[np.float64]], chosen: NDArray[np.float64]
) -> None:
    """Fill in what the chooser, and single predictors within it, say after each interval."""
    partitions = gateway.observed.busiest()
    for at, intervals in enumerate(gateway.observed.intervals[:-1]):
        chooser.observe(intervals)
        said, middles = chooser.forecast(), chooser.middles()
        for row, partition in enumerate(partitions):
            if partition not in said:
                continue
            for place, target in enumerate(TARGETS):
                chosen[row, at, place] = getattr(said[partition], target).middle
                for name, made in singles.items():
                    made[row, at, place] = middles[partition][target][name]


def _of(held_out: Sequences, found: Mapping[str, NDArray[np.float64]], rows: NDArray[np.bool_]) -> Figures:
    return figures(held_out.rows(rows), {name: values[rows] for name, values in found.items()}, simple=False)


if __name__ == "__main__":
    raise SystemExit(main())
