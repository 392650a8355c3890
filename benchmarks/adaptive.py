"""Where splitting pays and where it does not: models × boards × links × agreement floors, simulated.

    python benchmarks/adaptive.py [--traces DIR] [--quick]

Writes docs/benchmarks/adaptive.md with plots, and adaptive.csv with every set-up beside it. Bundles are those of
benchmarks/evaluated.py. Links are made by midstream.trace_making, and those of the CSV files in ``--traces``.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

from evaluated import FLOORS, Evaluated, evaluated
from models import ROOT, machine, table, verdict, write_page

from midstream.bundle import Bundle
from midstream.drawing.canvas import plain_matplotlib
from midstream.ladder import MeasuredRung
from midstream.partitioning import Objective
from midstream.profiles import load_profile
from midstream.simulating import Kind, Scenario, Summary, simulate
from midstream.simulating.draws import Draws
from midstream.simulating.foresight import Foresight, choices
from midstream.trace_making import make_trace
from midstream.traces import Trace

PAGE = "adaptive"
FOLDER = ROOT / "docs" / "benchmarks" / PAGE
BOARDS = ("pi-zero-2w", "pi4", "pi5", "jetson-nano")
GATEWAY = "x86-laptop"
MADE = ("wifi", "lte", "5g", "satellite")
SEED = 1
SECONDS = {2.0: 60.0, 10.0: 20.0}
COMPARED = ("local", "raw", "jpeg75", "jpeg90", "best_static", "neurosurgeon", "mincut_ewma", "bandit", "adaptive",
            "clairvoyant")  # fmt: skip
# Of what device, link and gateway can do together, a rate may take so much; beyond that requests pile up for everybody.
SUSTAINED = 0.9
VARIANTS = ("keep", "loaded", "small", "energy", "outages")
OUTAGE = (60.0, 5.0)


@dataclass(frozen=True)
class SetUp:
    """What differs between two simulations."""

    model: str
    board: str
    link: str
    floor: float
    rate_hz: float
    variant: str = ""

    @property
    def words(self) -> str:
        """For a table."""
        floor = "none" if self.floor == 1 else f"{self.floor:g}"
        return f"{self.model}, {self.board}, {self.link}, floor {floor}, {self.rate_hz:g}/s"


@dataclass(frozen=True)
class Found:
    """What a set-up came to. ``sent_ms`` is the mean of the best whole input that is allowed, sent always."""

    setup: SetUp
    summaries: Mapping[str, Summary]
    best_static: str
    sent_ms: float

    def ratio(self, policy: str = "adaptive", other: str = "clairvoyant", figure: str = "mean_ms") -> float:
        """One policy's figure by another's."""
        return float(getattr(self.summaries[policy], figure) / getattr(self.summaries[other], figure))

    @property
    def local_ms(self) -> float:
        """The device alone; without end where the model does not fit it."""
        return self.summaries["local"].mean_ms if "local" in self.summaries else math.inf

    @property
    def better_ms(self) -> float:
        """The better of the device alone and sending the input."""
        return min(self.local_ms, self.sent_ms)

    @property
    def gain(self) -> float:
        """By how much adaptive takes less than that."""
        return 1.0 - self.summaries["adaptive"].mean_ms / self.better_ms

    @property
    def possible(self) -> float:
        """By how much the clairvoyant does."""
        return 1.0 - self.summaries["clairvoyant"].mean_ms / self.better_ms

    @property
    def winner(self) -> str:
        """How most requests were answered by what is best in hindsight."""
        best = self.summaries["clairvoyant"]
        shares = {way: getattr(best, f"{way}_share") for way in ("local", "input", "split", "exit")}
        return max(shares, key=lambda way: float(shares[way]))


def main() -> int:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="a folder of recorded links, CSV files")
    parser.add_argument("--quick", action="store_true", help="a few set-ups, for a look; writes nothing")
    options = parser.parse_args()
    models = evaluated()
    links = [f"made:{name}" for name in MADE]
    if options.traces is not None:
        links += [str(path) for path in sorted(options.traces.glob("*.csv"))]
    floors = FLOORS
    if options.quick:
        models, links, floors = models[4:6], links[:3], (0.97,)
    names = [model.recipe.name for model in models]
    setups = [SetUp(*each) for each in product(names, BOARDS, links, floors, SECONDS)]
    setups += [SetUp(*each, 0.97, 2.0, variant) for variant in VARIANTS for each in product(names, BOARDS, links)]
    bundles = {model.recipe.name: (str(model.folder), model.jpeg) for model in models}
    started, found, skipped = time.monotonic(), [], []
    with get_context("spawn").Pool(2, _prepare, (bundles,)) as pool:
        for count, (setup, result) in enumerate(zip(setups, pool.imap(run, setups, chunksize=4), strict=True)):
            if isinstance(result, Found):
                found.append(result)
            elif result:
                skipped.append(setup)
            if count % 100 == 0:
                print(
                    f"{count} of {len(setups)} set-ups, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
                )
    text = page(found, skipped, models, links)
    if options.quick:
        print(text)
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_csv(FOLDER / "setups.csv", found)
    draw(FOLDER / "gains.svg", [each for each in found if not each.setup.variant])
    write_page(PAGE, text)
    return 0


_BUNDLES: dict[str, tuple[str, tuple[MeasuredRung, ...]]] = {}


def _prepare(bundles: Mapping[str, tuple[str, tuple[MeasuredRung, ...]]]) -> None:
    _BUNDLES.update(bundles)


@cache
def _kind(model: str, board: str) -> Kind:
    """A model on a board; its ladder has JPEG 75 and 90 too, which floors that they do not reach leave out."""
    folder, jpeg = _BUNDLES[model]
    bundle = Bundle.open(folder)
    if bundle.ladder is not None and jpeg:
        places = []
        for place in bundle.ladder.places:
            more = [
                rung for rung in jpeg if place.cut is None and rung.codec not in {each.codec for each in place.rungs}
            ]
            places.append(replace(place, rungs=(*place.rungs, *more)))
        bundle.ladder = replace(bundle.ladder, places=tuple(places))
    return Kind.of(bundle, load_profile(board), load_profile(GATEWAY))


@cache
def _link(name: str) -> Trace:
    return make_trace(name.removeprefix("made:"), seed=SEED) if name.startswith("made:") else Trace.open(name)


def link_name(link: str) -> str:
    """What a link is called on the page."""
    return link.removeprefix("made:") if link.startswith("made:") else Path(link).stem


def run(setup: SetUp) -> Found | bool:
    """Simulate one set-up. True where it asks more than anybody could do, False where it is not asked for."""
    kind, trace = _kind(setup.model, setup.board), _link(setup.link)
    objective, load, policies = Objective(min_agreement=setup.floor), 0.0, COMPARED
    seconds = SECONDS[setup.rate_hz]
    if setup.variant == "keep":
        objective = replace(objective, keep_input_local=True)
        policies = ("local", "best_static", "adaptive", "clairvoyant")
    elif setup.variant == "loaded":
        # Whoever foresees the queue of a loaded gateway has to follow it for every choice: too long for so many.
        load, policies = 0.9, ("local", "neurosurgeon", "mincut_ewma", "adaptive")
    elif setup.variant == "small":
        if setup.board != "pi-zero-2w":
            return False
        objective = replace(objective, max_device_memory_bytes=0.6 * kind.options.memory[None])
        policies = ("best_static", "adaptive", "clairvoyant")
    elif setup.variant == "energy":
        if setup.board != "pi4":
            return False
        objective = replace(objective, kind="energy")
        policies = ("local", "best_static", "adaptive", "clairvoyant")
    elif setup.variant == "outages":
        if not setup.link.startswith("made:") or kind.device.whole_ms * setup.rate_hz > 900:
            return False
        objective = replace(objective, deadline_ms=1.25 * kind.device.whole_ms)
        trace, seconds, policies = trace.with_outages(*OUTAGE), 600.0, ("local", "adaptive")
    if setup.rate_hz > SUSTAINED * capacity_hz(kind, trace, objective):
        return True
    scenario = Scenario(
        (kind,), trace, setup.rate_hz, seconds, objective, workers=_workers(), gateway_load=load, seed=SEED
    )
    simulation = simulate(scenario, policies)
    named = replace(setup, link=link_name(setup.link))
    sent_ms = math.inf if setup.variant else _sent_ms(scenario)
    return Found(named, simulation.summaries, simulation.notes.get("best_static", ""), sent_ms)


def _workers() -> int:
    return load_profile(GATEWAY).cores


def capacity_hz(kind: Kind, trace: Trace, objective: Objective) -> float:
    """What the device by itself and the best way to send can answer a second together, over the mean link."""
    lasts = [*trace.starts_s[1:], trace.period_s] - trace.starts_s
    up, down = (float(lasts @ rates) / trace.period_s for rates in (trace.uplink_kbps, trace.downlink_kbps))
    sending = 0.0
    local = 0.0
    for each in choices(kind, objective):
        if not each.offloads:
            local = max(local, 1e3 / max(each.device_ms + each.rest_ms, 1e-3))
            continue
        slowest_ms = max(
            each.device_ms,
            each.payload_bytes * 8 / max(up, 1e-9),
            (each.gateway_ms + each.decode_ms) / _workers(),
            each.reply_bytes * 8 / max(down, 1e-9),
        )
        sending = max(sending, 1e3 / max(slowest_ms, 1e-3))
    return local + sending


def _sent_ms(scenario: Scenario) -> float:
    """The mean latency of the best of the whole inputs that are allowed, sent always; without end where none is."""
    (kind,) = scenario.kinds
    search = Foresight(scenario, [Draws(scenario, 0)], 1)
    inputs = [each for each in choices(kind, scenario.objective) if each.offloads and not each.head]
    means = [fmean(chosen.latency_ms for chosen in search.always(each)) for each in inputs]
    return min(means, default=math.inf)


def geometric(values: Iterable[float]) -> float:
    """The geometric mean."""
    logs = [math.log(max(value, 1e-9)) for value in values]
    return math.exp(fmean(logs)) if logs else math.nan


def page(found: Sequence[Found], skipped: Sequence[SetUp], models: Sequence[Evaluated], links: Sequence[str]) -> str:
    """All of it."""
    main_ones = [each for each in found if not each.setup.variant]
    recorded = [link_name(link) for link in links if not link.startswith("made:")]
    return (
        "\n\n".join(
            part
            for part in (
                "# Where splitting pays, and where it does not",
                "Written by `python benchmarks/adaptive.py` on " + machine() + ". Do not edit. "
                "[Every set-up's figures](adaptive/setups.csv).",
                _intro(models, recorded, len(main_ones), skipped),
                "## What was asked",
                _asked(found),
                "## Who wins by how much",
                "![How far adaptive is ahead of the better of the device alone and sending](adaptive/gains.svg)",
                "Geometric means of mean latencies by the clairvoyant's; under `p95`, of their 95th percentiles.",
                _policies(main_ones),
                "### By model and board",
                "How often (of links and rates, by floor) most requests were best answered here (`local`), by sending "
                "the input (`input`), at a cut (`split`) or by the early exit (`exit`), and adaptive's mean time by "
                "the better of the device alone and sending the input always (below 1: less time).",
                _ways(main_ones),
                "### By link",
                _links(main_ones),
                "## Where adaptive is more than 5 % behind the best single choice",
                _behind(main_ones),
                "## The input stays on the device",
                _variant(
                    found,
                    "keep",
                    "Mean times by those of the device alone; `split` is how many requests adaptive splits.",
                    ("clairvoyant", "best_static"),
                ),
                "## The gateway is 90 % busy with others",
                _variant(
                    found,
                    "loaded",
                    "Its queue decides, which the planners of others do not know. Mean times by the device alone's.",
                    ("neurosurgeon", "mincut_ewma"),
                ),
                "## The device is too small",
                _small(found),
                "## An early exit",
                _exits(main_ones),
                "## Energy",
                _energy(found),
                "## Deadlines under outages",
                _outages(found),
            )
            if part
        )
        + "\n"
    )


def _intro(models: Sequence[Evaluated], recorded: Sequence[str], count: int, skipped: Sequence[SetUp]) -> str:
    piled = [each for each in skipped if not each.variant]
    by = sorted({(each.model, each.board, each.rate_hz) for each in piled})
    return "\n".join(
        (
            f"{len(models)} models on {len(BOARDS)} boards, with one {GATEWAY} as gateway, are asked 2 and 10 times a "
            "second, as `midstream simulate` does it ([what that models](../simulate.md)): times are what "
            "profiles predict for one thread, so that a Jetson Nano is its processor. Links: "
            + ", ".join(MADE)
            + " ([made](../traces.md)"
            + (f"), and recorded: {', '.join(recorded)}" if recorded else ")")
            + ". Floors of "
            "agreement: none lost (only lossless codecs), .995 and .97. It is all one seed: single figures are luck.",
            "",
            f"{count} set-ups; {len(piled)} more ask for over {SUSTAINED:.0%} of what device, link and gateway can do "
            "together, so that requests pile up whatever is done, and were left out"
            + (
                ": "
                + ", ".join(f"{model} on {board} at {rate:g}/s" for model, board, rate in by)
                + " over some or all links."
                if by
                else "."
            ),
            "",
            table(
                "model|kind|inputs| local ms on " + "| ".join(BOARDS),
                [
                    [model.recipe.name, model.recipe.kind, model.recipe.what]
                    + [f"{_alone_ms(model, board):.3g}" for board in BOARDS]
                    for model in models
                ],
            ),
        )
    )


@cache
def _alone(folder: str, board: str) -> float:
    return Kind.of(Bundle.open(folder), load_profile(board), load_profile(GATEWAY)).device.whole_ms


def _alone_ms(model: Evaluated, board: str) -> float:
    return _alone(str(model.folder), board)


def _asked(found: Sequence[Found]) -> str:
    main_ones = [each for each in found if not each.setup.variant]
    rows: list[list[object]] = []
    for rate, bound in ((2.0, 1.06), (10.0, 1.08)):
        ones = [each for each in main_ones if each.setup.rate_hz == rate]
        mean, p95 = geometric(each.ratio() for each in ones), geometric(each.ratio(figure="p95_ms") for each in ones)
        rows.append(
            [f"mean by the clairvoyant's at {rate:g}/s, at most {bound}", f"{mean:.3f}", verdict(mean <= bound)]
        )
        rows.append([f"95th percentile by its at {rate:g}/s, at most 1.08", f"{p95:.3f}", verdict(p95 <= 1.08)])
    close = [each for each in main_ones if 0.5 <= each.local_ms / each.sent_ms <= 2.0]
    worth = [each for each in close if each.possible > 0.01]
    saved, could = sum(each.gain for each in worth), sum(each.possible for each in worth)
    if worth:
        share = saved / could
        rows.append(
            [
                f"where local and sending are within 2 × of each other ({len(close)} set-ups; in {len(worth)} one "
                "could save over 1 %): of the clairvoyant's saving over the better of the two, at least 75 %",
                f"{share:.0%}",
                verdict(share >= 0.75),
            ]
        )
    behind = [each for each in main_ones if each.ratio("adaptive", "best_static") > 1.05]
    share = len(behind) / max(1, len(main_ones))
    rows.append(
        [
            "more than 5 % behind the best single choice, in at most 10 % of set-ups",
            f"{share:.1%}",
            verdict(share <= 0.1),
        ]
    )
    outages = [each for each in found if each.setup.variant == "outages"]
    if outages:
        missed = fmean(each.summaries["adaptive"].missed_share for each in outages)
        late = sum(each.ratio("adaptive", "local", "p99_ms") > 1.1 for each in outages)
        rows.append(
            [
                f"deadline of 1.25 × local under outages ({len(outages)} set-ups): missed, at most 0.1 %",
                f"{missed:.3%}",
                verdict(missed <= 0.001),
            ]
        )
        worst = max(each.ratio("adaptive", "local", "p99_ms") for each in outages)
        rows.append(
            ["99th percentile by local's there, at most 1.1", f"worst {worst:.3f}, above in {late}", verdict(late == 0)]
        )
    energy = [each for each in found if each.setup.variant == "energy"]
    allows = [each for each in energy if each.ratio("clairvoyant", "local", "energy_mj") <= 0.5]
    if energy:
        share = geometric(each.ratio("adaptive", "local", "energy_mj") for each in allows)
        rows.append(
            [
                f"energy on the Pi 4, where the link lets it be half ({len(allows)} of {len(energy)} set-ups, by the "
                "clairvoyant): at least 50 % less",
                f"{1 - share:.0%} less; half or less in "
                f"{sum(each.ratio('adaptive', 'local', 'energy_mj') <= 0.5 for each in allows)}",
                verdict(share <= 0.5),
            ]
        )
    return table("asked| seen|", rows)


def _policies(found: Sequence[Found]) -> str:
    rows = []
    for policy in COMPARED[:-1]:
        row: list[object] = [policy]
        for rate in SECONDS:
            ones = [each for each in found if each.setup.rate_hz == rate and policy in each.summaries]
            row += [
                f"{geometric(each.ratio(policy) for each in ones):.3f}",
                f"{geometric(each.ratio(policy, figure='p95_ms') for each in ones):.3f}",
            ]
        rows.append([*row, len([each for each in found if policy in each.summaries])])
    return table("policy| mean at 2/s| p95 at 2/s| mean at 10/s| p95 at 10/s| set-ups", rows)


def _ways(found: Sequence[Found]) -> str:
    rows = []
    for model, board in dict.fromkeys((each.setup.model, each.setup.board) for each in found):
        row: list[object] = [model, board]
        for floor in FLOORS:
            ones = [
                each
                for each in found
                if (each.setup.model, each.setup.board, each.setup.floor) == (model, board, floor)
            ]
            won = [each.winner for each in ones]
            counts = ", ".join(f"{way} {won.count(way)}" for way in ("local", "input", "split", "exit") if way in won)
            row += [counts, f"{geometric(1 - each.gain for each in ones):.2f}" if ones else ""]
        rows.append(row)
    return table("model|board|none lost| time|.995| time|.97| time", rows)


def _links(found: Sequence[Found]) -> str:
    rows = []
    for link in dict.fromkeys(each.setup.link for each in found):
        ones = [each for each in found if each.setup.link == link]
        won = [each.winner for each in ones]
        rows.append(
            [
                link,
                *(won.count(way) for way in ("local", "input", "split", "exit")),
                f"{geometric(1 - each.gain for each in ones):.2f}",
                f"{geometric(1 - each.possible for each in ones):.2f}",
            ]
        )
    return table("link| local| input| split| exit| adaptive by the better of two| clairvoyant by it", rows)


def _behind(found: Sequence[Found]) -> str:
    behind = sorted((each for each in found if each.ratio("adaptive", "best_static") > 1.05),
                    key=lambda each: -each.ratio("adaptive", "best_static"))  # fmt: skip
    if not behind:
        return "None is."
    rows = [
        [
            each.setup.words,
            f"{each.ratio('adaptive', 'best_static'):.2f}",
            f"{each.ratio():.2f}",
            each.best_static,
            cause(each),
        ]
        for each in behind
    ]
    return table("set-up| by the best static| by the clairvoyant|the best static|why", rows)


def cause(found: Found) -> str:
    """What adaptive did otherwise, in words."""
    adaptive, static = found.summaries["adaptive"], found.summaries["best_static"]
    shares = {
        way: float(getattr(adaptive, f"{way}_share") - getattr(static, f"{way}_share"))
        for way in ("local", "input", "split", "exit")
    }
    more, less = max(shares, key=lambda way: shares[way]), min(shares, key=lambda way: shares[way])
    parts = []
    if shares[more] > 0.05:
        parts.append(
            f"{shares[more]:.0%} more {more}, {-shares[less]:.0%} less {less}: the link was seen otherwise than it was"
        )
    if adaptive.fallback_share - static.fallback_share > 0.005:
        parts.append(f"{adaptive.fallback_share:.0%} waited for in vain before the device finished by itself")
    if not parts:
        parts.append(
            "the same ways, but at other moments or in other codecs"
            if adaptive.p95_ms <= 1.05 * static.p95_ms
            else "requests that wait for one another"
        )
    return "; ".join(parts)


def _variant(found: Sequence[Found], variant: str, words: str, others: Sequence[str]) -> str:
    """By model and board, means by those of the device alone; of ``others`` too."""
    rows = []
    ones = [each for each in found if each.setup.variant == variant]
    for model, board in dict.fromkeys((each.setup.model, each.setup.board) for each in ones):
        some = [each for each in ones if (each.setup.model, each.setup.board) == (model, board)]
        best, worst = (of(each.ratio("adaptive", "local") for each in some) for of in (min, max))
        split, sent = (
            fmean(getattr(each.summaries["adaptive"], f"{way}_share") for each in some) for way in ("split", "input")
        )
        rows.append(
            [
                *(model, board, len(some)),
                *(f"{geometric(each.ratio(policy, 'local') for each in some):.3f}" for policy in ("adaptive", *others)),
                *(f"{best:.2f}", f"{worst:.2f}", f"{split:.0%}", f"{sent:.0%}"),
            ]
        )
    heading = f"model|board| links| adaptive| {'| '.join(others)}| adaptive's best| its worst| split| sent"
    return f"{words}\n\n{table(heading, rows)}"


def _small(found: Sequence[Found]) -> str:
    ones = [each for each in found if each.setup.variant == "small"]
    rows = [
        [
            each.setup.model,
            each.setup.link,
            f"{each.summaries['adaptive'].mean_ms:.0f}",
            f"{each.ratio():.2f}",
            f"{each.summaries['adaptive'].split_share:.0%}",
            f"{each.summaries['adaptive'].unanswered_share:.1%}",
            each.best_static,
        ]
        for each in ones
        if "adaptive" in each.summaries
    ]
    return (
        "A Zero 2 W that may give a model 60 % of the memory that it takes: it can run heads, and needs a gateway.\n\n"
        + table("model|link| adaptive ms| by the clairvoyant| split| unanswered|best static", rows)
    )


def _exits(found: Sequence[Found]) -> str:
    ones = [
        each
        for each in found
        if each.summaries["clairvoyant"].exit_share > 0 or each.summaries["adaptive"].exit_share > 0
    ]
    rows = []
    for board, rate in dict.fromkeys((each.setup.board, each.setup.rate_hz) for each in ones):
        some = [each for each in ones if (each.setup.board, each.setup.rate_hz) == (board, rate)]
        rows.append(
            [
                f"{some[0].setup.model}, {board}, {rate:g}/s",
                len(some),
                f"{fmean(each.summaries['adaptive'].exit_share for each in some):.0%}",
                f"{geometric(each.ratio('adaptive', 'local') for each in some):.2f}",
                f"{geometric(each.ratio() for each in some):.3f}",
            ]
        )
    return "The keyword network has learned one; it is allowed at the floor of .97 alone.\n\n" + table(
        "set-up| links| answered by it| by the device alone| by the clairvoyant", rows
    )


def _energy(found: Sequence[Found]) -> str:
    rows = [
        [
            each.setup.model,
            each.setup.link,
            f"{each.summaries['local'].energy_mj:.0f}",
            f"{each.ratio('adaptive', 'local', 'energy_mj'):.2f}",
            f"{each.ratio('best_static', 'local', 'energy_mj'):.2f}",
            f"{each.ratio('clairvoyant', 'local', 'energy_mj'):.2f}",
            f"{each.ratio('adaptive', 'local'):.2f}",
        ]
        for each in found
        if each.setup.variant == "energy"
    ]
    return (
        "The Pi 4 profile: busy and idle power of the whole board and energy by byte, probes among them "
        "([its figures, most of them estimates](../profiles.md)). Energy by the device alone's.\n\n"
        + table("model|link| local mJ| adaptive| best static| clairvoyant| time by local's", rows)
    )


def _outages(found: Sequence[Found]) -> str:
    rows = []
    ones = [each for each in found if each.setup.variant == "outages"]
    for model, board in dict.fromkeys((each.setup.model, each.setup.board) for each in ones):
        some = [each for each in ones if (each.setup.model, each.setup.board) == (model, board)]
        rows.append(
            [
                model,
                board,
                len(some),
                f"{fmean(each.summaries['adaptive'].missed_share for each in some):.3%}",
                f"{max(each.ratio('adaptive', 'local', 'p99_ms') for each in some):.3f}",
                f"{geometric(each.ratio('adaptive', 'local') for each in some):.3f}",
                f"{1 - fmean(each.summaries['adaptive'].local_share for each in some):.0%}",
            ]
        )
    return (
        "Made links that are cut for 5 s in every minute, 10 minutes, a deadline of 1.25 times what the device takes. "
        "Whoever waits for an answer with so little time cannot finish alone if none comes: so most is done here.\n\n"
        + table("model|board| links| missed| worst p99 by local's| mean by local's| sent", rows)
    )


def write_csv(path: Path, found: Sequence[Found]) -> None:
    """Every set-up, in ms and mJ."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        means = [f"{policy}_ms" for policy in COMPARED]
        writer.writerow(["model", "board", "link", "floor", "rate_hz", "variant", "best_static", "sent_ms", *means,
                         "adaptive_p95_ms", "clairvoyant_p95_ms", "adaptive_mj", "local_mj"])  # fmt: skip
        for each in found:
            setup, by = each.setup, each.summaries
            columns = [f"{by[policy].mean_ms:.5g}" if policy in by else "" for policy in COMPARED]
            p95 = [f"{by[policy].p95_ms:.5g}" if policy in by else "" for policy in ("adaptive", "clairvoyant")]
            energy = [f"{by[policy].energy_mj:.5g}" if policy in by else "" for policy in ("adaptive", "local")]
            sent = f"{each.sent_ms:.5g}" if math.isfinite(each.sent_ms) else ""
            writer.writerow([setup.model, setup.board, setup.link, setup.floor, f"{setup.rate_hz:g}", setup.variant,
                             each.best_static, sent, *columns, *p95, *energy])  # fmt: skip


