"""docs/forecast.md: what the shipped forecaster is, learned and does, from the figures of the run that made it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from midstream.allocation.features import FEATURES, TARGETS, Target
from midstream_converters.forecasting.card import NETWORK, Card, coverage_table
from midstream_converters.forecasting.judging import Figures
from midstream_converters.forecasting.weights import UNITS
from midstream_training.workloads import RANGES, SECONDS, Ranges

_TITLES: Mapping[Target, str] = {
    "arrivals": "Arrivals",
    "cpu_ms": "Processor time",
    "memory_bytes": "Memory",
    "wait_ms": "Wait",
}
# What is less apart than this is called the same.
_APART = 0.01

_OWN = """## One of your own

```sh
midstream train-forecast gateway.sqlite -o model                # on what midstream gateway --history has kept
midstream train-forecast gateway.sqlite --from model -o model   # and on from there, with what has come since
```

It takes the extra `convert-keras`, at least half an hour of a gateway's work with requests in ten minutes of it, and some minutes.
Three fifths of the time are learned from, a fifth says when to stop, and the last fifth, never seen, is what the card in the
folder (`forecast.md`, `forecast.json`) judges by, against last value, EWMA, Holt and the queue report. With `--from`, a model that errs
no less there than the one it came from is not written: exit code 3. What a history does not tell: what slices held (memory stays
untrained, and is the last value), the queue report (taken to be what those that waited did wait on), the workers (as many as
were ever busy at once). The folder is written whole or not at all."""

_TRIED = """## What was tried

Chosen by the validation workloads; errors as shares of the last value's there. In the last column, how many partitions of 900 s were
learned from, in how many epochs.

| | arrivals | processor time | wait | |
| --- | ---: | ---: | ---: | --- |
| 50 features: of what recurs only what came one period before the next second and the three after it | 0.890 | 0.864 | 0.788 | 353, 2 |
| the same, longer | 0.832 | 0.793 | 0.723 | 353, 20 |
| also what came around there, how far the inputs have risen over the usual, the last wait where nobody waited, how busy the period will make the workers | 0.827 | 0.777 | 0.697 | 534, 20 |
| **taken**: also one to three periods ago, shifted to where that is most like the last six seconds | 0.816 | 0.776 | 0.699 | 447, 30 |

The first two had validation workloads of the same ranges, fewer by a quarter, and all of them others than now: how the simulation lets
requests in has changed since. More units do not fit into 100 kB a file.

Each second, 32 partitions took 0.9–1.6 ms of processor time with LiteRT, and 1.0–1.8 ms with onnxruntime, on two cores of x86_64 whose
speed varied that much; about a tenth of that is the network, the rest are the features and what is made of the answer. Less than
1 ms was asked for.

**Memory** changes only where a worker loads a slice or one lets it go, both seldom: the last value is right in nearly all seconds. The
network mixes that with a mean and adds to it, and so is off by some hundredths of a percent all the time. It adds nothing there, and the
mix takes the last value. A network without memory among its targets was not tried: the forecast of it costs nothing else."""


def page(card: Card, by_kind: Mapping[str, Figures], sizes: Mapping[str, int], others: Sequence[str]) -> str:
    """The whole page; ``others`` are the forecasts beside the network's, in the order in which they are shown."""
    kilobytes = " and ".join(f"`{name}` {size / 1e3:.0f} kB" for name, size in sizes.items())
    parts = [
        f"""# The forecaster: a recurrent network, and how well it does

Written by `scripts/train_forecaster`, which makes the workloads, trains, judges, and writes the files of the model. Seeds and the
order of sums are fixed: a small training gives the same bytes each time on one machine, as a test sees to. `midstream train-forecast HISTORY -o FOLDER` trains one like it on a gateway's own history, and
`--from FOLDER` trains one on.

The network sees one second of each partition at a time, and says the 0.1, 0.5 and 0.9 quantiles of the next one's arrivals,
processor time, memory and wait. It is a GRU of {UNITS} units, {len(FEATURES)} features in (`midstream/allocation/features.py`), whose
state goes in and out, so that all partitions are the rows of one run. Of each target it mixes simple forecasts by a softmax, and
adds to the mixture on the scale log(1 + amount): last value, three EWMAs, Holt, what came one period ago, there and where it is
most like what has come since, and for the wait the queue report, and that with what the load adds to it in half a second. Untrained,
or for inputs unlike any it has seen, it is such a mean. Quantiles are in order by construction; the loss is the pinball loss of
amounts by the partition's mean, and a share of that of logarithms. Files in `midstream/models`: {kilobytes}, the same weights; it runs
on LiteRT or onnxruntime, whichever is installed, and without either there is no such forecast.

What it says is one of the [predictors](allocation.md#predictors) among which a gateway's mix chooses, for each partition and target
whichever has erred least lately: where it adds nothing it is not listened to.""",
        _data(card),
        *(_section(target, by_kind, others) for target in TARGETS),
        _verdict(card.figures, by_kind, others),
        "\n".join(
            [
                "## Quantiles",
                "",
                "How often what came was at most each quantile; of all kinds together. Many waits are exactly 0, and so is "
                "their low quantile; memory stays for minutes as it is, and a hair decides on which side of it a quantile lies.",
                "",
                *coverage_table(card.figures),
            ]
        ),
        _OWN,
        *([_TRIED] if _TRIED else []),
    ]
    return "\n\n".join(parts) + "\n"


