"""``midstream broker``: a broker of one's own, in the foreground."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from midstream.cli.output import notes, on_stop_signal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(broker)


def broker(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port on loopback; 0: a free one.")] = 1883,
) -> None:
    """Run mosquitto if it is installed, else iotcore, on loopback, until Ctrl-C."""
    from midstream.broker import Broker

    stop = threading.Event()
    on_stop_signal(stop.set)
    with Broker(port=port) as running:
        notes.print(f"{running.kind} is ready at {running.url}")
        running.wait(stop)
