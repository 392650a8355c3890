"""The status page: one piece of HTML without scripts, and nothing from elsewhere. Everything in it is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import zip_longest

from midstream.allocation.usage import Outcome
from midstream.errors import printable
from midstream.gateway.status import Condition, GatewayStatus, PartitionStatus, PredictorStatus, Target

_AGAIN_S = 5
_MOST_TEXT = 200
_MOST_FORECASTS = 5
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #5c6770; --line: #d8dee3; --paper: #fff; --card: #f6f8f9;
  --good: #17713a; --bad: #b3261e; --wait: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaed; --faint: #9aa5ad; --line: #343c43; --paper: #14181b;
  --card: #1d2226; --good: #5fc588; --bad: #ff8a80; --wait: #e8b64c } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.25rem; margin: 0 0 .25rem } h2 { font-size: 1rem; margin: 1.75rem 0 .5rem }
p { margin: .25rem 0 } .faint, dt, th { color: var(--faint) }
.serving { color: var(--good) } .lost { color: var(--bad) } .between { color: var(--wait) }
dl { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 0 }
dl div { flex: 1 1 9.5rem; padding: .5rem .75rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem }
dt { font-size: .8rem } dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums }
meter { width: 100%; height: .6rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-size: .8rem; font-weight: normal } .number { text-align: right }
.chosen td { font-weight: 600 }
nav a { color: inherit; margin-right: 1rem }
"""
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_LOOKS = {
    Condition.SERVING: "serving",
    Condition.STARTING: "between",
    Condition.DRAINING: "between",
    Condition.BROKER_LOST: "lost",
}
_TARGETS = {
    Target.ARRIVALS: "arrivals",
    Target.CPU_MS: "processor, ms",
    Target.MEMORY_BYTES: "memory, MB",
    Target.WAIT_MS: "wait, ms",
}


def page(status: GatewayStatus) -> str:
    """The page, which a browser loads again every five seconds."""
    name = _text(status.gateway_id)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{_AGAIN_S}">
