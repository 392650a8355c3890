"""Requests over a link with every fault at once, for any length: scripts/soak [--requests N | --minutes M] [--page].

Real mosquitto, a gateway and devices as processes of their own. Devices reach the broker over a link that drops,
doubles, reorders and damages 1 to 20 % of the messages each way, takes 50 kbit/s to 100 Mbit/s with 1 to 100 ms of
round trip, and is cut for 5 s in each minute; shares, rate and round trip change every few seconds. Every answer is
compared with the model's own. Prints one JSON object; ends with 1 where an answer was wrong, missing or late, or none
came from the gateway.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from models import ROOT, machine, table, write_page

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.device import Device, Result
from midstream.faults import FaultMix
from midstream.faulty_link import FaultyLink, Outages
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODEL = ROOT / "tests" / "models" / "digits_float32.onnx"
DEADLINE_MS = 500.0
LATE_MS = 50.0
ANSWERS = {
    "wrong": "wrong",
    "hung": "hung",
    "late": f"unanswered by deadline + {LATE_MS:g} ms",
    "late_in_stalls": "of these, while the machine stalled",
    "slowest_ms": "slowest, ms",
    "remote": "by the gateway",
    "local_planned": "here as planned",
    "local_fallback": "here instead",
}
HUNG_S = 10.0
CALLERS = 4
CHANGE_S = 5.0
SAMPLE_S = 2.0
SHARES = (0.01, 0.2)
KBPS = (50.0, 100_000.0)
RTT_MS = (1.0, 100.0)
# On each core a process that only sleeps for this long tells when that core let processes wait for longer than the
# second.
BEAT_S, STALL_S = 0.005, 0.03
HEART = f"""
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {{int(sys.argv[1])}})
last = time.monotonic()
while True:
    time.sleep({BEAT_S})
    now = time.monotonic()
    if now - last > {STALL_S}:
        print(last, now, flush=True)
    last = now
