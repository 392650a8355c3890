"""The ``midstream`` command, from its first moment on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from midstream.cli.guard import guarded

if TYPE_CHECKING:
    import typer


def run() -> NoReturn:
    """Run the command line; a user's mistake is one line on stderr and an exit code, never a traceback."""
    guarded(_commands)


def _commands() -> typer.Typer:
    from midstream.cli.commands import app

    return app


if __name__ == "__main__":
    run()
