"""Devices whose candidates cost round figures, so that what a simulation makes of them can be worked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.options import Made, option_of
from midstream.partitioning import Candidate, Objective, Table
from midstream.profiles import load_profile
from midstream.simulating import Kind, Outcome, Scenario
from midstream.simulating.draws import Draws
from midstream.simulating.policies import Chosen, Foreseen
from midstream.simulating.world import World
from midstream.traces import Trace

KindOf = Callable[..., Kind]
RealKind = Callable[..., Kind]
WHOLE_MS = 90.0


@pytest.fixture(scope="session")
def real(gratings: Bundle) -> RealKind:
    """Makes a Zero 2 W with so many gateways, all of them as their profiles say."""
    return lambda gateways=1: Kind.of(gratings, load_profile("pi-zero-2w"), load_profile("x86-mini"), gateways)


@pytest.fixture(scope="session")
def kind_of(gratings: Bundle) -> KindOf:
    """Makes a Zero 2 W with three candidates: local 90 ms; the input 20 kB + 16 ms; a cut 35 ms + 5 kB + 11 ms."""

    def make(gateways: int = 1, cores: int | None = None, **figures: Any) -> Kind:
        board = load_profile("pi-zero-2w")
        kind = Kind.of(gratings, board, load_profile("x86-mini"), gateways)
        if cores is not None:
            kind = replace(kind, board=replace(kind.board, cores=cores))
        cut = gratings.cuts[1].id
        of = {(each.cut, each.codec): each for each in kind.made.table.candidates}
        local = replace(of[None, "none"] if (None, "none") in of else kind.made.table.candidates[0], device_ms=WHOLE_MS)
        whole = replace(of[None, "raw"], payload_bytes=20_000, gateway_ms=16.0, reply_bytes=100)
        split = replace(
            of[cut, "raw"], device_ms=35.0, encode_ms=2.0, payload_bytes=5_000, gateway_ms=11.0, reply_bytes=100
        )
        device = replace(kind.device, whole_ms=WHOLE_MS)
        made = _made(kind, [local, whole, replace(split, **figures)])
        return replace(kind, device=device, made=replace(made, device=device))

    return make


def _made(kind: Kind, candidates: Sequence[Candidate]) -> Made:
    rows = {option_of(each): row for row, each in enumerate(candidates)}
    return Made(kind.made.presences, Table(tuple(candidates), kind.power), rows, kind.device)


def candidates_of(kind: Kind) -> tuple[Candidate, ...]:
    """Local, the input, the cut."""
    return kind.made.table.candidates


def scenario_of(kind: Kind, trace: Trace, requests: int = 8, rate_hz: float = 20.0, **figures: Any) -> Scenario:
    """So many requests of each device."""
    return Scenario((kind,), trace, rate_hz, requests / rate_hz, **figures)


def draws_of(scenario: Scenario) -> list[Draws]:
    return [Draws(scenario, number) for number in range(scenario.devices)]


def rough_trace(seed: int, rows: int = 12) -> Trace:
    """A link that changes tenfold every tenth of a second, and is down now and then."""
    random = np.random.default_rng(seed)
    kbps = np.exp(random.uniform(np.log(600), np.log(20_000), rows))
    kbps[random.uniform(size=rows) < 0.15] = 0.0
    rtt_ms = random.uniform(3, 30, rows)
    return Trace("rough", np.arange(rows) / 10, kbps, kbps, rtt_ms, rows / 10)


def foreseen(scenario: Scenario, draws: Sequence[Draws], chosen: Sequence[Sequence[Chosen]]) -> Outcome:
    """What comes of these choices, of each device in the order of its inputs."""
    return World(scenario, draws, lambda device, kind, world: Foreseen(kind, chosen[device])).run()


def by_arrival(outcome: Outcome) -> list[float]:
    """Latencies in the order in which inputs came."""
    order = np.argsort(np.array(outcome.began_s), kind="stable")
    return [outcome.latency_ms[at] for at in order]


def mean_of(outcome: Outcome, objective: Objective | None = None) -> float:
    figures = outcome.energy_mj if objective is not None and objective.kind == "energy" else outcome.latency_ms
    return float(np.mean(figures))
