"""Policies over the same link with the same inputs, one after the other, on real processes; and as simulated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from midstream.benching.choosing import MOST_STATIC, Trial, simulated, trials
from midstream.benching.measured import Key, Measured
from midstream.benching.quota import cpu_quota
from midstream.benching.shaping import first_up, following, shape, unshape
from midstream.benching.slowing import Slowed, Slowing, slow_down
from midstream.benching.workers import Worker
from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.errors import InputError, PlanError
from midstream.link import LinkEmulator
from midstream.partitioning import Objective, Power, times_from_profile
from midstream.partitioning.table import refusal
from midstream.profiles import Profile
from midstream.simulating.draws import Draws
from midstream.simulating.fixed import in_words
from midstream.simulating.foresight import UP
from midstream.simulating.policies import SENDING, PolicyName
from midstream.simulating.results import Outcome, Summary
from midstream.simulating.running import simulate
from midstream.simulating.scenario import Kind, Scenario
from midstream.traces import Trace

GATEWAY_ID = "gateway-1"
# What a run takes beside its seconds, and what measuring takes before, about.
_RUN_S, _MEASURING_S = 2.0, 40.0
# From when the device is told to begin: what it has sent to connect is through by then.
_SETTLE_S = 1.0
_GATEWAY, _DEVICE = "midstream.benching.gateway_process", "midstream.benching.device_process"

Told = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """What is benched. ``gateway`` None is this machine as it is; ``inputs`` None are made up."""

    bundle: Path
    board: Profile
    trace: Trace
    policies: tuple[PolicyName, ...]
    gateway: Profile | None = None
    rate_hz: float = 2.0
    seconds: float = 30.0
    seed: int = 0
    objective: Objective = field(default_factory=Objective)
    inputs: Path | None = None
    slowing: Slowing = "auto"
    workers: int = 1

    @property
    def expected_s(self) -> float:
        """How long it will take, about; devices that fall behind take longer."""
        runs = len(self.policies) + ("best_static" in self.policies) * (MOST_STATIC - 1)
        return _MEASURING_S + runs * (self.seconds + _RUN_S)

    def scenario(self, kind: Kind, overhead_ms: float) -> Scenario:
        """The same for the simulation."""
        return Scenario(
            (kind,),
            self.trace,
            self.rate_hz,
            self.seconds,
            self.objective,
            workers=self.workers,
            overhead_ms=overhead_ms,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Benched:
    """Each policy's figures, real and simulated, and what they rest on; ``rows`` has every request of each policy."""

    summaries: Mapping[str, Summary]
    simulated: Mapping[str, Summary]
    notes: Mapping[str, str]
    slowed: Slowed
    measured: Measured
    rows: Mapping[str, Sequence[Mapping[str, Any]]]

    def to_json(self) -> dict[str, Any]:
        """By the contract, and beside it the simulation, with the real mean over the simulated one."""
        return {
            "policies": {name: summary.to_json() for name, summary in self.summaries.items()},
            "simulated": {
                name: {**summary.to_json(), "real_over_simulated": self.ratio(name)}
                for name, summary in self.simulated.items()
            },
            "slowing": self.slowed.to_json(),
            "measured": self.measured.to_json(),
            "notes": dict(self.notes),
        }

    def ratio(self, name: str) -> float:
        """The real mean latency over the simulated one."""
        return self.summaries[name].mean_ms / self.simulated[name].mean_ms


def bench(setup: Setup, told: Told = lambda _: None) -> Benched:
    """Run it all; ``told`` hears what is done next. Every process has ended when this returns or raises.

    Raises InputError for a link that is never up and inputs that cannot be read, BundleError, PeerError, PlanError as
    devices and gateways do.
    """
    if first_up(setup.trace) is None:
        raise InputError(f"trace {setup.trace.name!r} is down all the time: no policy could do anything but wait")
    bundle = Bundle.open(setup.bundle)
    profiled = Kind.of(bundle, setup.board, setup.board)
    # What it cannot be is said before anything is begun.
    setup.scenario(profiled, 0.0)
    with _machines(setup, bundle, told) as (device, link, slowed, inputs):
        told("measuring slices, encodings and requests")
        unshape(link)
        keys = _worth_measuring(profiled, setup.objective)
        answered = device.ask(do="measure", keys=keys, quota=slowed.method == "quota")
        measured = Measured.from_json(answered)
        kind = measured.kind(bundle, setup.board)
        scenario = setup.scenario(kind, measured.overhead_ms)
        runs = _Runs(setup, scenario, device, link, told)
        for name in dict.fromkeys(setup.policies):
            runs.run(name)
    notes = {**_notes(setup, bundle, slowed, inputs), **runs.notes}
    notes |= {f"measuring {number}": note for number, note in enumerate(measured.notes, 1)}
    told("simulating the same")
    rest = [name for name in setup.policies if name in runs.summaries and name not in runs.simulated]
    found = runs.simulated | simulate(scenario, rest).summaries
    return Benched(runs.summaries, {name: found[name] for name in runs.summaries}, notes, slowed, measured, runs.rows)


