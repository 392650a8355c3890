"""What deciding again adds once a head has run and its payload is encoded, with real models, inputs and sizes.

``python benchmarks/again.py [--inputs N]`` takes minutes and writes docs/benchmarks/again.md. Costs are the bundle's
measured table, scaled to two boards, and the gateway's; sizes are those of really encoded payloads. Nothing is sent.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from models import MODELS, machine, table, write_page
from subjects import SUBJECTS, Sample, Subject, inputs_of

from midstream.bundle import Bundle
from midstream.calibrating import calibrate, write_ladder
from midstream.communication.choosing import Route
from midstream.communication.codecs import optional_libraries
from midstream.communication.directory import WHOLE_KEY
from midstream.communication.presence import Presence
from midstream.deciding import Deciding
from midstream.manifest import Costs
from midstream.partitioning import (
    Candidate,
    LinkState,
    Objective,
    Plan,
    Power,
    SystemState,
    Table,
    decide_from,
    times_from_profile,
)
from midstream.partitioning.planner import predict
from midstream.partitioning.reasons import Reasons
from midstream.planning import Planning
from midstream.profiles import load_profile
from midstream_converters.convert import convert

MODELS_OF = ("text direction", "person segmentation", "voice activity")
BOARDS = ("pi4", "pi-zero-2w")
KBPS = (250.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0)
RTT_MS = (5.0, 20.0, 80.0)
FALLEN = 0.2
OBJECTIVES = {"lossy allowed": Objective(min_agreement=0.97), "lossless only": Objective()}
POWER = Power(1.0, 2.5, 0.1)
GATEWAY_ID = "gateway"
# Less than this share of the mean is almost nothing.
LITTLE = 0.01


@dataclass(frozen=True)
class Case:
    """One input on one board and link: what its plan took in the end, without and with the second decision.

    Milliseconds, without what the decision itself takes: that is ``decided_us`` here, times ``slower`` on the board;
    ``best_ms`` is what the best plan would have taken, had the sizes and the link been known.
    ``off`` is the share by which the payload's size was predicted wrongly; None where nothing was to be sent.
    ``made_us`` is the first decision, with its table; None where there was one.
    """

    without_ms: float
    with_ms: float
    best_ms: float
    changed: bool
    off: float | None
    slower: float
    decided_us: float
    made_us: float | None

    @property
    def ratio(self) -> float:
        """What is left of the latency."""
        return self.with_ms / self.without_ms

    @property
    def paid_ratio(self) -> float:
        """The same with what the second decision takes."""
        return self.ratio + self.slower * self.decided_us / 1e3 / self.without_ms


class Setting(NamedTuple):
    """Where cases come from."""

    model: str
    objective: str
    fallen: bool


def main() -> None:
    """Calibrate, decide and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20, help="calibration inputs of each model; as many test it")
    options = parser.parse_args()
    began, load = time.monotonic(), os.getloadavg()[0]
    cases: dict[Setting, list[Case]] = {}
    for subject in (each for each in SUBJECTS if each.name in MODELS_OF):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            cases |= cases_of(subject, Path(folder) / "bundle", options.inputs)
        print(f"{subject.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    write_page("again", page(cases, options.inputs, load, time.monotonic() - began))


def cases_of(subject: Subject, path: Path, count: int) -> dict[Setting, list[Case]]:
    """All cases of one model."""
    convert(MODELS / subject.file, path, subject.options())
    bundle = Bundle.open(path)
    fitted = inputs_of(subject, bundle, "calibration", count)
    least = min(objective.min_agreement for objective in OBJECTIVES.values())
    write_ladder(bundle, calibrate(bundle, fitted, metric=subject.metric, min_agreement=least).ladder)
    bundle = Bundle.open(path)
    measured = bundle.costs
    samples = [Sample(bundle, sample) for sample in inputs_of(subject, bundle, "test", count)]
    found: dict[Setting, list[Case]] = {}
    for board, name, fallen in product(BOARDS, OBJECTIVES, (False, True)):
        profile = load_profile(board)
        wanted_ms = times_from_profile(bundle.manifest, bundle.graph, profile, threads=1, digest=bundle.digest).whole_ms
        slower = max(1.0, wanted_ms / measured.whole_ms)
        bundle.costs = slowed(measured, slower)
        cases = found.setdefault(Setting(subject.name, name, fallen), [])
        for kbps, rtt_ms in product(KBPS, RTT_MS):
            stream = Stream(bundle, gateway_of(bundle, measured), OBJECTIVES[name], slower)
            link = LinkState(kbps, kbps, rtt_ms)
            after = replace(link, uplink_kbps=kbps * FALLEN, downlink_kbps=kbps * FALLEN) if fallen else link
            cases += [stream.case(sample, link, after) for sample in samples]
        bundle.costs = measured
    return found


def slowed(costs: Costs, factor: float) -> Costs:
    """Those of a device so many times as slow."""
    cuts = {
        cut: replace(cost, head_ms=cost.head_ms * factor, tail_ms=cost.tail_ms * factor)
        for cut, cost in costs.cuts.items()
    }
    return replace(costs, whole_ms=costs.whole_ms * factor, cuts=cuts)


def gateway_of(bundle: Bundle, costs: Costs) -> Presence:
    """An idle gateway as fast as these costs."""
    tails = {WHOLE_KEY: costs.whole_ms, **{cut: cost.tail_ms for cut, cost in costs.cuts.items()}}
    bases = {bundle.digest.hex(): bundle.bases_id} if bundle.bases_id else {}
    return Presence(
        GATEWAY_ID, (bundle.digest,), tail_ms={bundle.digest.hex(): tails}, knows=optional_libraries(), bases=bases
    )


class Stream:
    """Inputs one after the other over one link, as a device plans them; sizes that were sent are learned."""

    def __init__(self, bundle: Bundle, gateway: Presence, objective: Objective, slower: float) -> None:
        deciding = Deciding("adaptive", objective, bundle.digest.hex(), POWER, None)
        self._planning = Planning(bundle, POWER, deciding)
        self._route = Route((gateway,))
        self._objective = objective
        self._slower = slower
        self._made: set[int] = set()

    def case(self, sample: Sample, link: LinkState, after: LinkState) -> Case:
        """One input; the link is the other one from when its head has run."""
        score = None if sample.analysis is None else sample.analysis.score
        before = SystemState(link, complexity=score)
        then = SystemState(after, complexity=score)
        plan = self._planning.plan(self._route, before, self._objective, sample.features)
        begun = sample.real(chosen_of(plan))
        without_ms = predict(begun, then, POWER).latency_ms
        best_ms = self._best_ms(plan, sample, then)
        if not plan.offloads:
            return Case(without_ms, without_ms, best_ms, False, None, self._slower, 0.0, None)
        done_ms = begun.device_ms + begun.encode_ms
        decide = partial(
            self._planning.again,
            plan,
            self._route,
            then,
            self._objective,
            sample.features,
            begun.payload_bytes,
            done_ms,
        )
        made_us = None
        if plan.reasons.row not in self._made:
            # Its table is made once, and then kept for as long as costs stay as they are.
            self._made.add(plan.reasons.row)
            made_us = timed_us(decide)[1]
        other, decided_us = timed_us(decide)
        if other is plan:
            left_ms = without_ms - done_ms
        else:
            left_ms = predict(sample.real(chosen_of(other)), then, POWER).latency_ms
        self._planning.sent(plan, sample.features, begun.payload_bytes)
        off = abs(plan.payload_bytes - begun.payload_bytes) / begun.payload_bytes
        with_ms = done_ms + left_ms
        return Case(without_ms, with_ms, best_ms, other is not plan, off, self._slower, decided_us, made_us)

    def _best_ms(self, plan: Plan, sample: Sample, state: SystemState) -> float:
        """What the best of the plan's competitors takes, by their real sizes."""
        real = Table([sample.real(each) for each in table_of(plan).candidates], POWER)
        best = decide_from(real, replace(state, complexity=None), self._objective)
        return best.predicted_ms


def table_of(plan: Plan) -> Table:
    """What a plan was chosen from."""
    assert isinstance(plan.reasons, Reasons)
    return plan.reasons.table


def chosen_of(plan: Plan) -> Candidate:
    """The candidate that a plan is."""
    return table_of(plan).candidates[plan.reasons.row]


def timed_us(decide: Callable[[], Plan]) -> tuple[Plan, float]:
    """A decision, and the microseconds that it took."""
    mark = time.perf_counter()
    plan = decide()
    return plan, (time.perf_counter() - mark) * 1e6


def page(cases: dict[Setting, list[Case]], count: int, load: float, took_s: float) -> str:
    """The generated page."""
    every = [case for found in cases.values() for case in found]
    sent = [case for case in every if case.off is not None]
    made = [case.made_us for case in sent if case.made_us is not None]
    first = {name: rows(cases, name, False) for name in OBJECTIVES}
    second = {name: rows(cases, name, True) for name in OBJECTIVES}
    head = (
        "model| inputs| offloaded| size off by| changed| mean ratio| with its time| of the changed| best| worst|"
        " hindsight"
    )
    boards = " and ".join(f"`{board}`" for board in BOARDS)
    trips = ", ".join(f"{each:g}" for each in RTT_MS)
    us = [case.decided_us for case in sent]
    slowness = " to ".join(f"{edge(case.slower for case in every):.0f}" for edge in (min, max))
    return f"""# Deciding again behind the head

Generated by `python benchmarks/again.py` in {took_s / 60:.1f} minutes, {machine()}; the load average was {load:.1f}
before, of other work. Each model is calibrated on {count} inputs and asked for {count} others, over links of
{KBPS[0] / 1000:g} to {KBPS[-1] / 1000:g} Mbit/s in {len(KBPS)} steps with round trips of {trips} ms, as a device at the
speed of {boards} whose gateway is this machine, idle. Nothing is sent: times are the bundle's measured
ones, scaled as the whole model's is; sizes are those of payloads that were really encoded. On each link the inputs come
one after the other, and the device learns sizes as it does.

*Offloaded* is the share of inputs whose first plan sends something, *size off by* how far its predicted size was off
(mean), *changed* the share of all inputs whose plan was another after the head. Ratios are the latency with the second
decision by that without it: of the plans alone, and *with its time*, with what the decision took here, times the
board's slowness (the whole model's, which may be more than numpy's). *Best* and *worst* are single inputs. *Hindsight*
is the best plan that there was from the start, by the real sizes and the later link, by what was done without the
second decision.

## The link stays as it was

Only the payload's size is news.

{sections(head, first)}

## The link has fallen

To {FALLEN:g} of its rate, both ways, while the head ran, and the device knows: another transfer has shown it.
Where it does not know, no second decision is another than above.

{sections(head, second)}

## What a second decision takes

Median {median(us):.0f} µs, and {np.percentile(us, 99):.0f} µs in the slowest hundredth. The first behind a plan, which
makes the table of what can still be done, takes {median(made):.0f} µs; that table is kept until costs change, and in no
ratio here. The boards are taken to be {slowness} times as slow. There is one decision for each input that offloads,
{len(sent):,} of {len(every):,} here.

{conclusion(cases)}
"""


def sections(head: str, tables: dict[str, list[Sequence[str]]]) -> str:
    return "\n\n".join(f"{name[0].upper()}{name[1:]}:\n\n{table(head, found)}" for name, found in tables.items())


def rows(cases: dict[Setting, list[Case]], objective: str, fallen: bool) -> list[Sequence[str]]:
    """A row for each model, and one for all."""
    chosen = {key.model: found for key, found in cases.items() if (key.objective, key.fallen) == (objective, fallen)}
    return [row(model, found) for model, found in [*chosen.items(), ("all", list(chain(*chosen.values())))]]


def row(name: str, cases: Sequence[Case]) -> Sequence[str]:
    off = [case.off for case in cases if case.off is not None]
    changed = [case.ratio for case in cases if case.changed]
    return (
        name,
        f"{len(cases)}",
        f"{len(off) / len(cases):.0%}",
        f"{fmean(off):.1%}" if off else "–",
        f"{len(changed) / len(cases):.2%}",
        f"{fmean(case.ratio for case in cases):.4f}",
        f"{fmean(case.paid_ratio for case in cases):.4f}",
        f"{fmean(changed):.3f}" if changed else "–",
        f"{min(case.ratio for case in cases):.3f}",
        f"{max(case.ratio for case in cases):.3f}",
        f"{fmean(case.best_ms / case.without_ms for case in cases):.4f}",
    )


def conclusion(cases: dict[Setting, list[Case]]) -> str:
    """In words."""

    def saved(name: str, fallen: bool) -> tuple[float, float]:
        chosen = [case for key in cases if key[1:] == (name, fallen) for case in cases[key]]
        return 1.0 - fmean(case.ratio for case in chosen), 1.0 - fmean(case.paid_ratio for case in chosen)

    told = []
    for fallen, when in ((False, "the link stays"), (True, "the link has fallen")):
        gains = {name: saved(name, fallen) for name in OBJECTIVES}
        small = all(abs(gain) < LITTLE for gain, _ in gains.values())
        each = ";\n  ".join(f"{name} {gain:.2%}, and {paid:.2%} with its time" for name, (gain, paid) in gains.items())
        told.append(f"- Where {when}, it {'adds almost nothing' if small else 'adds something'}:\n  {each}.")
    return "Of the mean latency it saves (a negative share is a loss):\n\n" + "\n".join(told)


if __name__ == "__main__":
    main()
