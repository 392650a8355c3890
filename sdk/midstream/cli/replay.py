"""``midstream replay``: a log of decisions, repeated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import VerificationError, printable

if TYPE_CHECKING:
    from midstream.partitioning.replay import Difference

_SHOWN_LETTERS = 80


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


def replay(
    log: Annotated[Path, typer.Argument(help="What midstream run --decisions has written.")],
    as_json: JsonOption = False,
) -> None:
    """Repeat every decision of a log by the code that made it, and compare exactly."""
    from midstream import __version__
    from midstream.decision_log import replay_file

    found = replay_file(log)
    replayed, header = found.replay, found.replay.header
    different = replayed.differences
    if found.cut_off:
        notes.print(f"{log}: the last line is cut off and was left out")
    if header is not None and header.midstream != __version__:
        notes.print(
            f"{log}: made by midstream {printable(header.midstream, _SHOWN_LETTERS)}, repeated by {__version__}"
        )
    if as_json:
        print_json(
            {
                "decisions": replayed.decisions,
                "equal": replayed.decisions - len(different),
                "differences": [asdict(each) for each in different],
                "cut_off": found.cut_off,
                "header": None if header is None else asdict(header),
            }
        )
    elif different:
        _show(different)
    if different:
        raise VerificationError(
            f"{log}: {len(different)} of {replayed.decisions} decisions came out otherwise, the first of them "
            f"decision {different[0].decision}"
        )
    if not as_json:
        screen.print(f"{replayed.decisions} decisions, all equal")


def _show(differences: list[Difference]) -> None:
    print_table(
        "decisions that came out otherwise",
        ["decision", "recorded", "recorded ms", "repeated", "repeated ms"],
        [
            [
                str(each.decision),
                printable(each.recorded, _SHOWN_LETTERS),
                repr(each.recorded_ms),
                printable(each.repeated, _SHOWN_LETTERS),
                repr(each.repeated_ms),
            ]
            for each in differences
        ],
    )
