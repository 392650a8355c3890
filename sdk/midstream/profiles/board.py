"""What a board can do, as values: how fast it runs layers, what it draws, and where each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

RATES = ("gmacs_float32", "gmacs_int8", "gbytes_float32", "gbytes_int8")
POWER = ("idle_w", "busy_w", "radio_uj_per_byte")
ENGINES = ("litert", "onnx")
DELEGATES = ("xnnpack", "edgetpu", "cuda", "tensorrt", "openvino")

Engine = Literal["litert", "onnx"]
DType = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a table's figures come from: a source, or why they are estimated; ``estimates``: exceptions."""

    text: str
    estimate: bool = False
    estimates: Mapping[str, str] = field(default_factory=dict)


UNSTATED = Origin("not stated", estimate=True)


@dataclass(frozen=True, slots=True)
class Rates:
    """Effective speed of a single inference: 10⁹ MACs a second, and 10⁹ bytes of layer outputs a second."""

    gmacs_float32: float
    gmacs_int8: float
    gbytes_float32: float
    gbytes_int8: float
    origin: Origin = UNSTATED


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates with one thread and a thread on every core; ``layer_overhead_us`` is microseconds a layer."""

    layer_overhead_us: float
    one_thread: Rates
    all_cores: Rates
    origin: Origin = UNSTATED


@dataclass(frozen=True, slots=True)
class FamilyRates:
    """Speed of one family of layers each: 10⁹ MACs a second, and 10⁹ bytes of layer outputs a second.

    A convolution takes its macs / ``conv_gmacs`` and its output bytes / ``conv_gbytes``; one that takes every channel
    by itself, and a matrix product, their macs / ``depthwise_gmacs`` and ``dense_gmacs``; any other layer its output
    bytes / ``other_gbytes``.
    """

    conv_gmacs: float
    conv_gbytes: float
    depthwise_gmacs: float
    dense_gmacs: float
    other_gbytes: float


FAMILY_RATES = tuple(each.name for each in fields(FamilyRates))


@dataclass(frozen=True, slots=True)
class Families:
    """The rates of every family with one number of threads.

    ``layer_overhead_us`` are the microseconds that a layer costs whatever its size, ``run_overhead_us`` those of a run
    of a model or a slice whatever is in it.
    """

    layer_overhead_us: float
    run_overhead_us: float
    float32: FamilyRates
    int8: FamilyRates
    origin: Origin = UNSTATED


@dataclass(frozen=True, slots=True)
class EngineFamilies:
    """What one engine does with one thread and with a thread on every core."""

    one_thread: Families
    all_cores: Families


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """Measured milliseconds of one bundle's whole model, and of heads and tails, these with one thread, by cut.

    ``digest`` is the bundle's, as 64 hexadecimal digits: `midstream inspect --json` shows it.
    """

    digest: str
    one_thread_ms: float
    all_cores_ms: float
    cuts_ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    origin: Origin = UNSTATED


@dataclass(frozen=True, slots=True)
class Power:
    """What the whole board draws: watts idle and while inferring, and microjoules a byte on the link."""

    idle_w: float
    busy_w: float
    radio_uj_per_byte: float
    origin: Origin = UNSTATED

    def drawn_mj(self, computed_ms: float, total_ms: float, link_bytes: float) -> float:
        """Millijoules of a while: busy for a part of it, idle for what is left, with so many bytes over the link."""
        idle_ms = max(0.0, total_ms - computed_ms)
        return self.busy_w * computed_ms + self.idle_w * idle_ms + self.radio_uj_per_byte * link_bytes / 1e3


@dataclass(frozen=True, slots=True)
class Profile:
    """One board. ``power.busy_w`` is its draw with all ``cores`` computing; see `power_with` for fewer.

    ``families`` are by engine, ``models`` by the bundle's name; both are only where somebody measured.
    """

    name: str
    title: str
    cores: int
    memory_mb: int
    engines: tuple[str, ...]
    speed: Speed
    power: Power
    origin: Origin = UNSTATED
    delegates: tuple[str, ...] = ()
    families: Mapping[str, EngineFamilies] = field(default_factory=dict)
    models: Mapping[str, ModelTimes] = field(default_factory=dict)

    def predict_ms(
        self, macs: int, layers: int, *, output_bytes: int, int8: bool = False, threads: int | None = None
    ) -> float:
        """Milliseconds of one inference of a model, or of any part of one, whatever its layers are.

        ms = macs / (gmacs · 10⁶) + output_bytes / (gbytes · 10⁶) + layers · layer_overhead_us / 1000

        ``output_bytes`` are the bytes its layers write: depthwise and elementwise layers are bound by memory,
        not by arithmetic. ``int8`` chooses the rates of quantised models. ``threads`` defaults to one on
        every core; between one and all, rates grow linearly.
        """
        one, every = self.speed.one_thread, self.speed.all_cores
        if int8:
            gmacs = self.between(one.gmacs_int8, every.gmacs_int8, threads)
            gbytes = self.between(one.gbytes_int8, every.gbytes_int8, threads)
        else:
            gmacs = self.between(one.gmacs_float32, every.gmacs_float32, threads)
            gbytes = self.between(one.gbytes_float32, every.gbytes_float32, threads)
        return macs / (gmacs * 1e6) + output_bytes / (gbytes * 1e6) + layers * self.speed.layer_overhead_us / 1e3

    def family_rates(
        self, engine: str, int8: bool, threads: int | None = None
    ) -> tuple[FamilyRates, float, float] | None:
        """Rates by family, microseconds a layer and a run, with this many threads; None where nobody measured them."""
        known = self.families.get(engine)
        if known is None:
            return None
        one, every = known.one_thread, known.all_cores
        low, high = (one.int8, every.int8) if int8 else (one.float32, every.float32)
        rates = [self.between(getattr(low, name), getattr(high, name), threads) for name in FAMILY_RATES]
        return (
            FamilyRates(*rates),
            self.between(one.layer_overhead_us, every.layer_overhead_us, threads),
            self.between(one.run_overhead_us, every.run_overhead_us, threads),
        )

    def model_times(self, digest: str) -> ModelTimes | None:
        """What was measured of this bundle here."""
        return next((model for model in self.models.values() if model.digest == digest), None)

    def between(self, one: float, every: float, threads: int | None) -> float:
        """A figure with this many threads, from those with one and with a thread on every core; linear."""
        if threads is None or self.cores == 1:
            return every
        return one + (every - one) * (min(max(threads, 1), self.cores) - 1) / (self.cores - 1)

    def power_with(self, threads: int) -> Power:
        """The board's power while an inference keeps this many cores busy: each adds the same share."""
        busy = min(max(threads, 1), self.cores) / self.cores
        watts = self.power.idle_w + (self.power.busy_w - self.power.idle_w) * busy
        return replace(self.power, busy_w=watts)

    @property
    def estimated(self) -> tuple[str, ...]:
        """The figures that are estimates, such as ``"power.busy_w"``."""
        tables: list[tuple[str, Origin, tuple[str, ...]]] = [
            ("", self.origin, ("cores", "memory_mb")),
            ("speed.", self.speed.origin, ("layer_overhead_us",)),
            ("speed.one_thread.", self.speed.one_thread.origin, RATES),
            ("speed.all_cores.", self.speed.all_cores.origin, RATES),
            ("power.", self.power.origin, POWER),
        ]
        for engine, known in self.families.items():
            tables.append((f"families.{engine}.one_thread.", known.one_thread.origin, FAMILIES))
            tables.append((f"families.{engine}.all_cores.", known.all_cores.origin, FAMILIES))
        tables += [(f"models.{name}.", model.origin, MODEL_TIMES) for name, model in self.models.items()]
        return tuple(
            prefix + figure
            for prefix, origin, figures in tables
            for figure in figures
            if origin.estimate or figure in origin.estimates
        )


FAMILIES = ("layer_overhead_us", "run_overhead_us", "float32", "int8")
MODEL_TIMES = ("one_thread_ms", "all_cores_ms", "cuts_ms")
