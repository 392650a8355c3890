"""What the demo tells: each request, the tours, the summary with its reasons, and the JSON object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from trials import LOSSY_CODEC, Trial

from midstream import Bundle
from midstream.planning import INPUT_CUT, LOCAL_CUT

# Two ways whose means are this close are called equal.
CLOSE = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One way to answer, over the inputs that took the tour: means of what its trials took."""

    way: str
    total_ms: float
    device_ms: float
    link_ms: float
    gateway_ms: float
    sent_bytes: float
    received_bytes: float
    same_answers: int
    trials: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A model's comparison: the ways, the fastest lossless fixed one, and why it won, in words."""

    title: str
    rows: tuple[Row, ...]
    winner: str
    why: str


def way(trial: Trial) -> str:
    """What a trial did, in words."""
    if trial.option == LOCAL_CUT:
        return "all on the device"
    return f"whole input, {trial.codec}" if trial.option == INPUT_CUT else f"cut {trial.option}, {trial.codec}"


def verdict(title: str, trials: Sequence[Trial]) -> Verdict:
    """Compare the fixed ways and the planner on the inputs that took the tour; failed requests are left out."""
    good = [trial for trial in trials if trial.model == title and trial.failure is None]
    toured = {trial.input for trial in good if trial.kind == "tour"}
    groups: dict[str, list[Trial]] = {}
    for trial in good:
        if trial.kind == "tour":
            groups.setdefault(way(trial), []).append(trial)
    fixed = {name: _row(name, group) for name, group in groups.items()}
    lossless = [name for name, group in groups.items() if all(trial.lossless for trial in group)]
    if not lossless:
        return Verdict(title, (), "none", "no request succeeded")
    cuts = [name for name in lossless if groups[name][0].option not in (LOCAL_CUT, INPUT_CUT)]
    best_cut = min(cuts, key=lambda name: fixed[name].total_ms, default=None)
    shown = [name for name in fixed if name not in cuts or name == best_cut]
    planned = [trial for trial in good if trial.kind == "planner" and trial.input in toured]
    planner = _row("the planner", planned) if planned else None
    rows = (*(fixed[name] for name in shown), *([planner] if planner else []))
    winner = min(lossless, key=lambda name: fixed[name].total_ms)
    reasons = [_why(fixed, groups, winner, best_cut)]
    if planner is not None:
        reasons.append(_of_planner(planner, fixed[winner], planned))
    lossy = next((row for name, row in fixed.items() if name.endswith(LOSSY_CODEC)), None)
    if lossy is not None:
        reasons.append(_of_lossy(lossy, fixed[winner]))
    return Verdict(title, rows, winner, " ".join(reasons))


def print_request(console: Console, trial: Trial) -> None:
    """One line about a request of the planner's choice."""
    score = "–" if trial.score is None else f"{trial.score:.0f}"
    if trial.failure is not None:
        console.print(f"  {trial.input}: [red]failed[/]: {escape(trial.failure)}", highlight=False)
        return
    console.print(
        f"  {trial.input}: complexity {score} → [bold]{way(trial)}[/], {_size(trial.sent_bytes)} sent, "
        f"{_size(trial.received_bytes)} back; device {_ms(trial.device_ms)} + link {_ms(trial.link_ms)} + gateway "
        f"{_ms(trial.gateway_ms)} → {_ms(trial.total_ms)} ms; difference {_error(trial)}",
        highlight=False,
    )


