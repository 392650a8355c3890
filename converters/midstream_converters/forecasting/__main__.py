"""``python -m midstream_converters.forecasting HISTORY -o FOLDER``: the command by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midstream.cli.guard import guarded

if TYPE_CHECKING:
    import typer


def _command() -> typer.Typer:
    import typer

    from midstream_converters.forecasting.command import train_forecast

    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(train_forecast)
    return app


if __name__ == "__main__":
    guarded(_command)
