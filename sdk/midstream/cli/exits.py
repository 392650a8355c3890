"""``midstream exits``: an early exit of a bundle, learned from the model's own answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.calibrating import TriedExit
    from midstream.exits import Exit

_TARGET = 0.99


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(exits)


def exits(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    calibration: Annotated[
        Path, typer.Option(help="Inputs: an .npz file, or a folder of .npz files, pictures or sounds; no labels.")
    ],
    agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the early answers that shall be the whole model's.")
    ] = _TARGET,
    cuts: Annotated[str | None, typer.Option(help="Only these cuts, separated by commas; default: all.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="At most this many inputs; default 2000.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn to answer easy inputs on the device, after a part of the model; without labels.

    Where no exit would save the device time, it says so, and one that is there is deleted.
    """
    from midstream.bundle import Bundle
    from midstream.calibrating import (
        MAX_EXIT_INPUTS,
        check_exit_target,
        learn_exit,
        read_inputs,
        remove_exit,
        write_exit,
    )

    named = None if cuts is None else list(dict.fromkeys(part.strip() for part in cuts.split(",") if part.strip()))
    if named == []:
        raise InputError(f"--cuts {cuts!r} names no cut; give some separated by commas, or leave it out for all")
    # What was learned earlier may be damaged, or another bundle's: it is about to be replaced.
    opened = Bundle.open(bundle, calibrated=False)
    check_exit_target(opened)
    found = learn_exit(
        opened,
        read_inputs(opened, calibration, samples or MAX_EXIT_INPUTS),
        target=agreement,
        cuts=named,
        progress=lambda what: notes.print(f"learning from {what}"),
    )
    target = None if found.exit is None else write_exit(opened, found.exit)
    if found.exit is None:
        remove_exit(opened)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "file": None if target is None else str(target),
                "exit": None if found.exit is None else exit_json(found.exit),
                "reason": found.reason,
                "tried": [_tried_json(each) for each in found.tried],
            }
        )
        return
    if found.tried:
        print_table(
            f"{opened.name}: early exits for an agreement of {agreement:g}, on inputs that were held out",
            ["cut", "head + exit", "answered", "agreement", "device saves", ""],
            [_row(each, found.exit) for each in found.tried],
        )
    if found.exit is None:
        screen.print(f"no early exit: {found.reason}")
        return
    screen.print(
        f"{target} written: after the head of {found.exit.cut}, {found.exit.answered_share:.0%} of "
        f"{found.exit.held_out} held-out inputs are answered, {found.exit.agreement:.1%} of them as by the "
        f"whole model; used where --min-agreement is at most {math.floor(found.exit.assured * 1e4) / 1e4:g}"
    )
    if found.exit.agreement < agreement:
        notes.print(f"on the held-out inputs that is less than the {agreement:g} asked for; give more inputs")


def exit_json(early_exit: Exit) -> dict[str, Any]:
    """What ``--json`` tells of an exit."""
    chance = early_exit.chance
    return {
        "cut": early_exit.cut,
        "output": early_exit.output,
        "threshold": early_exit.threshold,
        "target": early_exit.target,
        "answered_share": early_exit.answered_share,
        "agreement": early_exit.agreement,
        "assured": early_exit.assured,
        "samples": early_exit.samples,
        "held_out": early_exit.held_out,
        "head_ms": early_exit.head_ms,
        "exit_ms": early_exit.exit_ms,
        "whole_ms": early_exit.whole_ms,
        "predicted_from": "the mean" if chance is None else "features",
        "prediction_error": None if chance is None else {"brier": chance.error, "of_the_mean": chance.constant_error},
    }


def _tried_json(tried: TriedExit) -> dict[str, Any]:
    return {
        "cut": tried.cut,
        "reason": tried.reason,
        "cost_share": _number(tried.cost_share),
        "answered_share": tried.answered_share,
        "agreement": _number(tried.agreement),
        "gain": _number(tried.gain),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(tried: TriedExit, chosen: Exit | None) -> list[str]:
    def share(value: float, digits: int = 0) -> str:
        return "" if math.isnan(value) else f"{value:.{digits}%}"

    note = tried.reason or ("chosen" if chosen is not None and chosen.cut == tried.cut else "")
    known = not math.isnan(tried.agreement)
    return [
        tried.cut,
        share(tried.cost_share),
        share(tried.answered_share) if known else "",
        share(tried.agreement, 1),
        share(tried.gain),
        note,
    ]
