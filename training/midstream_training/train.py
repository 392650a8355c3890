"""Train both networks and write them into the SDK: ``scripts/train_complexity``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midstream.analysis.views import STEPS
from midstream_training.corpus import Corpus, Kind, inputs, measured
from midstream_training.linear import Linear
from midstream_training.pairs import pairs
from midstream_training.sources import ROOT, Split, fetch
from midstream_training.targets import Reference, raw_target
from midstream_training.views import Seen, seen

MODELS = ROOT / "sdk" / "midstream" / "models"
COUNTS: dict[Kind, dict[Split, int]] = {
    "image": {"train": 1400, "validation": 150, "test": 300},
    "audio": {"train": 700, "validation": 150, "test": 250},
}
PAIRS = 360
EPOCHS = {"image": 50, "audio": 60}

_BATCH = 32
_PATIENCE = 12
_RATE = 2e-3
# What a pair in the wrong order, or less than this apart, adds to the loss.
_PAIR_SHARE, _PAIR_APART = 1.0, 0.03


@dataclass(frozen=True)
class Examples:
    """Inputs, as the networks see them, with their targets of 0–1."""

    seen: Seen
    targets: NDArray[np.float32]


def main() -> int:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("image", "audio"), action="append", help="only this one")
    parser.add_argument("--into", type=Path, default=MODELS, help="folder of the models")
    parser.add_argument("--inputs", type=int, help="train on so many only, test nothing: to try it out")
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    fetch()
    options.into.mkdir(parents=True, exist_ok=True)
    for kind in options.kind or ("image", "audio"):
        train(kind, options.into, options.inputs, options.epochs)
    return 0


def train(kind: Kind, folder: Path, count: int | None = None, epochs: int | None = None) -> None:
    """One network, as TFLite and as ONNX, into the folder."""
    counts = COUNTS[kind]
    learned = measured(kind, "train", count or counts["train"])
    judged = measured(kind, "validation", min(count or counts["validation"], counts["validation"]))
    reference = Reference.of(learned.sizes, learned.disagreements)
    fitted, tried = examples(kind, learned, reference), examples(kind, judged, reference)
    found = pairs(kind, "train", min(count or PAIRS, PAIRS))
    ordered = [pair if pair.sign > 0 else None for pair in found]
    less = [pair.before if rises else pair.after for pair, rises in zip(found, ordered, strict=True)]
    more = [pair.after if rises else pair.before for pair, rises in zip(found, ordered, strict=True)]
    model = fit(kind, fitted, tried, (seen(kind, less), seen(kind, more)), epochs or EPOCHS[kind])
    from midstream_training import nets

    for suffix, content in (("tflite", nets.to_tflite(model)), ("onnx", nets.to_onnx(model))):
        path = folder / f"complexity_{kind}.{suffix}"
        path.write_bytes(content)
        print(f"{path}: {len(content):,} bytes", file=sys.stderr)


def examples(kind: Kind, corpus: Corpus, reference: Reference) -> Examples:
    """A corpus as examples."""
    raw = raw_target(corpus.sizes, corpus.disagreements, reference)
    targets = (reference.percentile(raw) / 100).astype(np.float32)
    return Examples(seen(kind, inputs(kind, corpus.split, corpus.seeds)), targets)


def fit(kind: Kind, fitted: Examples, tried: Examples, ordered: tuple[Seen, Seen], epochs: int) -> Any:
    """Mean absolute error, and pairs in their order; kept is what did best on validation."""
    from midstream_training import nets

    nets.seed()
    linear = Linear.fit(fitted.seen.features, fitted.targets)
    model = nets.image_net(linear) if kind == "image" else nets.audio_net(linear)
    trainer = nets.Trainer(model, _RATE, epochs * (len(fitted.targets) // _BATCH), _PAIR_SHARE, _PAIR_APART)
    rng = np.random.default_rng(0)
    best, kept, since = np.inf, model.get_weights(), 0
    started = time.monotonic()
    for epoch in range(epochs):
        order = rng.permutation(len(fitted.targets))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            rows = order[start : start + _BATCH]
            couples = rng.integers(0, len(ordered[0].views), _BATCH // 2)
            turn = _turn(kind, rng)
            trainer.step(
                turn(fitted.seen.views[rows]), fitted.seen.features[rows], fitted.targets[rows],
                *(part for each in ordered for part in (turn(each.views[couples]), each.features[couples])),
            )  # fmt: skip
        error = float(np.abs(trainer.predict(tried.seen) - tried.targets).mean())
        since += 1
        if error < best:
            best, kept, since = error, model.get_weights(), 0
        if since == 0 or epoch % 10 == 9:
            print(f"{kind}, epoch {epoch}: {error:.4f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
        if since > _PATIENCE:
            break
    model.set_weights(kept)
    print(
        f"{kind}: linear {np.abs(linear(tried.seen.features) - tried.targets).mean():.4f}, net {best:.4f}",
        file=sys.stderr,
    )
    return model


def _turn(kind: Kind, rng: np.random.Generator) -> Any:
    """What costs the models about the same: pictures mirrored both ways, seconds shifted in a circle and reversed."""
    if kind == "audio":
        shift, along = int(rng.integers(STEPS)), int(rng.choice((-1, 1)))
        return lambda views: np.roll(views[:, ::along], shift, axis=1)
    down, along = rng.choice((-1, 1), 2)
    return lambda views: np.ascontiguousarray(views[:, ::down, ::along])


if __name__ == "__main__":
    raise SystemExit(main())
