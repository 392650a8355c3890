"""``python -m midstream_converters MODEL -o BUNDLE``: the convert command by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midstream.cli.guard import guarded

if TYPE_CHECKING:
    import typer


def _command() -> typer.Typer:
    import typer

    from midstream_converters.cli import convert

    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(convert)
    return app


if __name__ == "__main__":
    guarded(_command)