"""
# A caller is a camera of so many frames a second, not a loop.
PAUSE_S = 0.02


def main() -> int:
    options = parser().parse_args()
    if options.device is not None:
        return device(options)
    summary = soak(options)
    if options.page:
        page(summary)
    print(json.dumps(summary))
    failed = any(summary[name] for name in ("wrong", "hung", "late"))
    return 1 if failed or not summary["remote"] or not summary["gateway_alive"] else 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--requests", type=int, default=1000, metavar="N", help="how many in all (1000)")
    length.add_argument("--minutes", type=float, metavar="M", help="for how long instead")
    parser.add_argument("--devices", type=int, default=2, metavar="N", help=f"processes of {CALLERS} callers each (2)")
    parser.add_argument("--every-s", type=float, default=60.0, metavar="S", help="an outage of a twelfth of this (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks/soak.md")
    parser.add_argument("--device", nargs=2, help=argparse.SUPPRESS)
    return parser


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run it, and say what happened."""
    began = time.monotonic()
    random = Random(options.seed)
    outages = Outages(options.every_s, options.every_s / 12)
    with tempfile.TemporaryDirectory() as name, Broker() as broker, contextlib.ExitStack() as running:
        bundle = Path(name) / "bundle"
        convert(MODEL, bundle, Options(max_cuts=2))
        command = [sys.executable, "-m", "midstream.cli.main", "gateway", "--bundles", str(bundle)]
        gateway = running.enter_context(process([*command, "--broker", broker.url, "--id", "soak", "--workers", "1"]))
        link = running.enter_context(
            FaultyLink(("127.0.0.1", broker.port), **weather(random), seed=options.seed, outages=outages)
        )
        command = [sys.executable, str(Path(__file__)), "--device", link.url, str(bundle)]
        share = -(-options.requests // options.devices)
        command += ["--minutes", str(options.minutes)] if options.minutes else ["--requests", str(share)]
        devices = [
            running.enter_context(process([*command, "--seed", str(number)], stdout=subprocess.PIPE))
            for number in range(options.devices)
        ]
        hearts = [
            running.enter_context(process([sys.executable, "-c", HEART, str(core)], stdout=subprocess.PIPE))
            for core in sorted(os.sched_getaffinity(0))
        ]
        memory: dict[str, list[float]] = {"gateway": [], **{f"device {n}": [] for n in range(len(devices))}}
        collected = Collected(devices)
        changed = time.monotonic()
        while collected.running:
            for place, running_process in zip(memory, [gateway, *devices], strict=True):
                if (resident := resident_mb(running_process.pid)) is not None:
                    memory[place].append(resident)
            if time.monotonic() - changed > CHANGE_S:
                link.set(**weather(random))
                changed = time.monotonic()
            collected.wait(SAMPLE_S)
        codes = [one.wait() for one in devices]
        found = Counter[str]()
        reasons = Counter[str]()
        slowest = 0.0
        stalls = []
        for heart in hearts:
            heart.terminate()
            assert heart.stdout is not None
            stalls += [tuple(map(float, line.split())) for line in heart.stdout]
        late: list[tuple[float, float]] = []
        for report in collected.reports:
            found.update(report["counts"])
            reasons.update(report["reasons"])
            slowest = max(slowest, report["slowest_ms"])
            late += report["late"]
        return {
            "requests": found["requests"],
            "wrong": found["wrong"],
            "hung": found["hung"] + sum(code != 0 for code in codes),
            "late": len(late),
            "late_in_stalls": sum(any(first < end and began < last for first, last in stalls) for began, end in late),
            "stalls": len(stalls),
            "load_average": round(os.getloadavg()[0], 1),
            "longest_stall_ms": round(1e3 * max((last - first for first, last in stalls), default=0.0), 1),
            "slowest_ms": round(slowest, 1),
            "remote": found["remote"],
            "local_planned": found["local"],
            "local_fallback": found["fallback"],
            "fallbacks": dict(reasons.most_common(8)),
            "outages": link.cuts,
            "up": counts(link.up),
            "down": counts(link.down),
            "memory_mb": {place: spread(series) for place, series in memory.items()},
            "gateway_alive": gateway.poll() is None,
            "seconds": round(time.monotonic() - began, 1),
        }


def weather(random: Random) -> dict[str, Any]:
    """The link for a while."""

    def mix() -> FaultMix:
        return FaultMix(*(random.uniform(*SHARES) for _ in range(4)))

    kbps = math.exp(random.uniform(*map(math.log, KBPS)))
    return {
        "up": mix(),
        "down": mix(),
        "uplink_kbps": kbps,
        "downlink_kbps": kbps,
        "rtt_ms": math.exp(random.uniform(*map(math.log, RTT_MS))),
    }


class Collected:
    """What the devices print, as it comes."""

    def __init__(self, devices: list[subprocess.Popen[bytes]]) -> None:
        self.reports: list[dict[str, Any]] = []
        self._threads = [threading.Thread(target=self._read, args=(device,), daemon=True) for device in devices]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether any of them has not ended."""
        return any(thread.is_alive() for thread in self._threads)

    def wait(self, seconds: float) -> None:
        """So long, or until they have ended."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _read(self, device: subprocess.Popen[bytes]) -> None:
        assert device.stdout is not None
        self.reports += [json.loads(line) for line in device.stdout]


class Calls:
    """What became of one process's requests. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts = Counter[str]()
        self.reasons = Counter[str]()
        self.slowest_ms = 0.0
        self.late: list[tuple[float, float]] = []
        self.begun: dict[int, float] = {}

    def done(self, result: Result, began: float, right: bool) -> None:
        """Count an answer, to a request that began then."""
        end = time.monotonic()
        ms = (end - began) * 1e3
        with self.lock:
            self.counts["requests"] += 1
            self.counts["wrong"] += not right
            if ms > DEADLINE_MS + LATE_MS:
                self.late.append((began + DEADLINE_MS / 1e3, end))
            self.slowest_ms = max(self.slowest_ms, ms)
            if "gateway" in result.ran_on:
                self.counts["remote"] += 1
            elif result.plan.offloads:
                self.counts["fallback"] += 1
                self.reasons[reason(result)] += 1
            else:
                self.counts["local"] += 1


def reason(result: Result) -> str:
    """Why an answer came from the device, without what differs from case to case."""
    return re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "…", str(result.fallback))[:90]


def device(options: argparse.Namespace) -> int:
    """One device process: its callers, until all requests are answered; its report as a line of JSON."""
    url, path = options.device
    bundle = Bundle.open(path)
    random = np.random.default_rng(options.seed)
    spec = bundle.inputs[0]
    inputs = [
        {spec.name: random.uniform(0, 16, bundle.manifest.sample_shapes[spec.name]).astype(spec.dtype)}
        for _ in range(16)
    ]
    wanted = [bundle.run(one) for one in inputs]
    left = iter(range(options.requests)) if options.minutes is None else itertools.count()
    end = time.monotonic() + 60 * options.minutes if options.minutes is not None else math.inf
    calls = Calls()
    with Device(bundle, url, deadline_ms=DEADLINE_MS) as running:
        cuts = [None, "input", *(cut.id for cut in bundle.cuts)]

        def call(caller: int) -> None:
            while time.monotonic() < end:
                with calls.lock:
                    number = next(left, None)
                    if number is None:
                        return
                    calls.begun[caller] = time.monotonic()
                which = (number + caller) % len(inputs)
                began = time.monotonic()
                result = running.infer(inputs[which], cut=cuts[number % len(cuts)])
                want = wanted[which]
                calls.done(result, began, all(np.array_equal(want[name], result.outputs[name]) for name in want))
                with calls.lock:
                    del calls.begun[caller]
                time.sleep(PAUSE_S)

        threads = [threading.Thread(target=call, args=(caller,), daemon=True) for caller in range(CALLERS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.2)
            with calls.lock:
                calls.counts["hung"] = sum(time.monotonic() - began > HUNG_S for began in calls.begun.values())
            if calls.counts["hung"]:
                break
        report = {"counts": calls.counts, "reasons": calls.reasons, "late": calls.late, "slowest_ms": calls.slowest_ms}
        print(json.dumps(report), flush=True)
        if calls.counts["hung"]:
            os._exit(1)
    return 0


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **options) as running:
        try:
            yield running
        finally:
            running.kill()


def resident_mb(pid: int) -> float | None:
    """What a process holds of the machine's memory, from /proc; None where it has ended or there is no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 or None


def spread(series: list[float]) -> dict[str, float]:
    """Memory over time: when it had settled, after a fifth of the run, at its most after that, and at the end."""
    settled = series[len(series) // 5 :]
    return {
        "settled": round(settled[0], 1) if settled else 0.0,
        "most": round(max(settled, default=0.0), 1),
        "end": round(settled[-1], 1) if settled else 0.0,
    }


def counts(counted: Any) -> dict[str, int]:
    return {name: getattr(counted, name) for name in ("messages", "dropped", "duplicated", "reordered", "flipped")}


def page(summary: dict[str, Any]) -> None:
    ways = "|".join(f" {name}" for name in ANSWERS.values())
    answers = table(ways, [[summary[name] for name in ANSWERS]])
    about = (__doc__ or "").split("\n\n")[1].partition(" Prints")[0]
    links = [[way, *summary[way].values()] for way in ("up", "down")]
    places = [[place, *spread.values()] for place, spread in summary["memory_mb"].items()]
    reasons = [[why, count] for why, count in summary["fallbacks"].items()]
    write_page(
        "soak",
        f"""# A soak under every fault

Written by `scripts/soak --requests {summary["requests"]} --page` on {machine()}.

{about}

Of {summary["requests"]} requests with a deadline of {DEADLINE_MS:g} ms, in {summary["seconds"]:g} s with
{summary["outages"]} outages:

{answers}

The load average was {summary["load_average"]:g} on {os.cpu_count()} cores. Processes beside them, one a core, that
only sleep for {BEAT_S * 1e3:g} ms at a time woke {summary["stalls"]} times more than {(STALL_S - BEAT_S) * 1e3:g} ms
late, at most {summary["longest_stall_ms"]:g} ms: then the machine let everything wait.

What the link did to messages:

{table("direction | messages | dropped | doubled | overtaken | damaged", links)}

Resident memory, MB: after a fifth of the run, the most after that, and at the end.

{table("process | settled | most | end", places)}

Why a request that was meant for the gateway was answered on the device:

{table("reason | requests", reasons)}
""",
    )


if __name__ == "__main__":
    raise SystemExit(main())
