"""How far forecasts of each partition's next second are off, on made workloads that nothing was tuned on.

``python benchmarks/forecasting.py`` takes some minutes and writes docs/benchmarks/forecasting.md. The recurrent network
joins where it is shipped and an engine runs it; the page then tells what it adds.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import steady
from models import ROOT, machine, table, verdict, write_page
from numpy.typing import NDArray
from steady import KNOWN_S, PREDICTORS, WINDOW_S

from midstream.allocation.ensemble import ensemble
from midstream.allocation.intervals import Forecast, Intervals, Quantiles
from midstream.allocation.mixing import STACKED, TARGETS, WEIGHTED
from midstream.allocation.predictors import Predictor, amounts_of
from midstream.allocation.usage import Outcome, Partition, Usage
from midstream.drawing.canvas import plain_matplotlib
from midstream.forecaster import Network, RecurrentForecaster, load_forecaster
from midstream.simulating.partitions import Simulated, simulate_gateway
from midstream.workload_making import KINDS, MIXED, Workload, make_workloads

Floats = NDArray[np.float64]

SECONDS, WARM_S = 1500, 120
ASKED_LESS, ASKED_WORSE, ASKED_WINDOW = 0.20, 0.02, 2.2
CHOSEN, FLOOR = "chosen", "rate known"
BASELINES = ("last_value", "ewma", "ewma_slow", "holt", "holt_slow", "queue_report", "steady_state", "transient")
"""What a single predictor may be, for the best of them: all that are known from elsewhere."""
HELD_AGAINST = ("ewma", "steady_state")
NAMES = {"arrivals": "Demand (requests)", "wait_ms": "Wait (ms)", "cpu_ms": "Processor time (ms)"}
PICTURE = ROOT / "docs" / "benchmarks" / "forecasting"


@dataclass(frozen=True, slots=True)
class SetUp:
    """A gateway and what comes to it. Everything was tuned with seeds 11–14, two workers, three partitions, loads .35,
    .5 and .65, a pace of 1 and service times as they come."""

    seed: int
    partitions: int
    workers: int
    load: float
    pace: float
    service_scale: float


SET_UPS = (
    SetUp(101, 3, 2, 0.45, 0.7, 0.7),
    SetUp(102, 4, 4, 0.6, 1.4, 1.5),
    SetUp(103, 2, 1, 0.4, 1.0, 0.6),
    SetUp(104, 5, 3, 0.7, 0.85, 1.2),
)


@dataclass(slots=True)
class Errors:
    """Mean absolute errors by target and name, one a partition; shares of what lay between low and high."""

    means: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    between: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    worse_by: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By target: how much more what allocates errs than a gateway's best single baseline, one a gateway."""

    def of(self, target: str, name: str) -> float:
        """The mean over partitions."""
        return float(np.mean(self.means[target][name]))

    def names(self, target: str) -> list[str]:
        """Whose errors are known, but for what allocates and the floor."""
        return [name for name in self.means[target] if name not in (CHOSEN, FLOOR)]

    def best_single(self, target: str) -> str:
        """The baseline that errs least."""
        known = [name for name in self.names(target) if name in BASELINES]
        return min(known, key=lambda name: self.of(target, name))


def main() -> None:
    """Simulate, forecast and write the page."""
    network = load_forecaster()
    write(() if network is None else (lambda: RecurrentForecaster(Network()),))


def write(further: Sequence[Callable[[], Predictor]]) -> None:
    """The page; each gateway has such further predictors of its own."""
    began = time.thread_time()
    steps, spent_s = 0, 0.0
    by_kind: dict[str, Errors] = {}
    without: dict[str, Errors] = {}
    for kind in (*KINDS, MIXED):
        by_kind[kind], without[kind] = Errors(), Errors()
        for set_up in SET_UPS:
            workloads, simulated = lived(kind, set_up)
            took_s, made = judge(workloads, simulated, set_up, [each() for each in further], by_kind[kind])
            steps, spent_s = steps + made, spent_s + took_s
            if further:
                judge(workloads, simulated, set_up, (), without[kind])
        print(kind, round(time.thread_time() - began), "s", flush=True)
    draw(by_kind, PICTURE / "errors.svg")
    draw_seconds(PICTURE / "seconds.svg")
    parts = [
        head(by_kind, [each().name for each in further], spent_s / steps * 1e6),
        *(section(target, by_kind) for target in NAMES),
        memory(by_kind),
        *([ablation(by_kind, without)] if further else []),
        windows(),
    ]
    write_page("forecasting", "\n\n".join(parts) + "\n")


