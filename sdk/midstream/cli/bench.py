"""``midstream bench``: measurements of a bundle on this machine."""

from __future__ import annotations

import typer

from midstream.cli.calibrate import codecs


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(no_args_is_help=False, pretty_exceptions_enable=False)
    group.callback()(bench)
    group.command()(codecs)
    app.add_typer(group, name="bench")


def bench() -> None:
    """Measure a bundle on this machine, and show what was measured."""
