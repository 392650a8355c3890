"""The ``midstream`` command's subcommands, ours and those that other distributions register."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated

import typer

from midstream import __version__
from midstream.cli import (
    analyze,
    bench,
    broker,
    calibrate,
    exits,
    gateway,
    history,
    inspect,
    logs,
    plan,
    profile,
    replay,
    run_device,
    simulate,
    trace,
)

app = typer.Typer(
    name="midstream",
    help="Run one TFLite or ONNX model on a small board and a gateway at once, cut where it pays, over MQTT 5.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"midstream {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Options that come before the subcommand."""
    del version
    if context.invoked_subcommand is None:
        known = ", ".join(sorted(getattr(context.command, "commands", {})))
        raise typer.BadParameter(f"a command is missing; take one of {known}")
    logs.set_up(logs.LogLevel.info if verbose else logs.LogLevel.warning)


for module in (
    inspect,
    calibrate,
    exits,
    plan,
    simulate,
    profile,
    analyze,
    gateway,
    run_device,
    replay,
    history,
    broker,
    bench,
    trace,
):
    module.register(app)
for entry in entry_points(group="midstream.commands"):
    entry.load()(app)