def lived(kind: str, set_up: SetUp) -> tuple[tuple[Workload, ...], Simulated]:
    workloads = make_workloads(
        kind, SECONDS, set_up.seed, partitions=set_up.partitions, workers=set_up.workers, load=set_up.load,
        pace=set_up.pace, service_scale=set_up.service_scale,
    )  # fmt: skip
    return workloads, simulate_gateway(workloads, SECONDS, workers=set_up.workers)


def judge(
    workloads: Sequence[Workload],
    simulated: Simulated,
    set_up: SetUp,
    further: Sequence[Predictor],
    errors: Errors,
) -> tuple[float, int]:
    """Forecast each second from those before; returns the processor time that took, and for how many forecasts.

    What a request waited is known in hindsight; a partition's second in which nobody waited is not judged by it.
    """
    chooser = ensemble(set_up.workers, further)
    off: dict[tuple[Partition, str, str], list[float]] = defaultdict(list)
    between: dict[tuple[Partition, str], list[bool]] = defaultdict(list)
    expected = {each.partition: each.expected for each in workloads}
    spent_s, made = 0.0, 0
    middles: Mapping[Partition, Mapping[str, Mapping[str, float]]] = {}
    forecasts: Mapping[Partition, Forecast] = {}
    for second, intervals in enumerate(simulated.intervals):
        for partition, interval in intervals.items() if second >= WARM_S else ():
            came = amounts_of(interval)._replace(wait_ms=simulated.waits_ms[partition].item(second))
            for target, amount in zip(TARGETS, came, strict=True):
                if amount is None or math.isnan(amount) or partition not in forecasts:
                    continue
                quantiles: Quantiles = getattr(forecasts[partition], target)
                off[partition, target, CHOSEN].append(abs(quantiles.middle - amount))
                between[partition, target].append(quantiles.low - 1e-9 <= amount <= quantiles.high + 1e-9)
                for name, middle in middles[partition][target].items():
                    off[partition, target, name].append(abs(middle - amount))
            # Of a Poisson distribution the median is about a third below the mean.
            known = max(0.0, round(expected[partition].item(second) - 1 / 3))
            off[partition, "arrivals", FLOOR].append(abs(known - interval.arrivals))
        began = time.thread_time()
        chooser.observe(intervals)
        forecasts = chooser.forecast()
        spent_s += time.thread_time() - began
        made += len(intervals)
        middles = chooser.middles()
    here: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (_, target, name), values in off.items():
        here[target][name].append(float(np.mean(values)))
    for target, by_name in here.items():
        for name, means in by_name.items():
            errors.means[target][name] += means
        best = min(sum(by_name[name]) for name in BASELINES if name in by_name)
        errors.worse_by[target].append(sum(by_name[CHOSEN]) / best - 1 if best else 0.0)
    for (_, target), inside in between.items():
        errors.between[target].append(float(np.mean(inside)))
    return spent_s, made


def less(by_kind: Mapping[str, Errors], target: str, than: str, name: str = CHOSEN) -> tuple[float, float]:
    """How much less it errs: the sums of all errors, and the geometric mean over kinds."""
    ours = [errors.of(target, name) for errors in by_kind.values()]
    theirs = [errors.of(target, than) for errors in by_kind.values()]
    ratios = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    return 1 - sum(ours) / sum(theirs), 1 - math.exp(float(np.mean(ratios)))


def worse(errors: Errors, target: str) -> float:
    return errors.of(target, CHOSEN) / errors.of(target, errors.best_single(target)) - 1


def short(by_kind: Mapping[str, Errors], target: str) -> str:
    """The kinds in which it errs less than an EWMA by less than was asked."""
    less_by = {kind: 1 - errors.of(target, CHOSEN) / errors.of(target, "ewma") for kind, errors in by_kind.items()}
    return ", ".join(f"{kind} ({share:.0%})" for kind, share in less_by.items() if share < ASKED_LESS) or "none"


