"""What goes with a forecast model: what it is for, what it was trained on, and how well it does; JSON and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from midstream.allocation.features import FEATURES, QUANTILES, TARGETS
from midstream_converters.forecasting.judging import Figures
from midstream_converters.forecasting.weights import UNITS

NETWORK = "network"
"""What the network's own forecasts are called among the figures, which come first."""
BEFORE = "before"
"""The model that it was trained on from."""


_ESSENTIALS: Mapping[str, Any] = {"features": list(FEATURES), "units": UNITS}


def essentials() -> bytes:
    """A card that says no more than what a network must have to be run."""
    return _json(_ESSENTIALS)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Card:
    """``data`` and ``training`` are plain values by name, as they are told; ``figures`` of what was held out."""

    data: Mapping[str, Any]
    training: Mapping[str, Any]
    figures: Figures

    def to_json(self) -> dict[str, Any]:
        """As it is written; what was not measured is null."""
        return {
            **_ESSENTIALS,
            "data": dict(self.data),
            "training": dict(self.training),
            "held_out": {
                "intervals": dict(self.figures.intervals),
                "errors": {
                    name: {target: _number(value) for target, value in by_target.items()}
                    for name, by_target in self.figures.errors.items()
                },
                "coverage": {
                    target: dict(zip(map(str, QUANTILES), map(_number, shares), strict=True))
                    for target, shares in self.figures.coverage.items()
                },
            },
        }

    def to_bytes(self) -> bytes:
        """The JSON file."""
        return _json(self.to_json())

    def to_markdown(self) -> str:
        """For people."""
        lines = ["# Forecast model", "", "Made by `midstream train-forecast`.", "", "## Data", ""]
        lines += [f"- {_words(name)}: {_told(value)}" for name, value in self.data.items()]
        lines += ["", "## Training", ""]
        lines += [f"- {_words(name)}: {_told(value)}" for name, value in self.training.items()]
        lines += ["", "## Errors on what was held out", ""]
        lines += errors_table(self.figures)
        lines += ["", "The mean absolute error by the mean of what was forecast, over partitions.", ""]
        lines += coverage_table(self.figures)
        lines += ["", "How often what came was at most the quantile.", "", *self._remarks()]
        return "\n".join(lines).rstrip() + "\n"

    def _remarks(self) -> Iterator[str]:
        for target in TARGETS:
            ours = self.figures.errors[NETWORK][target]
            others = {name: errors.get(target, math.nan) for name, errors in self.figures.errors.items()}
            del others[NETWORK]
            better = [name for name, error in others.items() if error < ours]
            if better:
                best = min(better, key=lambda name: others[name])
                yield f"- For {target} the network adds nothing: {best} errs less."


def errors_table(figures: Figures) -> list[str]:
    """Forecast by target, the best in bold."""
    best = {
        target: min(
            (errors[target] for errors in figures.errors.values() if _counts(errors.get(target))), default=math.nan
        )
        for target in TARGETS
    }
    lines = [f"| forecast | {' | '.join(TARGETS)} |", f"| --- |{' ---: |' * len(TARGETS)}"]
    for name, errors in figures.errors.items():
        cells = (_cell(errors.get(target), best[target]) for target in TARGETS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def coverage_table(figures: Figures) -> list[str]:
    """Target by quantile."""
    names = " | ".join(f"at most the {quantile:g} quantile" for quantile in QUANTILES)
    lines = [f"| target | intervals | {names} |", f"| --- | ---: |{' ---: |' * len(QUANTILES)}"]
    for target in TARGETS:
        shares = " | ".join("" if math.isnan(share) else f"{share:.1%}" for share in figures.coverage[target])
        lines.append(f"| {target} | {figures.intervals[target]:,} | {shares} |")
    return lines


def _counts(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _cell(value: float | None, best: float) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"**{value:.3f}**" if value <= best else f"{value:.3f}"


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _words(name: str) -> str:
    return name.replace("_", " ")


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)} {_told(each)}" for name, each in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