<title>{name} · {status.condition.value}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{name} <span class="{_LOOKS[status.condition]}">{status.condition.value}</span></h1>
<p class="faint">midstream {_text(status.version)}, up {_duration(status.uptime_s)}, at {_clock(status.time_s)}</p>
{_why(status)}
<dl>
{_figures(status)}
</dl>
<h2>Stages</h2>
{_stages(status.partitions)}
{_forecasts(status.partitions)}
<h2>Bundles</h2>
{_bundles(status)}
<p class="faint"><small>Counts and means are since the gateway started; times of stages in ms. Forecasts are of the next
second: below low one time in ten, above high one in ten; the error is the last ones' mean.</small></p>
<nav><a href="/metrics">metrics</a><a href="/status.json">status as JSON</a><a href="/healthz">health</a></nav>
</body>
</html>
"""


def _why(status: GatewayStatus) -> str:
    if status.condition is Condition.SERVING:
        return ""
    why = status.condition.why + (f": {status.broker_error}" if status.broker_error else "")
    return f'<p class="{_LOOKS[status.condition]}">{_text(why, 4 * _MOST_TEXT)}</p>'


def _figures(status: GatewayStatus) -> str:
    figures = [
        ("broker", "connected" if status.connected else "lost"),
        ("workers", f"{status.workers}"),
        ("load", f'{status.load:.0%}<meter value="{min(1.0, max(0.0, status.load)):.2f}"></meter>'),
        ("requests that wait", f"{status.queue_length:,}"),
        ("expected wait", f"{status.wait_ms:,.1f} ms"),
        ("free memory", _megabytes(status.free_bytes)),
        ("held at most", _megabytes(status.peak_bytes)),
        ("slices kept loaded", _warm(status.partitions)),
    ]
    if status.pool is not None:
        figures.append(("pool", _text(status.pool)))
    return "\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)


def _warm(partitions: Iterable[PartitionStatus]) -> str:
    known = [(each.warm_slices, each.warm_bytes or 0) for each in partitions if each.warm_slices is not None]
    if not known:
        return "–"
    return f"{sum(slices for slices, _ in known)}, {_megabytes(sum(held for _, held in known))}"


def _stages(partitions: Sequence[PartitionStatus]) -> str:
    if not partitions:
        return '<p class="faint">No request has come yet.</p>'
    columns = (
        "bundle",
        "from",
        "to",
        *("requests", "in order", "refused", "failed"),
        "wait",
        "run",
        "latency",
        "MB in",
    )
    return _table(columns, 3, [_stage(partition) for partition in partitions])


def _stage(partition: PartitionStatus) -> list[str]:
    counts, name = partition.counts, partition.name
    total = sum(counts.requests.values())
    well = counts.requests.get(Outcome.OK, 0)
    failed = sum(counts.requests.get(outcome, 0) for outcome in (Outcome.FAILED, Outcome.CANNOT_FORWARD))
    means = (counts.wait_ms.mean, counts.run_ms.mean, counts.latency_ms.mean)
    return [
        *map(_text, (name.bundle, name.cut, name.next_cut)),
        *(f"{count:,}" for count in (total, well, total - well - failed, failed)),
        *("–" if mean is None else f"{mean:,.2f}" for mean in means),
        f"{counts.received_bytes / 1e6:,.2f}",
    ]


def _forecasts(partitions: Iterable[PartitionStatus]) -> str:
    """What each predictor says of each target, and how far it was off, of the stages that are asked for most."""
    forecast = [partition for partition in partitions if partition.predictors]
    forecast.sort(key=lambda partition: -sum(partition.counts.requests.values()))
    parts = []
    for partition in forecast[:_MOST_FORECASTS]:
        name = partition.name
        parts.append(f"<h2>Forecast: {_text(name.bundle)}, {_text(name.cut)} to {_text(name.next_cut)}</h2>")
        in_order = sorted(partition.predictors, key=lambda each: list(Target).index(each.target))
        rows = [[_TARGETS[predictor.target], *_forecast(predictor)] for predictor in in_order]
        kinds = ["chosen" if predictor.chosen else "" for predictor in in_order]
        columns = ("target", "predictor", "low", "middle", "high", "error")
        parts.append(_table(columns, 2, rows, kinds))
    if len(forecast) > _MOST_FORECASTS:
        parts.append(f'<p class="faint">{len(forecast) - _MOST_FORECASTS} more stages are forecast: see the JSON.</p>')
    return "\n".join(parts)


def _forecast(predictor: PredictorStatus) -> list[str]:
    scale = 1e-6 if predictor.target is Target.MEMORY_BYTES else 1.0
    forecast = predictor.forecast
    figures = (forecast.low, forecast.middle, forecast.high, predictor.error)
    name = _text(predictor.name) + (" (followed)" if predictor.chosen else "")
    return [name, *("–" if figure is None else f"{scale * figure:,.2f}" for figure in figures)]


def _bundles(status: GatewayStatus) -> str:
    rows = [[_text(bundle.name), f"{len(bundle.cuts)}", _text(bundle.digest)] for bundle in status.bundles]
    return _table(("bundle", "cuts", "digest"), 3, rows)


def _table(columns: Sequence[str], texts: int, rows: Sequence[Sequence[str]], kinds: Sequence[str] = ()) -> str:
    """A table of cells that are HTML already, of which the first ``texts`` columns hold no numbers."""
    body = "".join(_row("td", row, texts, kind) for row, kind in zip_longest(rows, kinds, fillvalue=""))
    head = _row("th", columns, texts)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str], texts: int, kind: str = "") -> str:
    within = "".join(_cell(tag, cell, "" if place < texts else "number") for place, cell in enumerate(cells))
    return _cell("tr", within, kind)


def _cell(tag: str, content: str, kind: str) -> str:
    return f'<{tag} class="{kind}">{content}</{tag}>' if kind else f"<{tag}>{content}</{tag}>"


def _text(text: str, most: int = _MOST_TEXT) -> str:
    return escape(printable(text, most))


def _megabytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1e6:,.0f} MB"


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s"
