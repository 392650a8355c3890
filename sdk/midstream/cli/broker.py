"""``midstream broker``: a broker of one's own, in the foreground."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.output import notes, on_stop_signal

if TYPE_CHECKING:
    from midstream.securing import SecureFolder

_PORT = 1883

_SecureOption = Annotated[
    Path | None,
    typer.Option("--secure", help="Folder with an authority, certificates and roles; made where there is none."),
]
_NamesOption = list[str] | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(broker)


def broker(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port, 0: a free one; 1883, with --secure 8883.")
    ] = None,
    secure: _SecureOption = None,
    device: Annotated[_NamesOption, typer.Option(help="A device to be let in; may be repeated.")] = None,
    gateway: Annotated[_NamesOption, typer.Option(help="A gateway to be let in; may be repeated.")] = None,
    remove: Annotated[_NamesOption, typer.Option(help="A device or gateway to be shut out; may be repeated.")] = None,
    host: Annotated[
        _NamesOption,
        typer.Option(
            help="A name or address that clients reach this machine by, to listen beyond loopback: at this one "
            "address, or, with a name or several, at all of them; may be repeated."
        ),
    ] = None,
    websockets: Annotated[int | None, typer.Option(min=1, max=65535, help="A port for wss:// as well.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Make the certificates anew, for the same keys.")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make or complete the folder.")] = False,
) -> None:
    """Run a broker until Ctrl-C: on loopback without accounts, or with --secure for certified clients only."""
    from midstream.broker import Broker
    from midstream.securing.configuration import SECURE_PORT, listeners
    from midstream.securing.folder import SecureFolder, listen_address

    stop = threading.Event()
    on_stop_signal(stop.set)
    if secure is None:
        if device or gateway or remove or host or renew or prepare or websockets is not None:
            raise typer.BadParameter("these options go with --secure DIR; only --port goes without it")
        running = Broker(port=_PORT if port is None else port)
    else:
        folder = SecureFolder.open(
            secure, devices=device or (), gateways=gateway or (), hosts=host or (), remove=remove or (), renew=renew
        )
        port, address = SECURE_PORT if port is None else port, listen_address(host or ())
        running = Broker(port, host=address, secure=folder, websockets=websockets)
        folder.write_installable(listeners(port or SECURE_PORT, address, websockets))
        _tell(folder)
    if prepare:
        return
    with running:
        ways = " and ".join(filter(None, (running.url, running.websockets_url)))
        notes.print(f"{running.kind} is ready at {ways}")
        running.wait(stop)


def _tell(folder: SecureFolder) -> None:
    """What the operator has to know, and to do next."""
    for note in folder.notes:
        notes.print(f"warning: {note}")
    notes.print(f"the broker's certificate is good for {', '.join(folder.hosts)}")
    for member in folder.members:
        notes.print(f"{member.role} {member.name}: copy {folder.client(member.name)} to it, for --credentials")
