"""``midstream simulate``: what each way of deciding would come to, on a board, over a link, with gateways."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.objective import AgreementOption, KeepInputOption, MemoryOption, memory_bytes
from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError, ProfileError
from midstream.profiles import load_profile, profile_names

if TYPE_CHECKING:
    from midstream.bundle import Bundle
    from midstream.profiles import Profile
    from midstream.simulating import Kind, Scenario, Simulation
    from midstream.traces import Trace

# Whose latencies are drawn over time; and so many rows of a link at most.
_OVER_TIME = ("local", "best_static", "clairvoyant", "adaptive")
_MOST_ROWS = 100_000


class ObjectiveName(StrEnum):
    """What to minimise."""

    latency = "latency"
    energy = "energy"


class ArrivalsName(StrEnum):
    """How inputs come."""

    periodic = "periodic"
    poisson = "poisson"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    bundle: Annotated[
        list[Path], typer.Option("--bundle", help="A bundle's folder; several are dealt to the devices in turn.")
    ],
    device: Annotated[str, typer.Option(help=f"Profile of the board, or a .toml file: {', '.join(profile_names())}.")],
    gateway: Annotated[str, typer.Option(help="Profile of the gateway.")],
    trace: Annotated[Path, typer.Option(help="The link: CSV with t_s, uplink_kbps, rtt_ms.")],
    rate: Annotated[float, typer.Option(help="Inputs a second, of each device.")],
    seconds: Annotated[float, typer.Option(help="For how long inputs come.")],
    further: Annotated[
        list[Path] | None, typer.Argument(metavar="[BUNDLE]…", help="More bundles.", show_default=False)
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Ways of deciding, A,B,…; default: all ten (docs/simulate.md).")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures.")] = 0,
    devices: Annotated[int, typer.Option(help="How many devices, each over a link of its own.")] = 1,
    gateways: Annotated[int, typer.Option(help="How many gateways they share.")] = 1,
    workers: Annotated[
        int | None, typer.Option(help="Inputs that a gateway runs at once. Default: its profile's cores.")
    ] = None,
    gateway_load: Annotated[float, typer.Option(help="Share of the gateways that others keep busy, 0–0.99.")] = 0.0,
    overhead_ms: Annotated[
        float, typer.Option(help="What broker and processes add to each request to a gateway, ms.")
    ] = 0.0,
    arrivals: Annotated[ArrivalsName, typer.Option(help="How inputs come.")] = ArrivalsName.periodic,
    outage_every: Annotated[
        float | None, typer.Option(help="Take the link down once in so many seconds, at their end.")
    ] = None,
    outage_length: Annotated[float | None, typer.Option(help="For how many seconds it is down then.")] = None,
    objective: Annotated[ObjectiveName, typer.Option(help="What to minimise.")] = ObjectiveName.latency,
    deadline_ms: Annotated[float | None, typer.Option(help="Answers are needed by then.")] = None,
    min_agreement: AgreementOption = 1.0,
    keep_input_local: KeepInputOption = False,
    max_device_memory: MemoryOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison into this .svg or .png file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate devices, their links and gateways, and hold ways of deciding against each other."""
    from midstream.bundle import Bundle
    from midstream.partitioning import Objective
    from midstream.simulating import POLICIES, Scenario
    from midstream.simulating import simulate as run
    from midstream.simulating.verdict import verdict

    if plot is not None:
        from midstream.drawing import canvas

        canvas.check_target(plot)
    if (outage_every is None) != (outage_length is None):
        raise InputError("outages take both --outage-every and --outage-length, in seconds")
    wanted = Objective(
        objective.value,
        deadline_ms,
        min_agreement,
        keep_input_local,
        max_device_memory_bytes=memory_bytes(max_device_memory),
    )
    board, server = load_profile(device), load_profile(gateway)
    names = POLICIES if policies is None else tuple(name.strip() for name in policies.split(","))
    link = _link(trace, outage_every, outage_length)
    kinds = tuple(_kind(Bundle.open(path), board, server, gateways) for path in (*bundle, *(further or ())))
    scenario = Scenario(
        kinds,
        link,
        rate,
        seconds,
        wanted,
        devices,
        gateways,
        server.cores if workers is None else workers,
        gateway_load,
        overhead_ms,
        arrivals.value,
        seed,
    )
    simulation = run(scenario, names, lambda name: notes.print(f"simulating {name} …"))
    said, title = verdict(simulation), _title(scenario, board)
    if plot is not None:
        _draw(plot, simulation, title)
    if as_json:
        print_json(simulation.to_json() | {"verdict": said})
        return
    _show(simulation, title)
    screen.print(said)