def head(by_kind: Mapping[str, Errors], joined: Sequence[str], took_us: float) -> str:
    rows = []
    for target in ("arrivals", "wait_ms"):
        for than in HELD_AGAINST:
            summed, typical = less(by_kind, target, than)
            met = verdict(min(summed, typical) >= ASKED_LESS)
            rows.append((NAMES[target], than, f"{summed:.0%}", f"{typical:.0%}", met))
    kinds = [(worse(errors, target), kind, target) for kind, errors in by_kind.items() for target in NAMES]
    most, kind, target = max(kinds)
    single = [(each, by) for errors in by_kind.values() for each in NAMES for by in errors.worse_by[each]]
    over = sum(by > ASKED_WORSE for _, by in single)
    shares = {each: np.mean([np.mean(errors.between[each]) for errors in by_kind.values()]) for each in NAMES}
    between = ", ".join(f"{NAMES[each].split(' (')[0].lower()} {share:.0%}" for each, share in shares.items())
    network = (
        f"Beside what the SDK has by formula, {', '.join(joined)} ran; what it adds is below."
        if joined
        else "No network joins yet: everything here is by formula, and learned while it runs."
    )
    return f"""# Forecasts of the next second

Generated by `python benchmarks/forecasting.py`, {machine()}. Mean absolute errors of forecasts
for each partition's next second, from the seconds before; on {len(SET_UPS)} gateways (1–4 workers, 2–5 partitions,
loads of 40–70 %) and {len(by_kind)} [kinds of workload](../allocation.md#made-workloads), {SECONDS} s each, of which
the first {WARM_S} s are not judged. Seeds, loads, paces and service times are others than those that anything was
tuned with. {network}

Asked: what allocates errs at least {ASKED_LESS:.0%} less than an EWMA and than M/M/k in the steady state, for demand
and wait of each partition. *All errors* sums them up, so that violent workloads count for more; *typical* is the
geometric mean over the kinds.

{table("|against| all errors less by| typical| ", rows)}

Not in each kind by itself: against the EWMA it is less than that, for demand, in
{short(by_kind, "arrivals")}; for the wait, in
{short(by_kind, "wait_ms")}. The tables tell what chance leaves there.

Asked as well: never more than {ASKED_WORSE:.0%} worse than the best single baseline of a kind. The worst is {kind},
{NAMES[target].lower()}: {most:+.1%}, {verdict(most <= ASKED_WORSE)}. Of single gateways,
each with a best baseline of its own, it is more in {over} of {len(single)} cases ({len(single) // len(NAMES)} gateways
with a workload each, {len(NAMES)} targets), and {max(by for _, by in single):+.1%} at worst.

Eight in ten should lie between the low and the high forecast; there lie {between}.

All of it takes {took_us:.0f} µs of processor time a partition and second; to collect what is forecast from,
{collecting_us():.1f} µs a request.

![Errors by kind](forecasting/errors.svg)

![Some seconds](forecasting/seconds.svg)"""


def collecting_us() -> float:
    """Processor time of the collector for one request with eight features, of 20 partitions by turns."""
    partitions = [Partition(f"{number:064x}", "c1") for number in range(20)]
    features = {f"feature_{number}": 1.0 for number in range(8)}
    usages = [
        Usage(
            0.0,
            b"",
            "gateway",
            "d",
            each.bundle,
            each.cut,
            "raw",
            Outcome.OK,
            cpu_ms={"decode": 1.0, "run": 8.0, "encode": 1.0},
            timings_ms={"queue": 2.0, "decode": 1.0, "run": 8.0, "encode": 1.0},
        )
        for each in partitions
    ]
    collected, requests = Intervals(0.0), 50_000
    began = time.thread_time()
    for number in range(requests):
        partition, now_s = partitions[number % 20], number / 1e5
        collected.arrived(partition, now_s, 40.0, features)
        collected.began(partition, now_s, now_s + 0.01)
        collected.ended(usages[number % 20])
    return (time.thread_time() - began) / requests * 1e6