@contextmanager
def _machines(setup: Setup, bundle: Bundle, told: Told) -> Iterator[tuple[Worker, LinkEmulator, Slowed, int]]:
    """A broker, a gateway, a link and a device, slowed down; and how many inputs it has."""
    with (
        Broker() as broker,
        cpu_quota() as quota,
        Worker("gateway", _GATEWAY) as gateway,
        LinkEmulator(("127.0.0.1", broker.port)) as link,
        Worker("device", _DEVICE) as device,
    ):
        told("starting the gateway")
        wanted_ms = None if setup.gateway is None else _whole_ms(bundle, setup.gateway)
        gateway.ask(
            bundle=str(setup.bundle), broker=broker.url, id=GATEWAY_ID, workers=setup.workers, wanted_ms=wanted_ms
        )
        told(f"slowing the device down to {setup.board.title}")
        inputs = device.ask(
            do="open",
            bundle=str(setup.bundle),
            board=setup.board.name,
            url=link.url,
            objective=asdict(setup.objective),
            inputs=None if setup.inputs is None else str(setup.inputs),
        )
        slowed = slow_down(device, _whole_ms(bundle, setup.board), quota, setup.slowing)
        yield device, link, slowed, inputs


class _Runs:
    """One policy after the other, each over the trace from its start."""

    def __init__(self, setup: Setup, scenario: Scenario, device: Worker, link: LinkEmulator, told: Told) -> None:
        self._setup = setup
        self._scenario = scenario
        self._device = device
        self._link = link
        self._told = told
        self._arrivals_s = list(Draws(scenario, 0).arrivals_s)
        self.summaries: dict[str, Summary] = {}
        self.simulated: dict[str, Summary] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.notes: dict[str, str] = {}

    def run(self, name: PolicyName) -> None:
        """A policy, by its best trial."""
        try:
            planned = trials(self._scenario, name)
            found = [(self._one(name, trial), trial) for trial in planned]
        except (PlanError, InputError) as reason:
            self.notes[name] = f"left out: {reason}"
            return
        (summary, rows), trial = min(found, key=lambda each: self._rank(each[0][0]))
        self.summaries[name], self.rows[name] = summary, rows
        if trial.always is not None:
            self.simulated[name] = simulated(self._scenario, trial.always).summary()
        if name == "best_static" and trial.always is not None:
            self.notes[name] = in_words(trial.always)

    def _rank(self, summary: Summary) -> tuple[float, float]:
        energy = self._setup.objective.kind == "energy"
        return summary.missed_share, summary.energy_mj if energy else summary.mean_ms

    def _one(self, name: str, trial: Trial) -> tuple[Summary, list[dict[str, Any]]]:
        trace = self._setup.trace
        what = name if trial.always is None or name in ("local", "raw") else f"{name}: {in_words(trial.always)}"
        self._told(f"{what}, {self._setup.seconds:g} s")
        up = first_up(trace)
        assert up is not None
        shape(self._link, trace, up)
        self._device.ask(do="begin", policy=trial.policy)
        start_s = time.monotonic() + _SETTLE_S
        with following(self._link, trace, start_s):
            answered = self._device.ask(do="run", start_s=start_s, arrivals_s=self._arrivals_s)
        (kind,) = self._scenario.kinds
        rows: list[dict[str, Any]] = answered["rows"]
        return summary_of(rows, answered["probe_bytes"], kind.power, self._setup.objective.deadline_ms), rows


def summary_of(
    rows: Sequence[Mapping[str, Any]], probe_bytes: float, power: Power, deadline_ms: float | None
) -> Summary:
    """What became of requests, the energy by the stated power from measured times and bytes; probes shared out."""
    outcome = Outcome()
    probed = probe_bytes / max(1, len(rows))
    for row in rows:
        latency_ms, sent = row["latency_ms"], row.get("sent_bytes", 0) + probed
        computed_ms = row.get("computed_ms", 0.0)
        energy_mj = power.drawn_mj(computed_ms, latency_ms, sent + row.get("received_bytes", 0))
        late = deadline_ms is not None and latency_ms > deadline_ms
        outcome.add(
            latency_ms,
            energy_mj,
            sent,
            row["way"],
            missed=late or not row["answered"],
            fallback=row.get("fallback", False),
            answered=row["answered"],
        )
    return outcome.summary()


def _worth_measuring(kind: Kind, objective: Objective) -> list[Key]:
    """What the objective allows to send, and what the fixed policies send; the quickest to encode first."""
    fixed = [each for each in map(kind.input_in, SENDING.values()) if each is not None]
    allowed = [each for each in kind.made.table.candidates if each.tail and refusal(each, UP, objective) is None]
    allowed.sort(key=lambda each: each.encode_ms)
    return list(dict.fromkeys((each.cut, each.codec) for each in (*fixed, *allowed)))


def _whole_ms(bundle: Bundle, profile: Profile) -> float:
    return times_from_profile(bundle.manifest, bundle.graph, profile, threads=1, digest=bundle.digest).whole_ms


def _notes(setup: Setup, bundle: Bundle, slowed: Slowed, inputs: int) -> dict[str, str]:
    """How it was done, in words."""
    slow = f"{slowed.method}, {slowed.slowdown:.1f} ×" + (f" ({slowed.why})" if slowed.why else "")
    found = {
        "order": "the policies ran one after another, each over the trace from its start, with the same arrivals and "
        "inputs, by a device that had learned nothing yet: side by side they would have shared this machine's cores",
        "slowing": f"{slow}: the whole model takes {slowed.measured_ms:.1f} ms where the profile says "
        f"{slowed.wanted_ms:.1f} ms, {slowed.off:+.1%}; runs spread by {slowed.spread:.1%}",
        "inputs": f"{inputs} of {setup.inputs}, in turn" if setup.inputs is not None else f"{inputs} made up, in turn",
        "gateway": "this machine as it is" if setup.gateway is None else f"paced to {setup.gateway.title}",
        "energy": "modelled: the board's stated power over measured times and bytes",
    }
    if slowed.method == "pacing":
        found["pacing"] = "cuts keep their ratios of this machine; analysis and planning run at its speed"
    if bundle.early_exit is not None:
        found["exit"] = "the bundle's early exit is left aside"
    return found
