"""``midstream plan``: what would be decided for a board, a gateway and a link."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midstream.cli.objective import (
    AgreementOption,
    EnergyOption,
    KeepInputOption,
    MemoryOption,
    ObjectiveName,
    ObjectiveOption,
    TariffOption,
    memory_bytes,
    tariff_of,
)
from midstream.cli.output import JsonOption, notes, print_json, print_table, screen
from midstream.errors import InputError
from midstream.profiles import load_profile, profile_names

if TYPE_CHECKING:
    from midstream.partitioning import RunnerUp, Tier
    from midstream.profiles import Profile


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(plan)


def plan(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    device: Annotated[str, typer.Option(help=f"Profile of the board, or a .toml file: {', '.join(profile_names())}.")],
    gateway: Annotated[str, typer.Option(help="Profile of the gateway.")],
    uplink_kbps: Annotated[float, typer.Option(min=0.0, help="Bandwidth from the device, kbit/s; 0: no link.")],
    rtt_ms: Annotated[float, typer.Option(min=0.0, help="Round trip to the gateway, ms.")],
    downlink_kbps: Annotated[float | None, typer.Option(min=0.0, help="Default: as the uplink.")] = None,
    complexity: Annotated[float | None, typer.Option(min=0.0, max=100.0, help="The input's score.")] = None,
    load: Annotated[float, typer.Option(min=0.0, help="Share of the gateway that is busy, 0–1.")] = 0.0,
    device_load: Annotated[float, typer.Option(min=0.0, help="Share of the board that others use, 0–1.")] = 0.0,
    tier: Annotated[
        list[str] | None,
        typer.Option(help="A further machine, NAME=PROFILE,KBPS,RTT_MS: its way from the gateway's network."),
    ] = None,
    objective: ObjectiveOption = ObjectiveName.latency,
    deadline_ms: Annotated[float | None, typer.Option(help="The answer is needed by then.")] = None,
    min_agreement: AgreementOption = 1.0,
    keep_input_local: KeepInputOption = False,
    max_device_memory: MemoryOption = None,
    energy_budget_mj: EnergyOption = None,
    tariff: TariffOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what every other option would have cost, or what rules it out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Decide for one input, with times predicted from profiles."""
    from midstream.bundle import Bundle
    from midstream.partitioning import (
        LinkState,
        Objective,
        SystemState,
        candidates,
        decide,
        device_memory,
        times_from_profile,
        with_exit,
        with_tiers,
    )

    wanted = Objective(
        objective.value,
        deadline_ms,
        min_agreement,
        keep_input_local,
        max_device_memory_bytes=memory_bytes(max_device_memory),
        energy_budget_mj=energy_budget_mj,
        tariff=tariff_of(tariff),
    )
    further = _tiers(tier or [])
    opened = Bundle.open(bundle)
    board, server = load_profile(device), load_profile(gateway)
    for each in (board, server, *(profile for profile, _ in further.values())):
        if opened.manifest.engine not in each.engines:
            notes.print(
                f"{each.title} runs {', '.join(each.engines)} as its profile says, and this bundle is for "
                f"{opened.manifest.engine}: convert a model of the other format, or see whether it runs there"
            )
    graph = opened.graph
    here = times_from_profile(opened.manifest, graph, board, digest=opened.digest)
    there = times_from_profile(opened.manifest, graph, server, digest=opened.digest)
    memory = device_memory(opened.manifest, graph)
    options = candidates(opened.manifest, graph, here, there, opened.ladder, memory=memory)
    others = {
        name: times_from_profile(opened.manifest, graph, profile, digest=opened.digest)
        for name, (profile, _) in further.items()
    }
    options = with_tiers(options, here, there, others, opened.manifest.has_between)
    if opened.early_exit is not None:
        options = with_exit(options, opened.early_exit, here)
    link = LinkState(uplink_kbps, uplink_kbps if downlink_kbps is None else downlink_kbps, rtt_ms)
    chosen = decide(
        options,
        SystemState(
            link,
            device_load=device_load,
            gateway_load=load,
            complexity=complexity,
            further={name: way for name, (_, way) in further.items()},
        ),
        wanted,
        board.power,
    )
    if as_json:
        print_json(chosen.to_json() | ({"explain": [asdict(each) for each in chosen.explain()]} if explain else {}))
        return
    asked = "" if chosen.exit is None else f"exit at {chosen.exit} ({chosen.exit_share:.0%}), else "
    stages = asked + " → ".join(f"{stage.machine} ({len(stage.nodes)} layers)" for stage in chosen.stages)
    print_table(
        f"plan for {opened.name} on {board.title}",
        ["stages", "cut", "codec", "predicted ms", "energy mJ", "payload bytes"],
        [
            [
                stages,
                chosen.cut or "–",
                chosen.codec,
                f"{chosen.predicted_ms:.1f}",
                f"{chosen.energy_mj:.1f}",
                f"{chosen.payload_bytes:,}",
            ]
        ],
    )
    screen.print(chosen.why)
    if explain:
        _show_others(chosen.explain())


def _remark(each: RunnerUp) -> str:
    if each.chosen:
        return "chosen"
    return each.refusal or ("misses the deadline" if each.late else "draws too much" if each.dear else "")


def _tiers(given: list[str]) -> dict[str, tuple[Profile, Tier]]:
    """The further machines, by name; raises InputError where one is not told as it has to be."""
    from midstream.partitioning import DEVICE, GATEWAY, LinkState, Tier

    found: dict[str, tuple[Profile, Tier]] = {}
    for text in given:
        try:
            name, told = text.split("=", 1)
            profile, kbps, rtt_ms = told.rsplit(",", 2)
            way = LinkState(float(kbps), float(kbps), float(rtt_ms))
        except ValueError:
            raise InputError(
                f"--tier {text!r} is no NAME=PROFILE,KBPS,RTT_MS; give one as in cloud=x86-mini,100000,20"
            ) from None
        if not name or name in (DEVICE, GATEWAY) or name in found:
            raise InputError(f"--tier {text!r} needs a name of its own, not {name!r}")
        found[name] = load_profile(profile), Tier(way)
    return found


def _show_others(options: list[RunnerUp]) -> None:
    def figure(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    print_table(
        "every option, the best first",
        ["option", "ms", "mJ", "ms an input", "payload bytes", ""],
        [
            [
                each.name,
                figure(each.latency_ms),
                figure(each.energy_mj),
                figure(each.period_ms),
                f"{each.payload_bytes:,}",
                _remark(each),
            ]
            for each in options
        ],
    )