def section(target: str, by_kind: Mapping[str, Errors]) -> str:
    first = next(iter(by_kind.values()))
    names = first.names(target)
    rows = []
    for kind, errors in by_kind.items():
        base = errors.of(target, "ewma")
        known = [f"{errors.of(target, FLOOR) / base:.2f}"] if target == "arrivals" else []
        best = errors.best_single(target)
        rows.append(
            (
                kind,
                f"{base:.1f}",
                *(f"{errors.of(target, name) / base:.2f}" for name in names if name != "ewma"),
                f"**{errors.of(target, CHOSEN) / base:.2f}**",
                *known,
                f"{best} {worse(errors, target):+.1%}",
            )
        )
    floor = (
        "\n\n*rate known* is what someone errs who knows the rate of each second in advance, when each burst begins "
        "and ends, too: what is left is chance. Where it is near 1, nobody can do much better than the EWMA: second by "
        "second, steady and diurnal workloads and regimes are mostly Poisson noise. Sources of heavy tails (bursty) "
        "begin and end by chance as well."
        if target == "arrivals"
        else ""
    )
    columns = "| ".join(["", *(name.replace("_", " ") for name in names if name != "ewma"), "chosen"])
    headings = f"kind| ewma{columns and columns}" + ("| rate known" if target == "arrivals" else "")
    return f"""## {NAMES[target]}

The EWMA's mean absolute error, and that of the others as shares of it; *{WEIGHTED}* and *{STACKED}* are the mixes,
*chosen* is what allocates. Last: the best single baseline, and how much what allocates errs more than it.{floor}

{table(headings + "|against the best single", rows)}"""


def memory(by_kind: Mapping[str, Errors]) -> str:
    mib = {
        name: max(errors.of("memory_bytes", name) for errors in by_kind.values()) / (1 << 20)
        for name in ("last_value", "ewma", CHOSEN)
    }
    return f"""## Memory

What the slices of a partition hold changes only when a worker loads one or lets one go, hence seldom. Mean absolute
errors in MiB, of the kind where each is largest: last value {mib["last_value"]:.3f}, EWMA {mib["ewma"]:.3f}, chosen
{mib[CHOSEN]:.3f}."""


def ablation(by_kind: Mapping[str, Errors], without: Mapping[str, Errors]) -> str:
    rows = [
        (
            kind,
            *(
                f"{by_kind[kind].of(target, CHOSEN) / without[kind].of(target, CHOSEN) - 1:+.1%}"
                for target in ("arrivals", "wait_ms", "cpu_ms")
            ),
        )
        for kind in by_kind
    ]
    sums = [
        sum(errors.of(target, CHOSEN) for errors in by_kind.values())
        / sum(errors.of(target, CHOSEN) for errors in without.values())
        - 1
        for target in ("arrivals", "wait_ms", "cpu_ms")
    ]
    rows.append(("all errors", *(f"{each:+.1%}" for each in sums)))
    return f"""## What the network adds

The error of what allocates with it, against that of what allocates without it.

{table("kind| demand| wait| processor time", rows)}"""


@dataclass(frozen=True, slots=True)
class Steady:
    """A gateway under a steady load: Poisson arrivals, or cameras that each send at a rate of their own."""

    service_ms: float
    cv: float
    workers: int
    utilisation: float
    cameras: bool = False


WINDOWS = 40
SERVICES = ((2.0, 0.04), (8.0, 0.04), (8.0, 0.5))
STEADY = tuple(
    Steady(service_ms, cv, workers, utilisation, cameras)
    for cameras in (False, True)
    for service_ms, cv in SERVICES
    for workers in (1, 2, 4)
    for utilisation in (0.3, 0.5, 0.7, 0.8, 0.9)
)
# A camera sends about so many frames a second, each up to so late.
CAMERA_HZ, JITTER_S = 10.0, 0.004


