"""Policies on real processes beside the simulation of the same: is the simulator to be believed?

``python benchmarks/bench_adaptive.py --traces DIR`` takes about half an hour on a machine that does nothing else, and
writes docs/benchmarks/bench-adaptive.md. Bundles are those of ``benchmarks/evaluated.py``; links are recorded ones
where their folder is given, else made. ``--only N`` runs one set-up and shows it, without writing the page.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from models import ROOT, machine, table, verdict, write_page

from midstream.benching.bench import Benched, Setup, bench
from midstream.partitioning import Objective
from midstream.profiles import load_profile
from midstream.simulating.policies import PolicyName
from midstream.trace_making import make_trace
from midstream.traces import Trace

BUNDLES = ROOT / ".cache" / "adaptive"
SECONDS = 30.0
AGREEMENT = 0.97
WANTED = 0.1
ENOUGH_SETUPS = 4


@dataclass(frozen=True)
class Case:
    """A set-up: which bundle on which board over which link: a recorded one, or where they are not there a made one."""

    bundle: str
    board: str
    recorded: str
    made: str
    sending: PolicyName
    rate_hz: float = 2.0
    deadline_ms: float | None = None
    gateway: str | None = None


CASES = (
    Case("face-detection", "pi-zero-2w", "wifi_walk_a", "wifi-edge", "jpeg90"),
    Case("text-direction", "pi-zero-2w", "lte_att_driving", "lte-driving", "jpeg75"),
    Case("person-segmentation", "pi3", "nr_mmw_walk", "5g", "jpeg75"),
    Case("keywords", "pi-zero-2w", "umts_tmo_driving", "umts", "raw"),
    Case("text-detection", "pi4", "lte_us_driving", "lte", "jpeg90", rate_hz=1.0),
    Case("face-detection", "pi4", "umts_tmo_driving", "umts", "jpeg90", deadline_ms=200.0),
    Case("person-segmentation", "pi-zero-2w", "starlink_autobahn", "satellite", "jpeg75", gateway="x86-laptop"),
)


def main() -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="a folder of recorded links")
    parser.add_argument("--only", type=int, help="the number of one set-up, from 1")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each policy")
    options = parser.parse_args()
    began, load = time.monotonic(), os.getloadavg()[0]
    chosen = CASES if options.only is None else CASES[options.only - 1 : options.only]
    setups = [setup(case, options.traces, options.seconds) for case in chosen]
    found = [(title(case, each.trace), bench(each, tell)) for case, each in zip(chosen, setups, strict=True)]
    if options.only is not None:
        print(section(*found[0]))
        return 0
    write_page("bench-adaptive", page(found, options.seconds, load, time.monotonic() - began))
    return 0


def setup(case: Case, traces: Path | None, seconds: float) -> Setup:
    """What is benched; always paced, as a quota is at the mercy of what else this machine does."""
    trace = make_trace(case.made, 300) if traces is None else Trace.open(traces / f"{case.recorded}.csv")
    return Setup(
        BUNDLES / f"{case.bundle}.bundle",
        load_profile(case.board),
        trace,
        ("local", case.sending, "best_static", "adaptive", "clairvoyant"),
        gateway=None if case.gateway is None else load_profile(case.gateway),
        rate_hz=case.rate_hz,
        seconds=seconds,
        objective=Objective(deadline_ms=case.deadline_ms, min_agreement=AGREEMENT),
        slowing="pacing",
    )


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def off(benched: Benched) -> dict[str, float]:
    """How far the simulated means are off, in shares of them."""
    return {name: benched.ratio(name) - 1.0 for name in benched.summaries}


def agrees(benched: Benched) -> bool:
    return all(abs(share) <= WANTED for share in off(benched).values())


def title(case: Case, trace: Trace) -> str:
    gateway = "" if case.gateway is None else f", gateway {case.gateway}"
    deadline = "" if case.deadline_ms is None else f", deadline {case.deadline_ms:g} ms"
    return f"{case.bundle}, {case.board}, {trace.name}{gateway}, {case.rate_hz:g}/s{deadline}"


def section(name: str, benched: Benched) -> str:
    """One set-up."""
    rows = [
        [
            policy,
            *(f"{ms:.1f}" for ms in (found.mean_ms, found.p95_ms)),
            *(f"{ms:.1f}" for ms in (benched.simulated[policy].mean_ms, benched.simulated[policy].p95_ms)),
            f"{benched.ratio(policy):.2f}",
            f"{found.missed_share:.1%}",
            f"{found.energy_mj:.0f}",
            f"{found.split_share:.0%}",
            f"{found.payload_bytes:,.0f}",
        ]
        for policy, found in benched.summaries.items()
    ]
    headings = (
        "policy| mean, ms| p95, ms| simulated mean, ms| p95, ms| real over simulated| missed| mJ| split| bytes sent"
    )
    notes = "; ".join(f"{on}: {note}" for on, note in benched.notes.items() if on in ("slowing", "best_static"))
    return "\n".join([f"## {name}", "", table(headings, rows), "", f"{notes}."])


def page(found: list[tuple[str, Benched]], seconds: float, load: float, took_s: float) -> str:
    """The generated page."""
    near = sum(agrees(benched) for _, benched in found)
    every = [abs(share) for _, benched in found for share in off(benched).values()]
    rows = [[name, f"{max(map(abs, off(benched).values())):.1%}", verdict(agrees(benched))] for name, benched in found]
    return "\n".join(
        [
            "# Policies on real processes, and simulated",
            "",
            f"Generated by `python benchmarks/bench_adaptive.py`: {machine()}, load {load:.1f} before; "
            f"{took_s / 60:.0f} min. Each policy ran for {seconds:g} s over the same link from its start, with the "
            "same arrivals and inputs (made up), on a real broker, gateway and device ([how](../bench.md)). Agreement "
            f"of at least {AGREEMENT:g} was asked for. Energy is modelled.",
            "",
            f"Wanted: simulated means within {WANTED:.0%} of the real ones, for all policies, in at least "
            f"{ENOUGH_SETUPS} set-ups. Found: in {near} of {len(found)}: {verdict(near >= ENOUGH_SETUPS)}. Of all "
            f"{len(every)} figures the middle one is {median(every):.1%} off, the worst {max(every):.0%}.",
            "",
            table("set-up| farthest off|", rows),
            "",
            "\n\n".join(section(*each) for each in found),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
