"""``midstream train-forecast``, registered with the command line by entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from midstream.cli.output import JsonOption, notes, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-forecast")(train_forecast)


def train_forecast(
    history: Annotated[Path, typer.Argument(help="A gateway's history, as midstream gateway --history keeps it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The model's folder; a forecast model that is there is replaced.")
    ],
    start: Annotated[
        Path | None, typer.Option("--from", help="A forecast model's folder: train on from there, not anew.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the network that forecasts what partitions need on a history; its last fifth is held out to judge it.

    With --from, a model that does no better there than the one it began as is not written: exit code 3.
    """
    from midstream.history import History
    from midstream_converters.forecasting.card import BEFORE, NETWORK
    from midstream_converters.forecasting.observing import observed
    from midstream_converters.forecasting.training import train_forecast

    with History.open(history) as opened:
        known = observed(opened)

    def tell() -> None:
        notes.print(f"{history}: {len(known.intervals):,} s of a gateway's work; training takes some minutes")

    card = train_forecast(known, output, str(history), start, on_begin=tell)
    if as_json:
        print_json({"model": str(output), **card.to_json()})
        return
    errors = card.figures.errors
    told = [
        f"{name} {card.figures.error(name):.3f}"
        for name in (NETWORK, BEFORE, "last value", "EWMA 0.2")
        if name in errors
    ]
    notes.print(f"{output} written; mean error on what was held out: {', '.join(told)}; more in its forecast.md")
