"""One profile held against another, figure by figure. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from midstream.manifest import Graph, Manifest
from midstream.partitioning import times_from_profile
from midstream.profiles import Profile

Better = Literal["more", "less"]

_SAME = 0.05
_SPEED = (
    ("gmacs_float32", "arithmetic, float32"),
    ("gmacs_int8", "arithmetic, int8"),
    ("gbytes_float32", "memory, float32"),
    ("gbytes_int8", "memory, int8"),
)
_FAMILIES = (
    ("conv_gmacs", "GMAC/s", "convolutions, arithmetic"),
    ("conv_gbytes", "GB/s", "convolutions, writing"),
    ("depthwise_gmacs", "GMAC/s", "depthwise convolutions"),
    ("dense_gmacs", "GMAC/s", "matrix products"),
    ("other_gbytes", "GB/s", "other layers"),
)
_THREADS = (("one_thread", "one thread"), ("all_cores", "all cores"))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both profiles; ``ratio`` is ``here`` / ``there``, and ``verdict`` what that means."""

    figure: str
    unit: str
    here: float
    there: float
    better: Better

    @property
    def ratio(self) -> float:
        """How many times the other profile's figure this one is."""
        return self.here / self.there

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"``, or ``"alike"`` within 5 %."""
        if abs(self.ratio - 1.0) <= _SAME:
            return "alike"
        return "better" if (self.ratio > 1.0) == (self.better == "more") else "worse"


def compare(here: Profile, there: Profile, bundle: tuple[Manifest, Graph, bytes] | None = None) -> list[Comparison]:
    """Every figure that both have; with a bundle (manifest, graph, digest) also what each takes for the whole model."""
    return [
        *_whole_model(here, there, bundle),
        *_speed(here, there),
        *_families(here, there),
        *_rest(here, there),
    ]


def _whole_model(here: Profile, there: Profile, bundle: tuple[Manifest, Graph, bytes] | None) -> Iterator[Comparison]:
    if bundle is None:
        return
    manifest, graph, digest = bundle
    for threads, words in ((1, "one thread"), (None, "all cores")):
        own, other = (times_from_profile(manifest, graph, each, threads, digest).whole_ms for each in (here, there))
        if own > 0 and other > 0:
            yield Comparison(f"{manifest.name}, {words}", "ms", own, other, "less")


def _speed(here: Profile, there: Profile) -> Iterator[Comparison]:
    for table, words in _THREADS:
        own, other = getattr(here.speed, table), getattr(there.speed, table)
        for name, what in _SPEED:
            unit = "GMAC/s" if name.startswith("gmacs") else "GB/s"
            yield Comparison(f"{what}, {words}", unit, getattr(own, name), getattr(other, name), "more")
    yield Comparison("each layer", "µs", here.speed.layer_overhead_us, there.speed.layer_overhead_us, "less")


def _families(here: Profile, there: Profile) -> Iterator[Comparison]:
    for engine in (each for each in here.families if each in there.families):
        for table, words in _THREADS:
            own, other = (getattr(each.families[engine], table) for each in (here, there))
            for dtype in ("float32", "int8"):
                first, second = getattr(own, dtype), getattr(other, dtype)
                for name, unit, what in _FAMILIES:
                    figure = f"{engine}: {what}, {dtype}, {words}"
                    yield Comparison(figure, unit, getattr(first, name), getattr(second, name), "more")


def _rest(here: Profile, there: Profile) -> Iterator[Comparison]:
    yield Comparison("cores", "", here.cores, there.cores, "more")
    yield Comparison("memory", "MB", here.memory_mb, there.memory_mb, "more")
    yield Comparison("idle", "W", here.power.idle_w, there.power.idle_w, "less")
    yield Comparison("busy", "W", here.power.busy_w, there.power.busy_w, "less")
    yield Comparison("radio", "µJ/byte", here.power.radio_uj_per_byte, there.power.radio_uj_per_byte, "less")