def windows() -> str:
    """Mean latency of windows of ten seconds under steady loads, predicted at their start."""
    found = [(each, steady.judge(simulated(each), KNOWN_S + WINDOW_S * WINDOWS)) for each in STEADY]
    biases = [abs(judged.bias) for each, judged in found if not each.cameras]
    mean_bias = float(np.mean(biases))
    return f"""## Windows of ten seconds under a steady load

Mean latency (wait and run) of the requests that come in a window, predicted at its start from what the gateway knows
by then: its queue, and of the last {KNOWN_S} s the mean rate and mean and variation of the service times. {WINDOWS}
windows each; mean absolute errors in per cent of the window's own latency. Asked: {ASKED_WINDOW:g} %.

*M/M/k* and *M/G/k* are the steady state's formulas, *transient* is M/G/k from the queue as it is
([formulas](../allocation.md#formulas)), *observed* is the mean latency of the last {KNOWN_S} s, and *chosen* which of
these two has erred less so far. *Chance* is what the best constant errs, which is only known afterwards: the median of
all these windows. They differ by so much since each has only so many requests, and what one waits the next waits, too.
*Mean* is by how much the transient formula's mean is off the mean of all windows: the formula's own error.

### Poisson arrivals

{of_arrivals([(each, judged) for each, judged in found if not each.cameras])}

Against the mean of all windows, as models are often judged, the formula is {mean_bias:.1f} % off in the mean,
{verdict(mean_bias <= ASKED_WINDOW)}, and at most {max(biases):.1f} %, where the load is 90 %. So the figure holds for
service times as of models without control flow (a variation of 4 %) where there are some workers or many requests, and
not near full load: there one window differs from the next by more, whatever is known at its start.

The variation of the service times makes most of the difference to M/M/k; after ten seconds the queue at the window's
start says little more. What is left beside chance is what is not known of the rate and the service time: near full load
each per cent of these is ten of the wait.

### Cameras

As many devices as it takes, each of which sends about {CAMERA_HZ:g} times a second at a rate of its own, every one up
to {JITTER_S * 1e3:g} ms late: what comes is steadier than a Poisson process, which no formula for one knows.

{of_arrivals([(each, judged) for each, judged in found if each.cameras])}"""


def of_arrivals(found: Sequence[tuple[Steady, steady.Judged]]) -> str:
    """Loads of one kind of arrivals: each, how many are predicted as well as asked, and means over workers."""
    rows = [
        (
            f"{each.service_ms:g} ± {each.cv:.0%}",
            each.workers,
            f"{each.utilisation:.0%}",
            f"{judged.latency_s * 1e3:.2f}",
            *(f"{judged.off[name]:.1f}" for name in PREDICTORS),
            f"{judged.chance:.1f}",
            f"{judged.bias:+.1f}",
            verdict(judged.off["chosen"] <= ASKED_WINDOW),
        )
        for each, judged in found
    ]
    met = sum(judged.off["chosen"] <= ASKED_WINDOW for _, judged in found)
    met_by_chance = sum(judged.chance <= ASKED_WINDOW for _, judged in found)
    sums = []
    for service_ms, cv in SERVICES:
        for most in (0.5, 0.7, 0.9):
            those = [
                (judged.off["transient"], judged.off["chosen"], judged.chance)
                for each, judged in found
                if (each.service_ms, each.cv) == (service_ms, cv) and each.utilisation <= most
            ]
            means = np.mean(those, axis=0).tolist()
            named = f"{service_ms:g} ± {cv:.0%}", f"up to {most:.0%}", *(f"{mean:.1f}" for mean in means)
            sums.append((*named, verdict(means[1] <= ASKED_WINDOW)))
    headings = "service, ms| workers| load| latency, ms| M/M/k| M/G/k| transient| observed| chosen| chance| mean| "
    return f"""{table(headings, rows)}

{ASKED_WINDOW:g} % or less in {met} of {len(found)} loads; the best constant known afterwards, in {met_by_chance}. The
means over one to four workers:

{table("service, ms| load| transient| chosen| chance| ", sums)}"""


def simulated(each: Steady) -> steady.Served:
    """What a gateway's requests wait and run for."""
    seconds, service_s = KNOWN_S + WINDOW_S * WINDOWS, each.service_ms / 1e3
    stream = np.random.default_rng([7, round(1e3 * each.cv), each.workers, round(100 * each.utilisation)])
    rate_hz = each.utilisation * each.workers / service_s
    if each.cameras:
        arrivals_s = camera_times(stream, rate_hz, seconds)
    else:
        arrivals_s = np.cumsum(stream.exponential(1 / rate_hz, int(1.05 * rate_hz * seconds) + 200))
    arrivals_s = arrivals_s[arrivals_s < seconds]
    sigma = math.sqrt(math.log(1 + each.cv**2))
    service_ms = each.service_ms * np.exp(sigma * stream.standard_normal(arrivals_s.size) - sigma**2 / 2)
    partition = Partition("0" * 64, "")
    workload = Workload(
        partition, "steady", arrivals_s, service_ms, np.zeros(arrivals_s.size), {}, 1e9, 0.0, np.zeros(0)
    )
    gateway = simulate_gateway([workload], seconds, workers=each.workers, capacity=arrivals_s.size)
    return steady.Served(arrivals_s, gateway.request_waits_s[partition], service_ms / 1e3, each.workers)


