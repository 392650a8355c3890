"""``midstream trace``: links over time, made and shown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.output import JsonOption, print_json, print_table, screen
from midstream.errors import InputError
from midstream.files import write_whole

if TYPE_CHECKING:
    from midstream.trace_summary import TraceSummary


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(no_args_is_help=False, pretty_exceptions_enable=False)
    group.callback()(trace)
    group.command()(make)
    group.command()(show)
    app.add_typer(group, name="trace")


def trace() -> None:
    """Make a link's rates and round trips over time, or show what is in such a file."""


def make(
    kind: Annotated[
        str, typer.Argument(help="steady, wifi, wifi-edge, lte, lte-driving, umts, 5g or satellite (docs/traces.md).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .csv file to write, or to replace.")],
    seconds: Annotated[int, typer.Option(help="How long it lasts, a row a second.")] = 600,
    seed: Annotated[int, typer.Option(help="The same seed gives the same file, anywhere.")] = 0,
    mean_kbps: Annotated[float | None, typer.Option(help="The uplink's mean. Default: the kind's.")] = None,
    rtt_ms: Annotated[float | None, typer.Option(help="The undisturbed round trip. Default: the kind's.")] = None,
    outage_every: Annotated[
        float | None, typer.Option(help="Take the link down once in so many seconds, at their end.")
    ] = None,
    outage_length: Annotated[float | None, typer.Option(help="For how many seconds it is down then.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a synthetic link over time, and write it as CSV."""
    from midstream.trace_making import make_trace
    from midstream.trace_summary import TraceSummary

    if (outage_every is None) != (outage_length is None):
        raise InputError("outages take both --outage-every and --outage-length, in seconds")
    made = make_trace(kind, seconds, seed, mean_kbps, rtt_ms)
    if outage_every is not None and outage_length is not None:
        made = made.with_outages(outage_every, outage_length)
    if output.exists() and not (output.is_file() or output.is_dir()):
        # Who may do everything would put a file into the place of /dev/null, or of a pipe.
        raise InputError(f"{output}: the trace cannot be written there: it is no regular file; give another --output")
    try:
        write_whole(output, made.to_csv())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{output}: the trace cannot be written there: {reason}; give another --output") from None
    _tell(output, TraceSummary.of(made), as_json)


def show(
    file: Annotated[Path, typer.Argument(help="A trace: CSV with t_s, uplink_kbps, rtt_ms.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a link over time is like: its rates, round trips, length, and how much of it is down."""
    from midstream.trace_summary import TraceSummary
    from midstream.traces import Trace

    _tell(file, TraceSummary.of(Trace.open(file)), as_json)


def _tell(file: Path, summary: TraceSummary, as_json: bool) -> None:
    if as_json:
        print_json({"file": str(file), **asdict(summary)})
        return
    columns = (("uplink, kbit/s", summary.uplink_kbps), ("downlink, kbit/s", summary.downlink_kbps))
    rows = [
        [name, *(f"{value:,.0f}" for value in (each.mean, each.p5, each.median, each.p95)), f"{each.variation:.2f}"]
        for name, each in columns
    ]
    rtt = summary.rtt_ms
    rows.append(
        [
            "round trip, ms",
            *(f"{value:.1f}" for value in (rtt.mean, rtt.p5, rtt.median, rtt.p95)),
            f"{rtt.variation:.2f}",
        ]
    )
    print_table(str(file), ["", "mean", "5 %", "median", "95 %", "deviation over mean"], rows)
    screen.print(f"{summary.seconds:g} s in {summary.rows} rows, down for {summary.down_share:.1%} of the time")