def print_stream(console: Console, name: str, trials: Sequence[Trial]) -> None:
    """One line about the windows of a sound, by the planner's choices."""
    good = [trial for trial in trials if trial.failure is None]
    failed = len(trials) - len(good)
    if good:
        scores = [trial.score for trial in good if trial.score is not None]
        choices = ", ".join(f"[bold]{ways}[/] ({count})" for ways, count in Counter(map(way, good)).most_common())
        row = _row(name, good)
        worst = max(trial.max_abs_error or 0.0 for trial in good)
        console.print(
            f"  {name}: {len(good)} windows, complexity {min(scores):.0f}–{max(scores):.0f} → {choices}, "
            f"{_size(sum(trial.sent_bytes for trial in good))} sent; mean: device {_ms(row.device_ms)} + link "
            f"{_ms(row.link_ms)} + gateway {_ms(row.gateway_ms)} → {_ms(row.total_ms)} ms; difference {worst:.3g}",
            highlight=False,
        )
    if failed:
        console.print(f"  {name}: [red]{failed} windows failed[/]")


def print_tour(console: Console, title: str, trials: Sequence[Trial]) -> None:
    """The table of one input's tour."""
    table = _table(title, ("way", "sent", "back", "device ms", "link ms", "gateway ms", "total ms", "difference"))
    for trial in trials:
        if trial.failure is not None:
            table.add_row(way(trial), "", "", "", "", "", "", f"[red]failed: {escape(trial.failure)}[/]")
            continue
        times = (trial.device_ms, trial.link_ms, trial.gateway_ms, trial.total_ms)
        note = "" if trial.lossless else ", same answer" if trial.same_answer else ", another answer"
        table.add_row(
            way(trial), _size(trial.sent_bytes), _size(trial.received_bytes), *map(_ms, times), _error(trial) + note
        )
    console.print(table)


def print_summary(console: Console, verdicts: Sequence[Verdict], trials: Sequence[Trial], circumstances: str) -> None:
    """Who won, model by model, and why."""
    console.rule("[bold]Summary[/]: means over the inputs that took the tour")
    for result in verdicts:
        table = _table(
            result.title, ("way", "total ms", "device ms", "link ms", "gateway ms", "sent", "back", "same answer")
        )
        for row in result.rows:
            times = (row.total_ms, row.device_ms, row.link_ms, row.gateway_ms)
            style = "bold green" if row.way == result.winner else None
            agreement = f"{row.same_answers} of {row.trials}"
            table.add_row(
                row.way, *map(_ms, times), _size(row.sent_bytes), _size(row.received_bytes), agreement, style=style
            )
        console.print(table)
        console.print(f"  {result.why}\n", highlight=False)
    totals = _totals(trials)
    console.print(
        f"{totals['requests']} requests, {totals['failed']} failed; lossless ones differ from the whole model by at "
        f"most {totals['max_abs_error']:g}; {len(totals['cuts_used'])} cuts used; "
        f"{_size(totals['payload_bytes_total'])} sent",
        highlight=False,
    )
    console.print(circumstances, highlight=False, markup=False)


