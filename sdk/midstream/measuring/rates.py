"""From times of small programs to rates: by family of layers, and for all layers alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from midstream.manifest import Graph
from midstream.partitioning.families import Work, families, work
from midstream.profiles import FamilyRates

# No board of today does more; a rate that noise has made infinite is kept at this.
_MOST_G = 100_000.0
_LEAST_MS = 1e-9


def work_of(graph: Graph, int8: bool) -> Work:
    """What a program does, by the same rules by which a model's time is predicted."""
    return work(graph.layers, families(graph, int8), int8)


def overheads_us(times_ms: Mapping[str, float], works: Mapping[str, Work]) -> tuple[float, float]:
    """Microseconds that a layer costs whatever its size, and a run whatever is in it."""
    few, many = works["single"].layers, works["small"].layers
    layer_ms = max((times_ms["small"] - times_ms["single"]) / (many - few), _LEAST_MS)
    run_ms = max(times_ms["single"] - few * layer_ms, _LEAST_MS)
    return rounded(layer_ms * 1e3), rounded(run_ms * 1e3)


def family_rates(
    times_ms: Mapping[str, float], works: Mapping[str, Work], layer_overhead_us: float, run_overhead_us: float
) -> FamilyRates:
    """Rates that give these times again: of both programs of convolutions together, and of one each for the rest."""

    def left(name: str) -> float:
        """Milliseconds that a program took beyond what every layer and every run costs."""
        rest = times_ms[name] - (works[name].layers * layer_overhead_us + run_overhead_us) / 1e3
        return max(rest, times_ms[name] * 0.1, _LEAST_MS)

    deep, wide = works["conv-deep"], works["conv-wide"]
    conv_gmacs, conv_gbytes = two_rates(
        [(deep.conv_macs, deep.conv_bytes, left("conv-deep")), (wide.conv_macs, wide.conv_bytes, left("conv-wide"))]
    )
    return FamilyRates(
        conv_gmacs=conv_gmacs,
        conv_gbytes=conv_gbytes,
        depthwise_gmacs=_rate(works["depthwise"].depthwise_macs, left("depthwise")),
        dense_gmacs=_rate(works["dense"].dense_macs, left("dense")),
        other_gbytes=_rate(works["elementwise"].other_bytes, left("elementwise")),
    )


def two_rates(parts: Sequence[tuple[int, int, float]]) -> tuple[float, float]:
    """10⁹ macs and 10⁹ bytes a second that fit (macs, bytes, milliseconds) best, each part counting alike.

    Least squares of the relative errors. Where they want a rate below zero, that part costs nothing.
    """
    rows = [(macs / ms / 1e6, size / ms / 1e6) for macs, size, ms in parts]
    aa, bb = sum(a * a for a, _ in rows), sum(b * b for _, b in rows)
    ab, a1, b1 = sum(a * b for a, b in rows), sum(a for a, _ in rows), sum(b for _, b in rows)
    determinant = aa * bb - ab * ab
    if determinant > 1e-12 * aa * bb:
        per_mac, per_byte = (a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant
    else:
        per_mac, per_byte = -1.0, -1.0
    if per_mac <= 0 and per_byte <= 0:
        per_mac, per_byte = a1 / aa, 0.0
    elif per_mac <= 0:
        per_mac, per_byte = 0.0, b1 / bb
    elif per_byte <= 0:
        per_mac, per_byte = a1 / aa, 0.0
    return _inverse(per_mac), _inverse(per_byte)


def rounded(value: float) -> float:
    """Four digits: no measurement here is as good as that."""
    return float(f"{value:.4g}")


def _rate(amount: int, ms: float) -> float:
    return rounded(min(_MOST_G, amount / ms / 1e6))


def _inverse(share: float) -> float:
    return rounded(min(_MOST_G, 1 / share)) if share > 0 else _MOST_G
