"""``midstream history``: what requests have used, summed up or as a table for other programs."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.history.summary import PartitionSummary

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])")
_DIGEST_LETTERS = 12


class MachineName(StrEnum):
    """Whose requests."""

    device = "device"
    gateway = "gateway"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(history)


def history(
    file: Annotated[Path, typer.Argument(help="What midstream gateway or run has written with --history.")],
    since: Annotated[
        str | None, typer.Option(help="Only what came from then on: 90s, 15m, 2h or 7d ago, or 2026-11-30T08:00 (UTC).")
    ] = None,
    machine: Annotated[MachineName | None, typer.Option(help="Only the requests of this kind of machine.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the requests to this .csv or .parquet file, instead of the summary.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sum up what requests have used, by bundle and stage, or export them."""
    from midstream.history import History
    from midstream.history.export import export as write
    from midstream.history.export import writer_for
    from midstream.history.summary import summarise

    since_s = float("-inf") if since is None else _time_s(since, time.time())
    if export is not None:
        writer_for(export)
    with History.open(file) as opened:
        usages = opened.between(since_s, machine=None if machine is None else machine.value)
        if export is not None:
            rows = write(usages, export)
            if as_json:
                print_json({"file": str(file), "export": str(export), "rows": rows})
            else:
                notes.print(f"{rows} requests written to {export}")
            return
        summaries = summarise(usages)
    if as_json:
        print_json({"file": str(file), "partitions": [asdict(each) for each in summaries]})
    else:
        _show(file, summaries)


def _time_s(text: str, now_s: float) -> float:
    """Seconds since 1970 of a time, or of one so long before ``now_s``; raises InputError where it is neither."""
    if ago := _AGO.fullmatch(text):
        return now_s - float(ago[1]) * _UNITS_S[ago[2]]
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InputError(
            f"--since {text!r} is no time; give one such as 90s, 15m, 2h or 7d, or 2026-11-30T08:00 (UTC)"
        ) from None


def _show(file: Path, summaries: list[PartitionSummary]) -> None:
    if not summaries:
        screen.print(f"{file}: no requests")
        return
    for each in summaries:
        screen.print(
            f"{each.machine}, {_stage(each)}: {each.requests:,} requests{_rate(each)}, {_counts(each.outcomes)}"
        )
        if times := _times(each):
            print_table("", ["ms", "mean", "p50", "p95", "p99"], times)
        memory = "" if each.peak_bytes is None else f"; at most {each.peak_bytes / 1e6:.0f} MB resident"
        codecs = f"{_counts(each.codecs)}; " if each.codecs else ""
        screen.print(f"{codecs}received {each.received_bytes:,} bytes, sent {each.sent_bytes:,}{memory}\n")
    first, last = min(each.first_s for each in summaries), max(each.last_s for each in summaries)
    total = sum(each.requests for each in summaries)
    screen.print(f"{total:,} requests from {_shown(first)} to {_shown(last)} UTC")


def _stage(each: PartitionSummary) -> str:
    if not each.bundle:
        return "what is not there"
    return f"bundle {each.bundle[:_DIGEST_LETTERS]}, {each.cut or 'input'} → {each.next_cut or 'end'}"


def _rate(each: PartitionSummary) -> str:
    return "" if each.rate_hz is None else f", {each.rate_hz:.3g} a second"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _times(each: PartitionSummary) -> list[list[str]]:
    """The rows of a table of milliseconds; of processor time there are only means."""
    spreads = [(name, spread) for name, spread in (("latency", each.latency_ms), ("queue", each.queue_ms)) if spread]
    return [
        *([name, *(f"{value:.2f}" for value in astuple(spread))] for name, spread in spreads),
        *([f"CPU, {step}", f"{ms:.3f}", "", "", ""] for step, ms in each.cpu_ms.items()),
    ]


def _shown(time_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{time_s:g} s"