def _link(path: Path, outage_every: float | None, outage_length: float | None) -> Trace:
    from midstream.traces import Trace

    link = Trace.open(path)
    if outage_every is None or outage_length is None:
        return link
    return link.with_outages(outage_every, outage_length)


def _kind(bundle: Bundle, board: Profile, server: Profile, gateways: int) -> Kind:
    from midstream.simulating import Kind
    from midstream.simulating.scenario import MAX_GATEWAYS

    for each in (board, server):
        if bundle.manifest.engine not in each.engines:
            raise ProfileError(
                f"{each.title} runs {', '.join(each.engines) or 'nothing'} as its profile says, and bundle "
                f"{bundle.name!r} is for {bundle.manifest.engine}: convert a model of the other format, or take "
                "another board"
            )
    return Kind.of(bundle, board, server, min(max(1, gateways), MAX_GATEWAYS))


def _title(scenario: Scenario, board: Profile) -> str:
    bundles = ", ".join(kind.bundle.name for kind in scenario.kinds)
    machines = f"{scenario.devices:,} × {board.title}" if scenario.devices > 1 else board.title
    return (
        f"{bundles} on {machines}, {scenario.rate_hz:g} inputs a second for {scenario.seconds:g} s over "
        f"{scenario.trace.name}"
    )


def _show(simulation: Simulation, title: str) -> None:
    summaries = simulation.summaries
    ideal = summaries.get("clairvoyant")
    with_missed = any(each.missed_share for each in summaries.values())
    columns = ["policy", "mean ms", "× ideal", "p95 ms", "missed", "mJ", "kB sent", "local/input/ split/exit %"]
    rows = []
    for name, each in sorted(summaries.items(), key=lambda item: item[1].mean_ms):
        shares = (each.local_share, each.input_share, each.split_share, each.exit_share)
        rows.append(
            [
                name,
                f"{each.mean_ms:.1f}",
                f"{each.mean_ms / ideal.mean_ms:.2f}" if ideal is not None and ideal.mean_ms else "–",
                f"{each.p95_ms:.1f}",
                f"{each.missed_share:.2%}",
                f"{each.energy_mj:.1f}",
                f"{each.payload_bytes / 1e3:.1f}",
                "/".join(f"{100 * share:.0f}" for share in shares),
            ]
        )
    if not with_missed:
        for row in (columns, *rows):
            del row[4]
    print_table(title, columns, rows)
    for name, note in simulation.notes.items():
        screen.print(f"{name}: {note}")


def _draw(path: Path, simulation: Simulation, title: str) -> None:
    """The comparison of all, and how the first device fared over time with those that tell most."""
    import numpy as np

    from midstream.drawing.policies import Bar, Course, Link, write_comparison

    scenario, outcomes = simulation.scenario, simulation.outcomes
    bars = [Bar(name, each.mean_ms, each.p95_ms, each.missed_share) for name, each in simulation.summaries.items()]
    shown = [name for name in _OVER_TIME if name in outcomes] or list(outcomes)[: len(_OVER_TIME)]
    courses = [Course(name, *outcomes[name].of_device(0)) for name in shown]
    link = scenario.trace
    periods = np.arange(min(int(scenario.seconds // link.period_s) + 1, max(1, _MOST_ROWS // len(link.starts_s))))
    starts_s = (periods[:, None] * link.period_s + link.starts_s).ravel()
    drawn = starts_s < scenario.seconds
    rates = np.tile(link.uplink_kbps, len(periods))[drawn]
    write_comparison(
        path,
        bars,
        courses,
        Link(starts_s[drawn], rates, scenario.seconds),
        title=title,
        deadline_ms=scenario.objective.deadline_ms,
    )