def draw(path: Path, found: Sequence[Found]) -> None:
    """A map: links across, models on boards down, coloured by what adaptive gains over the better of two."""
    with plain_matplotlib():
        from matplotlib.figure import Figure

        floor = min(FLOORS)
        rows = list(dict.fromkeys((each.setup.model, each.setup.board) for each in found))
        links = list(dict.fromkeys(each.setup.link for each in found))
        figure = Figure(figsize=(3.5 + 0.55 * len(links), 1.8 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, rate in zip(axes, SECONDS, strict=True):
            values = [[math.nan] * len(links) for _ in rows]
            for each in found:
                if each.setup.rate_hz == rate and each.setup.floor == floor:
                    at = rows.index((each.setup.model, each.setup.board)), links.index(each.setup.link)
                    values[at[0]][at[1]] = 100 * each.gain
            shown = axis.imshow(values, cmap="RdYlGn", vmin=-60, vmax=60, aspect="auto")
            axis.set_title(f"{rate:g} requests a second", fontsize=9)
            axis.set_xticks(range(len(links)), links, rotation=60, ha="right", fontsize=7)
            axis.set_yticks(range(len(rows)), [f"{model}, {board}" for model, board in rows], fontsize=7)
            axis.set_facecolor("#d9dde1")
            for row, line in enumerate(values):
                for column, value in enumerate(line):
                    if math.isfinite(value) and abs(value) >= 0.5:
                        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=5.5)
        bar = figure.colorbar(shown, ax=axes, shrink=0.6)
        bar.set_label(f"% less time than the better of local and sending, floor {floor}", fontsize=8)
        figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