def to_json(
    bundles: Mapping[str, Bundle],
    trials: Sequence[Trial],
    verdicts: Sequence[Verdict],
    circumstances: Mapping[str, Any],
    found: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON object of ``--json``."""
    choices = Counter((trial.model, way(trial)) for trial in trials if trial.kind == "planner")
    return {
        **_totals(trials),
        "models": [
            {
                "name": bundle.name,
                "format": bundle.manifest.model_format,
                "cuts": [cut.id for cut in bundle.cuts],
                "planner_choices": {name: count for (model, name), count in choices.items() if model == title},
            }
            for title, bundle in bundles.items()
        ],
        **circumstances,
        "found": dict(found),
        "summary": [asdict(result) for result in verdicts],
        "failures": [f"{trial.model}, {trial.input}: {trial.failure}" for trial in trials if trial.failure],
    }


def _totals(trials: Sequence[Trial]) -> dict[str, Any]:
    errors = [
        trial.max_abs_error
        for trial in trials
        if trial.lossless and trial.failure is None and trial.max_abs_error is not None
    ]
    worst = max(errors, default=0.0)
    cuts = {
        f"{trial.model}: {trial.option}"
        for trial in trials
        if trial.failure is None and trial.option not in (LOCAL_CUT, INPUT_CUT)
    }
    return {
        "requests": len(trials),
        "failed": sum(trial.failure is not None for trial in trials),
        # JSON has no infinity.
        "max_abs_error": worst if math.isfinite(worst) else 1e308,
        "cuts_used": sorted(cuts),
        "payload_bytes_total": sum(trial.sent_bytes for trial in trials),
    }


def _row(name: str, trials: Sequence[Trial]) -> Row:
    return Row(
        name,
        mean(trial.total_ms for trial in trials),
        mean(trial.device_ms for trial in trials),
        mean(trial.link_ms for trial in trials),
        mean(trial.gateway_ms for trial in trials),
        mean(trial.sent_bytes for trial in trials),
        mean(trial.received_bytes for trial in trials),
        sum(trial.same_answer for trial in trials),
        len(trials),
    )


def _why(fixed: Mapping[str, Row], groups: Mapping[str, Sequence[Trial]], winner: str, best_cut: str | None) -> str:
    best = fixed[winner]
    local = next((row for name, row in fixed.items() if groups[name][0].option == LOCAL_CUT), None)
    sent = [row for name, row in fixed.items() if groups[name][0].option == INPUT_CUT and groups[name][0].lossless]
    if local is None or not sent:
        return f"{winner} took {_ms(best.total_ms)} ms; too many of the others failed to compare it with."
    whole = min(sent, key=lambda row: row.total_ms)
    if winner == best_cut:
        return (
            f"Splitting pays: {winner} takes {_ms(best.total_ms)} ms, {_ms(local.total_ms)} all on the device, "
            f"{_ms(whole.total_ms)} for the {whole.way}; its head takes {_ms(best.device_ms)} ms and leaves "
            f"{_size(best.sent_bytes)} to send, where the whole input has {_size(whole.sent_bytes)}."
        )
    if winner == local.way:
        text = (
            f"The device alone wins with {_ms(best.total_ms)} ms: sending the input costs {_ms(whole.link_ms)} ms on "
            f"the link, for {_size(whole.sent_bytes)} there and {_size(whole.received_bytes)} back."
        )
    else:
        text = (
            f"Sending the {winner}, wins with {_ms(best.total_ms)} ms: all on the device takes {_ms(local.total_ms)} "
            f"ms, the gateway {_ms(best.gateway_ms)} ms for the same, and the link {_ms(best.link_ms)} ms for "
            f"{_size(best.sent_bytes)} there and {_size(best.received_bytes)} back."
        )
    if best_cut is None:
        return text
    cut = fixed[best_cut]
    share = cut.sent_bytes / max(whole.sent_bytes, 1.0)
    return (
        f"{text} Splitting does not pay here: the best, {best_cut}, takes {_ms(cut.total_ms)} ms, of which its head "
        f"{_ms(cut.device_ms)} ms on the device, and sends {share:.2g} × the bytes of the input."
    )


def _of_planner(planner: Row, best: Row, planned: Sequence[Trial]) -> str:
    choices = Counter(way(trial) for trial in planned).most_common()
    chosen = ", ".join(f"{name} ({count} of {len(planned)})" for name, count in choices)
    ratio = planner.total_ms / best.total_ms
    if ratio <= 1 + CLOSE:
        return f"The planner chose {chosen} and was as fast."
    return f"The planner chose {chosen} and took {ratio:.2f} × as long as the best fixed way, known only afterwards."


def _of_lossy(lossy: Row, best: Row) -> str:
    against = "faster" if lossy.total_ms < best.total_ms else "slower"
    return (
        f"JPEG loses detail and is planned only where its agreement was measured: it sends {_size(lossy.sent_bytes)}, "
        f"is {against} than the best lossless way ({_ms(lossy.total_ms)} ms) and gave the same answer in "
        f"{lossy.same_answers} of {lossy.trials}."
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _size(count: float) -> str:
    return f"{count:.0f} B" if count < 1000 else f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def _error(trial: Trial) -> str:
    return "?" if trial.max_abs_error is None else f"{trial.max_abs_error:.3g}"
