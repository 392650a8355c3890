"""``midstream bench adaptive``: policies side by side on real processes, and as the simulation sees them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.objective import AgreementOption, KeepInputOption, ObjectiveName
from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError

if TYPE_CHECKING:
    from midstream.benching.bench import Benched
    from midstream.simulating.policies import PolicyName


class SlowingName(StrEnum):
    """`midstream.benching.slowing.Slowing` for the command line."""

    auto = "auto"
    quota = "quota"
    pacing = "pacing"


def adaptive(
    bundle: Annotated[Path, typer.Option(help="A bundle's folder.")],
    device: Annotated[str, typer.Option(help="The board that the device is slowed down to: a profile.")],
    trace: Annotated[Path, typer.Option(help="The link over time: CSV with t_s, uplink_kbps, rtt_ms.")],
    gateway: Annotated[str | None, typer.Option(help="The gateway's profile; default: this machine.")] = None,
    rate: Annotated[float, typer.Option(help="Inputs a second, whether or not those before are answered.")] = 2.0,
    seconds: Annotated[float, typer.Option(help="How long each policy runs.")] = 30.0,
    policies: Annotated[str | None, typer.Option(help="Some of the policies, parted by commas; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of when inputs come, and of the simulation's chances.")] = 0,
    objective: Annotated[ObjectiveName, typer.Option(help="What to minimise: latency or energy.")] = (
        ObjectiveName.latency
    ),
    deadline_ms: Annotated[float | None, typer.Option(help="The device answers by itself in time for this.")] = None,
    min_agreement: AgreementOption = 1.0,
    keep_input_local: KeepInputOption = False,
    source: Annotated[
        Path | None, typer.Option("--input", help="A picture, sound or .npz file, or a folder of them; default: made.")
    ] = None,
    slowing: Annotated[
        SlowingName, typer.Option(help="How the device is slowed down: a quota of a core, pacing, or what fits.")
    ] = SlowingName.auto,
    as_json: JsonOption = False,
) -> None:
    """Run policies on real processes: a gateway, a broker, a slowed device, a link that follows a trace."""
    from midstream.benching.bench import Setup, bench
    from midstream.partitioning import Objective
    from midstream.profiles import load_profile
    from midstream.traces import Trace

    setup = Setup(
        bundle,
        load_profile(device),
        Trace.open(trace),
        _policies(policies),
        gateway=None if gateway is None else load_profile(gateway),
        rate_hz=rate,
        seconds=seconds,
        seed=seed,
        objective=Objective(objective.value, deadline_ms, min_agreement, keep_input_local),
        inputs=source,
        slowing=slowing.value,
    )
    notes.print(f"this takes about {setup.expected_s:.0f} s, longer where a policy falls behind")
    benched = bench(setup, notes.print)
    if as_json:
        print_json(benched.to_json())
    else:
        _show(benched)


def _policies(text: str | None) -> tuple[PolicyName, ...]:
    from midstream.simulating.policies import POLICIES

    if text is None:
        return POLICIES
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in POLICIES:
            raise InputError(f"no policy is called {name!r}; known are {', '.join(POLICIES)}")
    return tuple(each for each in POLICIES if each in names)


def _show(benched: Benched) -> None:
    latencies, others = [], []
    for name, found in benched.summaries.items():
        times = (found.mean_ms, found.p50_ms, found.p95_ms, found.p99_ms, benched.simulated[name].mean_ms)
        latencies.append([name, *(f"{ms:.1f}" for ms in times), f"{benched.ratio(name):.2f}"])
        shares = (found.missed_share, found.split_share, found.fallback_share)
        others.append(
            [name, *(f"{share:.1%}" for share in shares), f"{found.energy_mj:.1f}", f"{found.payload_bytes:,.0f}"]
        )
    print_table("Latency, ms", ["policy", "mean", "p50", "p95", "p99", "simulated mean", "real over it"], latencies)
    print_table("And", ["policy", "missed", "split", "fallen back", "energy, mJ", "sent bytes"], others)
    for subject, note in benched.notes.items():
        screen.print(f"{subject}: {note}")
