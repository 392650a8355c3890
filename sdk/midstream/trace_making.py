"""Made links over time, of kinds such as ``lte-driving``: the log of the rate is a sum of random processes.

What each process is, with formulas and sources: `docs/traces.md`. A kind and a seed give the same trace, to the last
digit, on any machine: only uniform numbers are drawn, from streams that numpy keeps as they are (PCG64), and what
machines may differ in, the last bit of an exponential, is rounded away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from midstream.errors import InputError, printable
from midstream.traces import MAX_ROWS, Trace

Floats = NDArray[np.float64]

MEAN_KBPS = (10.0, 1e7)
RTT_MS = (1.0, 5000.0)
MAX_SEED = 2**32 - 1
_SHOWN_LETTERS = 40
# Nobody waits longer for a slow link than so many of its round trips.
_MOST_RTT_FACTOR = 4.0
# Farther away than this, in the log of the rate, there is no link.
_OUT_OF_REACH = -3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a kind of link is like; times in seconds, sigmas in the natural log. 0 seconds: there is nothing of it."""

    about: str
    mean_kbps: float
    downlink_ratio: float
    """The downlink's mean over the uplink's."""
    rtt_ms: float
    """The round trip, in the median, of seconds in which the rate is its mean or more."""
    shadow_sigma: float = 0.0
    shadow_s: float = 0.0
    """Shadowing: an AR(1) process of this time constant, common to both directions."""
    redrawn_s: float = 0.0
    """Instead of that, a level drawn anew so often, as when another satellite takes over."""
    load_sigma: float = 0.0
    load_s: float = 0.0
    """What others leave: an AR(1) process for each direction."""
    fade_every_s: float = 0.0
    fade_s: float = 0.0
    fade_factor: float = 1.0
    """Spells of so many seconds, with so many between them, in which the rate is this factor of itself."""
    down_every_s: float = 0.0
    down_s: float = 0.0
    """Spells in which the link is down."""
    walk_s: float = 0.0
    walk_depth: float = 0.0
    """Away and back again in so many seconds, and how far the log of the rate falls on the way."""
    rtt_sigma: float = 0.0
    rtt_exponent: float = 0.0
    """The round trip's own variation, and how it grows where the rate falls below its mean."""


KINDS = {
    "steady": Kind(about="nothing changes", mean_kbps=20_000, downlink_ratio=1, rtt_ms=20),
    "wifi": Kind(
        about="a wireless LAN in one room, shared with others",
        mean_kbps=40_000,
        downlink_ratio=1,
        rtt_ms=6,
        shadow_sigma=0.15,
        shadow_s=60,
        load_sigma=0.2,
        load_s=3,
        fade_every_s=60,
        fade_s=4,
        fade_factor=0.3,
        rtt_sigma=0.15,
        rtt_exponent=0.8,
    ),
    "wifi-edge": Kind(
        about="walking out of a wireless LAN's reach, and back",
        mean_kbps=20_000,
        downlink_ratio=1,
        rtt_ms=8,
        shadow_sigma=0.35,
        shadow_s=8,
        load_sigma=0.2,
        load_s=3,
        walk_s=180,
        walk_depth=3.5,
        rtt_sigma=0.2,
        rtt_exponent=0.5,
    ),
    "lte": Kind(
        about="LTE at one place",
        mean_kbps=6_000,
        downlink_ratio=2.25,
        rtt_ms=60,
        shadow_sigma=0.3,
        shadow_s=60,
        load_sigma=0.35,
        load_s=5,
        rtt_sigma=0.12,
        rtt_exponent=0.4,
    ),
    "lte-driving": Kind(
        about="LTE from a car: shadowing, handovers, gaps",
        mean_kbps=4_000,
        downlink_ratio=2.25,
        rtt_ms=65,
        shadow_sigma=0.55,
        shadow_s=8,
        load_sigma=0.3,
        load_s=5,
        fade_every_s=40,
        fade_s=3,
        fade_factor=0.2,
        down_every_s=90,
        down_s=3,
        rtt_sigma=0.15,
        rtt_exponent=0.4,
    ),
    "umts": Kind(
        about="UMTS (HSPA) from a car",
        mean_kbps=1_000,
        downlink_ratio=3,
        rtt_ms=110,
        shadow_sigma=0.35,
        shadow_s=10,
        load_sigma=0.2,
        load_s=5,
        fade_every_s=60,
        fade_s=5,
        fade_factor=0.2,
        down_every_s=120,
        down_s=4,
        rtt_sigma=0.15,
        rtt_exponent=0.4,
    ),
    "5g": Kind(
        about="5G at millimetre waves on foot: fast, and gone behind every corner",
        mean_kbps=50_000,
        downlink_ratio=8,
        rtt_ms=15,
        shadow_sigma=0.4,
        shadow_s=10,
        load_sigma=0.25,
        load_s=3,
        fade_every_s=40,
        fade_s=12,
        fade_factor=0.08,
        down_every_s=80,
        down_s=3,
        rtt_sigma=0.12,
        rtt_exponent=0.4,
    ),
    "satellite": Kind(
        about="low orbits: another satellite every 15 s",
        mean_kbps=15_000,
        downlink_ratio=8,
        rtt_ms=45,
        shadow_sigma=0.4,
        redrawn_s=15,
        load_sigma=0.2,
        load_s=5,
        down_every_s=200,
        down_s=1.5,
        rtt_sigma=0.15,
        rtt_exponent=0.2,
    ),
}


