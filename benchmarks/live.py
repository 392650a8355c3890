"""A live run: the link falls, the gateway is loaded, the device throttles, and what the device does about it.

``python benchmarks/live.py`` takes some minutes and writes docs/benchmarks/live.md with a plot. Real mosquitto; a
gateway, the device, and the other devices that load the gateway are processes of their own. The device reaches the
broker over an emulated link, and is paced to a board's speed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from itertools import cycle, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, TextIO

import numpy as np
from models import MODELS, ROOT, machine, table, verdict, write_page
from subjects import SUBJECTS, Sample, Subject, inputs_of

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.calibrating import calibrate, write_ladder
from midstream.communication import topics
from midstream.communication.directory import WHOLE_KEY, Directory
from midstream.communication.lanes import Lanes
from midstream.communication.topics import LOAD_PREFIX
from midstream.communication.transport import Message
from midstream.device import Device, Result
from midstream.drawing.canvas import plain_matplotlib
from midstream.link import LinkEmulator
from midstream.partitioning import (
    Candidate,
    LinkState,
    MachineTimes,
    Objective,
    Power,
    SystemState,
    candidates,
    times_from_costs,
    times_from_profile,
)
from midstream.partitioning.planner import predict
from midstream.partitioning.table import refusal
from midstream.profiles import load_profile
from midstream_converters.convert import convert

PLOT = ROOT / "docs" / "benchmarks" / "live" / "live.svg"
SUBJECT, OTHERS = "text direction", "text detection"
BOARD = "pi4"
CALIBRATED_ON, ASKED_FOR = 64, 12
EVERY_S, PHASE_S, SETTLE_S = 0.1, 8.0, 3.0
RTT_MS, DEADLINE_MS = 10.0, 250.0
CAMERAS, CAMERAS_LOAD = 6, 0.8
THROTTLED = 3.0
ASKED_S, SENSIBLE = 2.0, 1.1
AGREEMENT = 0.97
POWER = Power(1.0, 2.5, 0.1)
GATEWAY_ID = "live"
# As nice: other work on this machine shall stay out of the device's times, where that may be asked for.
PRIORITY = -10
FEWEST, SHOWN = 5, 3
ROW, ROW_SENSIBLE = 10, 8
COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#9333ea", "#ca8a04", "#0891b2", "#be185d")


@dataclass(frozen=True)
class Phase:
    """What holds for a while. ``asked`` marks the changes that were asked about; the others lead back."""

    name: str
    kbps: float
    loaded: bool = False
    throttled: bool = False
    asked: bool = False


PHASES = (
    Phase("good link", 50_000.0),
    Phase("the link falls", 500.0, asked=True),
    Phase("the link recovers", 50_000.0),
    Phase("the gateway is loaded", 50_000.0, loaded=True, asked=True),
    Phase("its load ends", 50_000.0),
    Phase("the link falls again", 500.0),
    Phase("the device throttles", 500.0, throttled=True, asked=True),
    Phase("the device recovers", 500.0),
)


@dataclass(frozen=True)
class Answer:
    """One input: when it came and was planned (s of the machine's monotonic clock), by which plan, and what it took.

    ``cut`` is "local", "input" or a cut's id; ``number`` that of the input, ``uplink_kbps`` what the
    device then takes its link to be.
    """

    number: int
    began_s: float
    planned_s: float
    cut: str
    codec: str
    total_ms: float
    device_ms: float
    slowdown: float
    uplink_kbps: float
    fallback: str | None
    explores: bool

    @property
    def plan(self) -> str:
        """For a legend."""
        return self.cut if self.cut == "local" else f"{self.cut}, {self.codec}"


@dataclass(frozen=True)
class Report:
    """What the gateway said of itself, and when it was heard: its workers' load, waits at a cut, or for all others."""

    at_s: float
    load: float
    wait_ms: float
    waits_ms: Mapping[str, float]


def main() -> int:
    """Run it, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, help="a folder to keep the converted and calibrated bundles in")
    parser.add_argument("--device", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--cameras", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device is not None:
        device(options.device[0], Path(options.device[1]), float(options.device[2]))
    elif options.cameras is not None:
        cameras(options.cameras[0], Path(options.cameras[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            live(options.bundles or Path(folder))
    return 0


# The device, a process: inputs every 100 ms; a line on its input is another pace.


def device(url: str, path: Path, slowdown: float) -> None:
    """Answer inputs until the input ends, and print an `Answer` for each."""
    bundle = Bundle.open(path)
    samples = inputs_of(subject(SUBJECT), bundle, "test", ASKED_FOR)
    bundle.slowdown = slowdown
    ended = threading.Event()
    with Device(bundle, url, min_agreement=AGREEMENT, deadline_ms=DEADLINE_MS) as asked:
        threading.Thread(target=listen, args=(bundle, ended), daemon=True).start()
        due = time.monotonic()
        for number in cycle(range(len(samples))):
            began = time.monotonic()
            result = asked.infer(samples[number])
            print(json.dumps(asdict(answer(number, began, result, bundle.slowdown, asked.link))), flush=True)
            due = max(due + EVERY_S, time.monotonic())
            if ended.wait(max(0.0, due - time.monotonic())):
                return


def listen(bundle: Bundle, ended: threading.Event) -> None:
    for line in sys.stdin:
        bundle.slowdown = float(line)
    ended.set()


def answer(number: int, began: float, result: Result, slowdown: float, link: LinkState) -> Answer:
    timings, plan = result.timings_ms, result.plan
    cut = "local" if not plan.offloads else plan.cut or "input"
    planned = began + (timings["analysis"] + timings["plan"]) / 1e3
    return Answer(
        number, began, planned, cut, plan.codec, timings["total"], timings["device"], slowdown, link.uplink_kbps,
        result.fallback, plan.reasons.explores,
    )  # fmt: skip


# The other devices, a process: each asks again and again, so often that together they take a share of the gateway.


def cameras(url: str, path: Path) -> None:
    """Wait for lines: "on" begins, anything else ends; a line on the output says what a request takes there."""
    bundle = Bundle.open(path)
    samples = inputs_of(subject(OTHERS), bundle, "test", CAMERAS)
    going = threading.Event()
    with Device(bundle, url, analyse=False, packing=False, deadline_ms=DEADLINE_MS) as asked:
        alone = [asked.infer(each, cut="input", codec="jpeg90") for each in samples * 3]
        if any(each.fallback for each in alone):
            raise SystemExit(f"the gateway did not answer: {alone[-1].fallback}")
        work_s = median(each.timings_ms["gateway"] for each in alone) / 1e3
        print(work_s * 1e3, flush=True)
        period_s = CAMERAS * work_s / CAMERAS_LOAD
        for place, sample in enumerate(samples):
            threading.Thread(target=camera, args=(asked, sample, place, period_s, going), daemon=True).start()
        for line in sys.stdin:
            going.set() if line.strip() == "on" else going.clear()


def camera(asked: Device, sample: Any, place: int, period_s: float, going: threading.Event) -> None:
    rng = np.random.default_rng(place)
    while going.wait():
        time.sleep(period_s * rng.uniform(0, 1))
        due = time.monotonic()
        while going.is_set():
            asked.infer(sample, cut="input", codec="jpeg90")
            due = max(due + period_s * rng.uniform(0.5, 1.5), time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


# The run.


def live(folder: Path) -> None:
    """Run all phases and write the page."""
    began, load = time.monotonic(), os.getloadavg()[0]
    with suppress(OSError):
        os.nice(PRIORITY - os.nice(0))
    path, others = prepared(folder, SUBJECT, True), prepared(folder, OTHERS, False)
    bundle = Bundle.open(path)
    profile = load_profile(BOARD)
    wanted_ms = times_from_profile(bundle.manifest, bundle.graph, profile, threads=1, digest=bundle.digest).whole_ms
    # The quickest of several: what else this machine does is no part of its speed.
    pace = max(1.0, wanted_ms / min(bundle.measure_whole_ms() for _ in range(10)))
    answers: list[Answer] = []
    starts: list[float] = []
    with ExitStack() as running:
        broker = running.enter_context(Broker())
        running.enter_context(gateway(broker.url, [path, others]))
        heard = running.enter_context(Heard(broker.url, bundle))
        link = running.enter_context(LinkEmulator(("127.0.0.1", broker.port), rtt_ms=RTT_MS))
        change(link, PHASES[0])
        crowd = running.enter_context(process("--cameras", broker.url, others))
        work_ms = float(lines(crowd).readline())
        one = running.enter_context(process("--device", link.url, path, pace))
        threading.Thread(target=collect, args=(lines(one), answers), daemon=True).start()
        while not answers:
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        for before, phase in pairwise((PHASES[0], *PHASES)):
            change(link, phase)
            if phase.loaded != before.loaded:
                say(crowd, "on" if phase.loaded else "off")
            if phase.throttled != before.throttled:
                say(one, str(pace * THROTTLED if phase.throttled else pace))
            starts.append(time.monotonic())
            time.sleep(PHASE_S)
        ended = time.monotonic()
        # What came just before the end is still under way.
        say(crowd, "off")
        time.sleep(1.0)
        tails, reports = heard.tails(), list(heard.reports)
    run = Run(bundle, pace, work_ms, starts, ended, list(answers), reports, tails)
    found = verdicts(run, run.judged())
    draw(run, PLOT)
    write_page("live", page(run, found, load, time.monotonic() - began))


def subject(name: str) -> Subject:
    return next(each for each in SUBJECTS if each.name == name)


def prepared(folder: Path, name: str, calibrated: bool) -> Path:
    """The bundle of a subject, made where it is not there."""
    path, chosen = folder / name.replace(" ", "-"), subject(name)
    if path.exists():
        return path
    convert(MODELS / chosen.file, path, chosen.options())
    if calibrated:
        bundle = Bundle.open(path)
        fitted = inputs_of(chosen, bundle, "calibration", CALIBRATED_ON)
        write_ladder(bundle, calibrate(bundle, fitted, metric=chosen.metric, min_agreement=AGREEMENT).ladder)
    return path


@contextmanager
def gateway(url: str, bundles: Sequence[Path]) -> Iterator[None]:
    """A gateway of one worker, once it is ready."""
    command = [sys.executable, "-m", "midstream.cli.main", "gateway", "--broker", url, "--id", GATEWAY_ID]
    command += ["--workers", "1", *(part for path in bundles for part in ("--bundles", str(path)))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stderr is not None
            for line in started.stderr:
                if "is ready" in line:
                    break
            yield
        finally:
            started.terminate()


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This script as another process, which ends when its input does."""
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.terminate()


def lines(started: subprocess.Popen[str]) -> TextIO:
    assert isinstance(started.stdout, TextIO) or started.stdout is not None
    return started.stdout  # type: ignore[return-value]


def say(started: subprocess.Popen[str], line: str) -> None:
    assert started.stdin is not None
    print(line, file=started.stdin, flush=True)


def collect(output: TextIO, answers: list[Answer]) -> None:
    answers.extend(Answer(**json.loads(line)) for line in output)


def change(link: LinkEmulator, phase: Phase) -> None:
    link.set(uplink_kbps=phase.kbps, downlink_kbps=phase.kbps)


class Heard:
    """What the gateway announces, with the time, heard beside the emulated link."""

    def __init__(self, url: str, bundle: Bundle) -> None:
        self._directory = Directory(bundle.digest)
        self._digest = bundle.digest.hex()
        self.reports: deque[Report] = deque()
        self._transport = Lanes(url, "live-observer", on_message=self._hear, on_state=lambda _: None)

    def __enter__(self) -> Heard:
        self._transport.subscribe(topics.presence_filter())
        self._transport.subscribe(topics.load_filter())
        self._transport.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def tails(self) -> Mapping[str, float]:
        """Milliseconds of the bundle's tails at the gateway."""
        return self._directory.gateways[GATEWAY_ID].tail_ms[self._digest]

    def _hear(self, message: Message) -> None:
        self._directory.hear(message.topic, message.payload)
        report = self._directory.loads.get(GATEWAY_ID)
        if report is not None and message.topic.startswith(LOAD_PREFIX):
            waits = report.waits_ms.get(self._digest, {})
            self.reports.append(Report(time.monotonic(), report.load, report.wait_ms, waits))


# What was sensible.


@dataclass(frozen=True)
class Judged:
    """What one answer's plan costs by the true figures, and the best one, ms."""

    answer: Answer
    plan_ms: float
    best_ms: float
    best: str

    @property
    def sensible(self) -> bool:
        """Whether it was as good as the best, and was done."""
        done = self.answer.fallback is None or self.answer.cut == "local"
        return done and self.plan_ms <= SENSIBLE * self.best_ms


@dataclass(frozen=True, eq=False)
class Run:
    """All that was seen; ``pace`` is the device's slowdown, ``work_ms`` what one of the others' requests takes."""

    bundle: Bundle
    pace: float
    work_ms: float
    starts: Sequence[float]
    ended: float
    answers: Sequence[Answer]
    reports: Sequence[Report]
    tails: Mapping[str, float]

    def phase(self, at_s: float) -> int:
        """Which phase a time is in; what comes before the first belongs to it."""
        return max(0, sum(start <= at_s for start in self.starts) - 1)

    def of_phase(self, place: int) -> list[Answer]:
        """The inputs that came in it."""
        until = self.starts[place + 1] if place + 1 < len(self.starts) else self.ended
        return [each for each in self.answers if self.starts[place] <= each.began_s < until]

    def load(self, since_s: float, until_s: float) -> float:
        """The mean of the load that was reported between, by time."""
        times = [since_s, *(each.at_s for each in self.reports if since_s < each.at_s < until_s), until_s]
        return sum((b - a) * self.report(a).load for a, b in pairwise(times)) / (until_s - since_s)

    def report(self, at_s: float) -> Report:
        """The last one by then."""
        before = [each for each in self.reports if each.at_s <= at_s]
        return before[-1] if before else Report(at_s, 0.0, 0.0, {})

    def judged(self) -> list[Judged]:
        """Every answer by the true figures."""
        samples = [Sample(self.bundle, each) for each in inputs_of(subject(SUBJECT), self.bundle, "test", ASKED_FOR)]
        errors = [self._error(place) for place in range(len(PHASES))]
        usual = median(error for error in errors if error is not None)

        @cache
        def options(number: int, slowdown: float) -> list[Candidate]:
            here = times_from_costs(self.bundle.costs, slowdown)
            there = MachineTimes(
                self.tails[WHOLE_KEY], {}, {cut: ms for cut, ms in self.tails.items() if cut != WHOLE_KEY}
            )
            found = candidates(self.bundle.manifest, self.bundle.graph, here, there, self.bundle.ladder)
            objective = Objective(min_agreement=AGREEMENT)
            state = SystemState(LinkState(1.0, 1.0, 1.0))
            return [samples[number].real(each) for each in found if refusal(each, state, objective) is None]

        judged = []
        for each in self.answers:
            place = self.phase(each.planned_s)
            phase, report = PHASES[place], self.report(each.planned_s)
            waits = {None if cut == WHOLE_KEY else cut: ms for cut, ms in report.waits_ms.items()}
            link = LinkState(phase.kbps, phase.kbps, RTT_MS)
            state = SystemState(link, gateway_wait_ms=report.wait_ms, gateway_waits_ms=waits)
            error = errors[place]
            prices = {
                (option.cut or ("input" if option.offloads else "local"), option.codec): predict(
                    option, state, POWER
                ).latency_ms
                for option in options(each.number, each.slowdown * (usual if error is None else error))
            }
            best = min(prices, key=prices.__getitem__)
            judged.append(Judged(each, prices[each.cut, each.codec], prices[best], ", ".join(best)))
        return judged

    def _error(self, place: int) -> float | None:
        """By how much the device's times in a phase were other than paced: what else the machine does slows it down."""
        costs = self.bundle.costs
        ratios = [
            each.device_ms / each.slowdown / (costs.whole_ms if each.cut == "local" else costs.cuts[each.cut].head_ms)
            for each in self.of_phase(place)
            if each.cut != "input" and each.fallback is None
        ]
        return median(ratios) if len(ratios) >= FEWEST else None


@dataclass(frozen=True)
class Verdict:
    """What became of one change: s until the first sensible plan, and until nearly all of the next ten are.

    Latencies are in ms, ``share`` is that of sensible plans after two seconds.
    """

    phase: Phase
    load: float
    wait_ms: float
    after_s: float | None
    steady_s: float | None
    before_ms: float
    at_once_ms: float
    settled_ms: float
    share: float
    plans: str
    best: str

    @property
    def met(self) -> bool:
        """Whether the change was answered in time."""
        return self.after_s is not None and self.after_s <= ASKED_S


def verdicts(run: Run, judged: Sequence[Judged]) -> list[Verdict]:
    """One for each phase."""
    found: list[Verdict] = []
    for place, phase in enumerate(PHASES):
        start = run.starts[place]
        until = run.starts[place + 1] if place + 1 < len(run.starts) else run.ended
        here = [each for each in judged if start <= each.answer.began_s < until]
        first = next((each.answer.planned_s - start for each in here if each.sensible), None)
        soon = [each for each in here if each.answer.began_s < start + ASKED_S]
        late = [each for each in here if each not in soon]
        reports = [each.wait_ms for each in run.reports if start <= each.at_s < until]
        plans = Counter(each.answer.plan for each in late).most_common(SHOWN)
        best = Counter(each.best for each in late).most_common(1)
        found.append(
            Verdict(
                phase,
                run.load(start, until),
                fmean(reports) if reports else 0.0,
                first,
                next((here[at].answer.planned_s - start for at in range(len(here)) if steady(here[at:])), None),
                found[-1].settled_ms if found else math.nan,
                median(each.answer.total_ms for each in soon) if soon else math.nan,
                median(each.answer.total_ms for each in late),
                fmean(each.sensible for each in late),
                "; ".join(f"{name} ({count / len(late):.0%})" for name, count in plans),
                best[0][0],
            )
        )
    return found


def steady(judged: Sequence[Judged]) -> bool:
    """Whether the first is sensible, and so are nearly all of the next ten."""
    return len(judged) >= ROW and judged[0].sensible and sum(each.sensible for each in judged[:ROW]) >= ROW_SENSIBLE


def page(run: Run, found: Sequence[Verdict], load: float, took_s: float) -> str:
    """The generated page."""
    rows = [
        (
            each.phase.name,
            f"{each.phase.kbps / 1000:g}",
            f"{each.load:.0%}",
            f"{each.wait_ms:.0f}",
            "–" if each.after_s is None else f"{each.after_s:.2f}",
            verdict(each.met) if each.phase.asked else "",
            "–" if each.steady_s is None else f"{each.steady_s:.2f}",
            f"{each.share:.0%}",
            "–" if math.isnan(each.before_ms) else f"{each.before_ms:.0f}",
            "–" if math.isnan(each.at_once_ms) else f"{each.at_once_ms:.0f}",
            f"{each.settled_ms:.0f}",
            each.plans,
            each.best,
        )
        for each in found
    ]
    head = (
        "change| Mbit/s| load| wait ms| s until sensible|within 2 s| s until steady| sensible after 2 s| before|"
        " in the first 2 s| then|plans then|best then"
    )
    whole_ms = run.bundle.costs.whole_ms * run.pace
    return f"""# A live run

Generated by `python benchmarks/live.py` in {took_s / 60:.1f} minutes, {machine()}, beside other work: the load
average was {load:.1f} before. Mosquitto, the gateway (one worker), the device and six others are real, in processes of
their own, which the system lets go first where it can be told to. The device is paced to a `{BOARD}`,
{run.pace:.1f} times as slow as this machine: {SUBJECT} (PP-OCR) takes it {whole_ms:.0f} ms. The bundle is calibrated
on {CALIBRATED_ON} inputs, and {ASKED_FOR} others are asked for in turn, with an agreement of {AGREEMENT:g} and a
deadline of {DEADLINE_MS:g} ms. The broker is reached over an emulated link of {RTT_MS:g} ms. An input comes every
{EVERY_S * 1e3:g} ms, or later where the last one is not answered yet.

- *The link falls* from {PHASES[0].kbps / 1000:g} Mbit/s to {PHASES[1].kbps / 1000:g}, both ways.
- *The gateway is loaded* by {CAMERAS} others that ask for {OTHERS} ({run.work_ms:.0f} ms each, and the same
  deadline), so often that about 90 % of its worker is taken; *load* and *wait* are means of what it has reported.
- *The device throttles*: every run takes {THROTTLED:g} times as long. No sensor tells of it.

A plan is **sensible** where its cost by the true figures is at most {SENSIBLE - 1:.0%} above the best one's: the link
as it is set, the wait there as the gateway reports it at that moment, the device's pace (and what this machine's other
work adds, the median of the phase), the gateway's own times, and what this very input really takes encoded. What fell
back from a plan that sends is not; what is local since the gateway is left alone is judged as local.
*s until sensible* is from the change to the first decision for such a plan, which may be the plan before where that
is still one; *s until steady* to the first of ten in a row of which {ROW_SENSIBLE}
are. Latencies are medians in ms, of the two seconds after the change and of the rest of its phase.

![Latency of each input by its plan, the link, the load](live/live.svg)

{table(head, rows)}

What to know of it:

- Pacing stretches whatever delays a run, so a millisecond that another process takes from the device is as many as it
  is slower, three times as many where it throttles. Single slow answers are
  probably that: heads took ten times as long as they do; no run on a quiet machine was made to compare.
- After an answer that was late the device leaves the gateway alone for a while, though it was the link or the
  device that was slow: what is local in the first second after a fall is that, and so is most of what is not sensible
  while the device throttles.
- The deadline matters: in an earlier run without one, an input of 110 kB was under way when the link fell. It took
  1.8 s, and the first sensible decision came after 2.15 s: missed. In the runs with a deadline the late input is
  given up.
- The device takes a fast link of ten milliseconds to be up to twice as fast as it is: of so short a transfer
  the round trip is nearly all. Then it sends more bytes than is best, which costs some milliseconds.
"""


def draw(run: Run, target: Path) -> None:
    """Latency of each input by its plan; the link and what the device takes it to be; load and pace."""
    target.parent.mkdir(parents=True, exist_ok=True)
    zero = run.starts[0]
    with plain_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 7.6), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3.2, 1.2, 1.2))
        answers = [each for each in run.answers if zero <= each.began_s < run.ended]
        usual = [name for name, _ in Counter(each.plan for each in answers).most_common(len(COLOURS))]
        for name, colour in zip(usual, COLOURS, strict=False):
            chosen = [each for each in answers if each.plan == name]
            top.scatter(
                [each.began_s - zero for each in chosen],
                [each.total_ms for each in chosen],
                s=15,
                color=colour,
                label=name,
            )
        rest = [each for each in answers if each.plan not in usual]
        if rest:
            top.scatter(
                [each.began_s - zero for each in rest],
                [each.total_ms for each in rest],
                s=15,
                color="#9aa5b1",
                label="other",
            )
        top.set_yscale("log")
        top.set_ylabel("latency, ms")
        top.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False, title="plan")
        edges = [*(start - zero for start in run.starts), run.ended - zero]
        rates = [phase.kbps / 1000 for phase in PHASES]
        middle.stairs(rates, edges, color="#1f2933", baseline=None, label="the link")
        middle.plot(
            [each.began_s - zero for each in answers], [each.uplink_kbps / 1000 for each in answers], color="#c2410c",
            linewidth=1.2, label="as the device sees it",
        )  # fmt: skip
        middle.set_yscale("log")
        middle.set_ylabel("Mbit/s")
        middle.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)
        ticks = np.arange(0.0, run.ended - zero, 0.25)
        bottom.plot(
            ticks, [run.load(zero + at - 1.0, zero + at) for at in ticks], color="#1d4ed8", label="gateway, 1 s"
        )
        pace = [(THROTTLED if phase.throttled else 1.0) / THROTTLED for phase in PHASES]
        bottom.stairs(pace, edges, color="#1f2933", linestyle="--", baseline=None, label="device's pace, of 3")
        bottom.set_ylim(0, 1.08)
        bottom.set_ylabel("share")
        bottom.set_xlabel("s")
        bottom.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)
        for place, (phase, (left, right)) in enumerate(zip(PHASES, pairwise(edges), strict=True)):
            for axes in (top, middle, bottom):
                axes.axvspan(left, right, color="#eef1f4" if place % 2 else "white", zorder=0, linewidth=0)
                for side in ("top", "right"):
                    axes.spines[side].set_visible(False)
            top.text((left + right) / 2, 1.02, phase.name, ha="center", fontsize=8, transform=top.get_xaxis_transform())
        bottom.set_xlim(0, run.ended - zero)
        figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