def camera_times(stream: np.random.Generator, rate_hz: float, seconds: float) -> Floats:
    """When frames come, in order: of cameras whose rates differ by a few per cent, and sum up to this one."""
    count = max(2, round(rate_hz / CAMERA_HZ))
    each_hz = stream.uniform(0.95, 1.05, count)
    each_hz *= rate_hz / each_hz.sum()
    times = [np.arange(stream.uniform(), seconds * hz) / hz for hz in each_hz]
    return np.sort(np.concatenate(times) + stream.uniform(0, JITTER_S, sum(map(len, times))))


def draw(by_kind: Mapping[str, Errors], target: Path) -> None:
    """Bars: by kind, errors as shares of the EWMA's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with plain_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 6.4), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        for axes, what in zip(figure.subplots(2, 1, sharex=True), ("arrivals", "wait_ms"), strict=True):
            shown = {
                "steady state M/M/k": ("steady_state", "#cbd2d9"),
                "last value": ("last_value", "#9aa5b1"),
                "best single baseline": ("", "#52606d"),
                "what allocates": (CHOSEN, "#c2410c"),
            }
            if what == "arrivals":
                shown["rate known"] = (FLOOR, "#1d4ed8")
            places = np.arange(len(by_kind))
            for number, (label, (name, colour)) in enumerate(shown.items()):
                heights = [
                    errors.of(what, name or errors.best_single(what)) / errors.of(what, "ewma")
                    for errors in by_kind.values()
                ]
                axes.bar(places + 0.16 * (number - 2), heights, 0.15, label=label, color=colour)
            axes.axhline(1, color="#1f2933", linewidth=0.8, label="EWMA")
            axes.set_ylim(0, 2.4)
            axes.set_xticks(places, by_kind)
            axes.set_ylabel(f"{NAMES[what].split(' (')[0].lower()}: error, EWMA = 1")
            axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        figure.savefig(target, metadata={"Date": None})


def draw_seconds(target: Path) -> None:
    """Two partitions for two minutes: what came, and what was forecast."""
    with plain_matplotlib():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 7), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(2, 2, sharex=True)
        for column, kind in zip(all_axes.T, ("recurring", "camera-motion"), strict=True):
            set_up = SET_UPS[0]
            workloads, simulated = lived(kind, set_up)
            partition = workloads[0].partition
            chooser = ensemble(set_up.workers)
            said = []
            first, last = SECONDS - 240, SECONDS - 120
            for intervals in simulated.intervals[:last]:
                said.append(chooser.forecast().get(partition))
                chooser.observe(intervals)
            seconds = np.arange(first, last)
            for axes, what in zip(column, ("arrivals", "wait_ms"), strict=True):
                bands = [getattr(each, what) for each in said[first:] if each]
                came = (
                    [each[partition].arrivals for each in simulated.intervals[first:last]]
                    if what == "arrivals"
                    else simulated.waits_ms[partition][first:last]
                )
                axes.fill_between(
                    seconds, [each.low for each in bands], [each.high for each in bands], color="#fed7aa",
                    label="8 in 10",
                )  # fmt: skip
                axes.plot(seconds, [each.middle for each in bands], color="#c2410c", linewidth=1.2, label="forecast")
                axes.plot(seconds, came, ".", color="#1f2933", markersize=4, label="came")
                axes.set_ylabel(NAMES[what].lower())
                axes.set_title(kind if what == "arrivals" else "", loc="left")
                for side in ("top", "right"):
                    axes.spines[side].set_visible(False)
            column[-1].set_xlabel("s")
        all_axes[0][0].legend(frameon=False, ncols=3, loc="upper left")
        figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