def make_trace(
    kind: str, seconds: int = 600, seed: int = 0, mean_kbps: float | None = None, rtt_ms: float | None = None
) -> Trace:
    """A trace of this kind, a row a second; ``mean_kbps`` and ``rtt_ms`` take the place of the kind's own.

    The uplink's mean over the whole trace is as asked, but for rounding to whole kbit/s. Raises InputError for a kind
    that is none of `KINDS`, and for figures out of bounds.
    """
    if kind not in KINDS:
        nearest = get_close_matches(kind.lower(), KINDS, n=1, cutoff=0.0)[0]
        raise InputError(
            f"there is no kind of link {printable(kind, _SHOWN_LETTERS)!r}; the nearest is {nearest}, all are "
            f"{', '.join(KINDS)}"
        )
    known = KINDS[kind]
    mean_kbps = known.mean_kbps if mean_kbps is None else mean_kbps
    rtt_ms = known.rtt_ms if rtt_ms is None else rtt_ms
    for name, value, (least, most) in (
        ("seconds", seconds, (1, MAX_ROWS)),
        ("seed", seed, (0, MAX_SEED)),
        ("mean_kbps", mean_kbps, MEAN_KBPS),
        ("rtt_ms", rtt_ms, RTT_MS),
    ):
        if not least <= value <= most:
            raise InputError(f"a made link's {name} is {value:.15g}; it takes {least:g} to {most:.15g}")
    common = _common(known, seconds, seed)
    up = _kbps(common + _autoregressive(known.load_sigma, known.load_s, _normals(seed, 1, seconds)), mean_kbps)
    down_log = common + _autoregressive(known.load_sigma, known.load_s, _normals(seed, 2, seconds))
    down = _kbps(down_log, mean_kbps * known.downlink_ratio)
    rtt = _rtt_ms(known, rtt_ms, up / mean_kbps, _normals(seed, 3, seconds))
    return Trace(kind, np.arange(seconds, dtype=np.float64), up, down, rtt, seconds)


def _common(kind: Kind, rows: int, seed: int) -> Floats:
    """The part of the log of the rate that both directions have; minus infinity where the link is down."""
    noise = _normals(seed, 0, rows)
    if kind.redrawn_s:
        level = kind.shadow_sigma * noise[(np.arange(rows) // kind.redrawn_s).astype(np.intp)]
    else:
        level = _autoregressive(kind.shadow_sigma, kind.shadow_s, noise)
    if kind.walk_s:
        # How far away: 0 at the start and the end of a walk, 1 halfway.
        away = 1 - np.abs(2 * (np.arange(rows) % kind.walk_s / kind.walk_s) - 1)
        level = level - kind.walk_depth * away * away
        level[level < _OUT_OF_REACH] = -np.inf
    level[_spells(kind.fade_every_s, kind.fade_s, _stream(seed, 4).random(rows))] += math.log(kind.fade_factor)
    level[_spells(kind.down_every_s, kind.down_s, _stream(seed, 5).random(rows))] = -np.inf
    return level


def _kbps(log_rate: Floats, mean_kbps: float) -> Floats:
    """Whole kbit/s of this mean; 0 is down, and nothing else becomes 0."""
    rate = np.exp(log_rate)
    mean = math.fsum(rate.tolist()) / rate.size
    return np.where(rate > 0, np.maximum(np.round(rate * (mean_kbps / mean)), 1), 0)


def _rtt_ms(kind: Kind, rtt_ms: float, relative_rate: Floats, noise: Floats) -> Floats:
    """Round trips in tenths of a millisecond: longer where the rate is below its mean, and longest where it is 0."""
    with np.errstate(divide="ignore"):
        slower = np.maximum(1 / relative_rate, 1)
    factor = np.minimum(slower**kind.rtt_exponent, _MOST_RTT_FACTOR)
    own = np.exp(_autoregressive(kind.rtt_sigma, kind.load_s, noise))
    return np.maximum(np.round(rtt_ms * own * factor, 1), 0.1)


def _autoregressive(sigma: float, constant_s: float, noise: Floats) -> Floats:
    """x[t] = a x[t-1] + sqrt(1 - a²) σ noise[t], a = exp(-1 s / constant_s), from its stationary distribution on."""
    if not sigma or not constant_s:
        return np.zeros(noise.size)
    kept = math.exp(-1 / constant_s)
    fresh = (math.sqrt(1 - kept * kept) * sigma * noise).tolist()
    value = sigma * noise.item(0)
    values = [value]
    for each in fresh[1:]:
        value = kept * value + each
        values.append(value)
    return np.array(values)


def _spells(every_s: float, length_s: float, uniform: Floats) -> NDArray[np.bool_]:
    """Gilbert's chain of two states: which seconds are in a spell. The first one is in none."""
    within = [False]
    for each in uniform[1:].tolist() if every_s else []:
        within.append(each >= 1 / length_s if within[-1] else each < 1 / every_s)
    return np.array(within) if every_s else np.zeros(uniform.size, np.bool_)


def _normals(seed: int, number: int, rows: int) -> Floats:
    """Nearly normal numbers, the sums of 12 uniform ones less 6: mean 0, variance 1, within ±6."""
    total = np.full(rows, -6.0)
    stream = _stream(seed, number)
    for _ in range(12):
        total += stream.random(rows)
    return total


def _stream(seed: int, number: int) -> np.random.Generator:
    """Each process has numbers of its own, so that a kind without one of them keeps the others."""
    return np.random.Generator(np.random.PCG64([seed, number]))
