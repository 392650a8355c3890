"""What the commands print: one JSON value or a table on stdout, everything else on stderr.

Text is printed as it is: names of files and models are not ours, and may look like markup.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from midstream.errors import printable


class AcceleratorName(StrEnum):
    """What runs the layers, `midstream.engines.Accelerator` for the command line."""

    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    edgetpu = "edgetpu"


AcceleratorOption = Annotated[
    AcceleratorName, typer.Option(help="What runs the layers here; an error where it is not there.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value on stdout, nothing else there.")]


class _Plain(Console):
    """Prints text as it is, but for what could make a terminal do things."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As Rich's, with texts made harmless."""
        super().print(*(_shown(each) if isinstance(each, str) else each for each in objects), **options)


screen = _Plain()
notes = _Plain(stderr=True)


def print_json(value: Any) -> None:
    """The one JSON value on stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table; columns whose name ends in a unit or a count are set flush right."""
    table = Table(title=_shown(title), title_justify="left")
    for column in columns:
        numeric = any(row[columns.index(column)][:1].isdigit() for row in rows)
        # Too wide for the screen, a cell goes on in the next line: a figure or a name that is cut short is another.
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_shown, row))
    screen.print(table, soft_wrap=False)


def _shown(text: str) -> str:
    return "\n".join(printable(line, len(line)) for line in text.split("\n"))


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call ``stop`` once the process is told to end by SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
