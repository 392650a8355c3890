"""``midstream bench``: measurements of a bundle on this machine, of the way to a gateway, and of policies."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from midstream.cli.bench_adaptive import adaptive
from midstream.cli.calibrate import codecs
from midstream.cli.output import JsonOption, print_json, print_table
from midstream.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(no_args_is_help=False, pretty_exceptions_enable=False)
    group.callback()(bench)
    group.command()(codecs)
    group.command()(transport)
    group.command()(adaptive)
    app.add_typer(group, name="bench")


def bench() -> None:
    """Measure a bundle on this machine, the way to a gateway, or policies on real processes; show what was measured."""


def transport(
    broker: Annotated[
        str | None, typer.Option(help="URL of the broker to measure, with the link to it; default: one of its own.")
    ] = None,
    credentials: Annotated[Path | None, typer.Option(help="Folder with a device's credentials.")] = None,
    peer_credentials: Annotated[
        Path | None, typer.Option(help="Folder with a gateway's credentials, for the other process.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100_000, help="Round trips of each size.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Measure tensors to another process and back, through a broker: 1 kB, 50 kB and 3 MB."""
    from midstream.broker import Broker
    from midstream.measuring.transport import SIZES_BYTES, STEPS, paired

    if broker is None and (credentials or peer_credentials):
        raise InputError("credentials are for a broker that is there already; name it with --broker")
    with ExitStack() as stack:
        url = broker or stack.enter_context(Broker()).url
        pair = stack.enter_context(paired(url, credentials, peer_credentials))
        measured = [pair.measure(size, rounds) for size in SIZES_BYTES]
    if as_json:
        print_json(
            [
                {
                    "bytes": each.size_bytes,
                    "rounds": rounds,
                    "p50_ms": each.percentile_ms(50),
                    "p99_ms": each.percentile_ms(99),
                    "steps_ms": each.steps_ms,
                }
                for each in measured
            ]
        )
        return
    print_table(
        f"Tensors there and back, {rounds} times each",
        ["bytes", "p50, ms", "p99, ms", *(f"{step}, ms" for step in STEPS)],
        [
            [
                f"{each.size_bytes:,}",
                *(f"{each.percentile_ms(share):.2f}" for share in (50, 99)),
                *(f"{each.steps_ms[step]:.2f}" for step in STEPS),
            ]
            for each in measured
        ],
    )