def _data(card: Card) -> str:
    rows = "\n".join(f"| {split} | {ranges.of_each} | {_ranges(ranges)} |" for split, ranges in RANGES.items())
    return f"""## Data

Workloads by `midstream.workload_making`, of six kinds and of all mixed, run by `midstream.simulating.partitions` for {SECONDS} s each.
Seeds and ranges are apart; what a request waited is known in hindsight. {card.data["partitions_learned_from"]} partitions were learned from,
in {card.training["epochs"]} epochs, of which the one that did best on validation is kept ({card.training["epochs_kept"]}).

| | gateways of each kind | first seed | pace | service times | load | workers |
| --- | ---: | ---: | --- | --- | --- | --- |
{rows}"""


def _ranges(ranges: Ranges) -> str:
    pace, service = (
        ", ".join(f"{low:g}–{high:g}" for low, high in each) for each in (ranges.pace, ranges.service_scale)
    )
    load = f"{ranges.load[0]:g}–{ranges.load[1]:g}"
    return f"{ranges.first_seed:,} | {pace} | {service} | {load} | {', '.join(map(str, ranges.workers))}"


def _section(target: Target, by_kind: Mapping[str, Figures], others: Sequence[str]) -> str:
    names = [NETWORK, *(name for name in others if name != "queue_report" or target == "wait_ms")]
    lines = [f"| | {' | '.join(name.replace('_', ' ') for name in names)} |", f"| --- |{' ---: |' * len(names)}"]
    digits = 5 if target == "memory_bytes" else 3
    for kind, figures in by_kind.items():
        values = [figures.errors[name][target] for name in names]
        cells = (f"**{value:.{digits}f}**" if value <= min(values) else f"{value:.{digits}f}" for value in values)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    about = "The mean absolute error by the partition's mean, over partitions of the test workloads."
    return "\n".join([f"## {_TITLES[target]}", "", about, "", *lines])


def _verdict(all_kinds: Figures, by_kind: Mapping[str, Figures], others: Sequence[str]) -> str:
    singles = [name for name in others if not name.startswith("mix")]
    lines = ["## What it adds", ""]
    for target in TARGETS:
        ours = all_kinds.errors[NETWORK][target]
        known = [name for name in singles if name != "queue_report" or target == "wait_ms"]
        best = min(known, key=lambda name: all_kinds.errors[name][target])
        theirs = all_kinds.errors[best][target]
        mix, mix_with = (all_kinds.errors[name][target] for name in others if name.startswith("mix"))
        lines.append(
            f"- {_TITLES[target]}: {_change(ours, theirs)} the best single formula ({best.replace('_', ' ')}), "
            f"{_change(ours, mix)} the mix of all formulas; with the network in it the mix errs {_change(mix_with, mix)} without."
        )
    nothing = [f"{_TITLES[target].lower()} of {', '.join(kinds)}" for target, kinds in _useless(by_kind, others)]
    lines += [
        "",
        f"It adds nothing, a hundredth or less, to what the mix has without it for: {'; '.join(nothing) or 'nothing'}.",
    ]
    return "\n".join(lines)


def _useless(by_kind: Mapping[str, Figures], others: Sequence[str]) -> Iterator[tuple[Target, list[str]]]:
    mix, mix_with = (name for name in others if name.startswith("mix"))
    for target in TARGETS:
        kinds = [
            kind
            for kind, figures in by_kind.items()
            if figures.errors[mix_with][target] > (1 - _APART) * figures.errors[mix][target]
        ]
        if kinds:
            yield target, kinds


def _change(ours: float, theirs: float) -> str:
    if not theirs or math.isnan(theirs):
        return "as good as"
    share = ours / theirs - 1
    return f"{abs(share):.1%} {'more' if share > 0 else 'less'} than"
