"""``python -m midstream_converters MODEL -o BUNDLE``: the convert command by itself."""

from __future__ import annotations

import typer

from midstream.cli.guard import guarded
from midstream_converters.cli import convert

if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(convert)
    guarded(app)
