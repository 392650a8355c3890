"""One measurement of the machine: programs of every family, power, a bundle if there is one, and its profile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from statistics import median

from midstream.bundle import Bundle
from midstream.engines import Session, engine_for
from midstream.errors import BundleError, InputError, MissingExtraError
from midstream.manifest import EngineName
from midstream.measuring.bundles import measure_bundle
from midstream.measuring.machine import Machine, load_average, this_machine
from midstream.measuring.power import busy_watts, copied, idle_watts, measured
from midstream.measuring.power_sensors import PowerSensor, power_sensor
from midstream.measuring.programs import DTYPES, NAMES, Programs, SmallProgram, small_programs
from midstream.measuring.rates import family_rates, overheads_us, two_rates, work_of
from midstream.measuring.timing import Run, Timing, measure
from midstream.profiles import (
    DType,
    EngineFamilies,
    Families,
    FamilyRates,
    Origin,
    Power,
    Profile,
    Rates,
    Speed,
    load_profile,
)
from midstream.sensing.board import Board, throttled

ENGINE_NAMES: tuple[EngineName, ...] = ("litert", "onnx")
_PLAIN = ("conv-deep", "conv-wide", "depthwise", "elementwise")
_BUSY_LOAD = 0.3
_WIDE_SPREAD, _DRIFT, _SLOW_CLOCK, _HOT_C, _GAIN = 0.2, 0.1, 0.9, 80.0, 0.95

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds for the programs, for a bundle, and for each of an idle and a busy machine; ``title`` None: its own."""

    title: str | None = None
    programs_s: float = 25.0
    bundle_s: float = 35.0
    power_s: float = 4.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The profile, what may have disturbed it, and how long it all took.

    ``timings`` are those of the programs, by names such as ``"conv-deep litert float32 one_thread"``.
    """

    profile: Profile
    notes: tuple[str, ...]
    seconds: float
    timings: Mapping[str, Timing] = field(default_factory=dict)


def measure_machine(bundle: Bundle | None, settings: Settings, name: str, progress: Progress) -> Measured:
    """Measure this machine, and a bundle on it.

    Raises MissingExtraError where no engine is installed or the bundle's is not, BundleError where it cannot be run.
    """
    start = time.perf_counter()
    machine = this_machine()
    engines = installed_engines(None if bundle is None else bundle.manifest.engine)
    notes = _before(machine)
    nearest = load_profile(machine.nearest)
    sensor = power_sensor()
    if sensor is not None:
        progress(f"reading power: {sensor.name}")
    idle_w = None if sensor is None else idle_watts(sensor, settings.power_s)
    with small_programs() as programs, ExitStack() as stack:
        runs, loaded, refused = _loaded(programs, engines, machine.cores, stack)
        notes += refused
        progress(f"timing {len(runs)} small programs with {', '.join(sorted({key.engine for key in runs}))}")
        timings = measure({key.text: run for key, run in runs.items()}, settings.programs_s)
        ran = tuple(engine for engine in engines if any(key.engine == engine for key in runs))
        families: dict[str, EngineFamilies] = {
            engine: _families(engine, loaded, timings, machine.cores) for engine in ran
        }
        busiest = next(run for key, run in runs.items() if key.name == "conv-deep" and key.threads == "all_cores")
        power, more = _power(sensor, idle_w, busiest, nearest, settings.power_s)
        notes += more
    models = {}
    if bundle is not None:
        progress(f"timing {bundle.name}: the whole model, and the heads and tails of {len(bundle.cuts)} cuts")
        # The name of a file may be no Unicode, which a profile is.
        key = bundle.name.encode("utf-8", "replace").decode("utf-8")
        models[key], more = measure_bundle(bundle, machine.cores, settings.bundle_s)
        notes += more
    notes += _after(timings) + _no_gain(families)
    facts = f"counted on this machine, {_today()}"
    guess = {} if machine.memory_mb else {"memory_mb": f"the system does not say; copied from {nearest.name}"}
    profile = Profile(
        name=name,
        title=settings.title or machine.title,
        cores=machine.cores,
        memory_mb=machine.memory_mb or nearest.memory_mb,
        engines=ran,
        speed=_speed(ran[0], loaded, timings, families[ran[0]]),
        power=power,
        origin=Origin(facts, estimates=guess),
        delegates=("xnnpack",) if "litert" in ran else (),
        families=families,
        models=models,
    )
    return Measured(profile, tuple(dict.fromkeys(notes)), time.perf_counter() - start, timings)


def installed_engines(needed: EngineName | None = None) -> tuple[EngineName, ...]:
    """The engines there are. Raises MissingExtraError where ``needed`` is not, and where there is none at all."""
    if needed is not None:
        engine_for(needed)
    found = []
    for name in ENGINE_NAMES:
        try:
            engine_for(name)
        except MissingExtraError:
            continue
        found.append(name)
    if not found:
        raise MissingExtraError(
            "ai-edge-litert", "tflite", "measuring a machine (onnxruntime, the extra [onnx], will do)"
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Key:
    """One program with one number of threads."""

    name: str
    engine: EngineName
    dtype: DType
    threads: str

    @property
    def text(self) -> str:
        return f"{self.name} {self.engine} {self.dtype} {self.threads}"


def _loaded(
    programs: Programs, engines: Sequence[EngineName], cores: int, stack: ExitStack
) -> tuple[dict[_Key, Run], dict[tuple[str, EngineName, DType], SmallProgram], list[str]]:
    """What can be run, the programs, and a note for each engine that refuses one of them and is left out."""
    runs: dict[_Key, Run] = {}
    loaded: dict[tuple[str, EngineName, DType], SmallProgram] = {}
    refused: list[str] = []
    for engine in engines:
        own: dict[_Key, Run] = {}
        try:
            for dtype in DTYPES:
                for name in NAMES:
                    program = loaded[name, engine, dtype] = programs.read(name, engine, dtype)
                    for threads, count in (("one_thread", 1), ("all_cores", cores)):
                        session: Session = stack.enter_context(closing(program.load(count)))
                        session.run(program.inputs)
                        own[_Key(name, engine, dtype, threads)] = partial(session.run, program.inputs)
        except (BundleError, InputError) as error:
            refused.append(f"{engine_for(engine).version()} is left out, it does not run a program: {error}")
            last = error
            continue
        runs |= own
    if not runs:
        raise last
    return runs, loaded, refused


def _families(
    engine: EngineName,
    loaded: Mapping[tuple[str, EngineName, DType], SmallProgram],
    timings: Mapping[str, Timing],
    cores: int,
) -> EngineFamilies:
    def rates(threads: str, dtype: DType) -> tuple[FamilyRates, float, float]:
        works = {name: work_of(loaded[name, engine, dtype].graph, dtype == "int8") for name in NAMES}
        times = {name: timings[_Key(name, engine, dtype, threads).text].ms for name in NAMES}
        layer_us, run_us = overheads_us(times, works)
        return family_rates(times, works, layer_us, run_us), layer_us, run_us

    def both(threads: str, count: int) -> Families:
        float32, layer_us, run_us = rates(threads, "float32")
        rounds = timings[_Key("small", engine, "float32", threads).text].rounds
        source = (
            f"midstream profile, {_today()}, {engine_for(engine).version()}, "
            f"{count} thread{'s' * (count > 1)}: medians of {rounds} interleaved rounds of small programs"
        )
        return Families(layer_us, run_us, float32, rates(threads, "int8")[0], Origin(source))

    return EngineFamilies(both("one_thread", 1), both("all_cores", cores))


def _speed(
    engine: EngineName,
    loaded: Mapping[tuple[str, EngineName, DType], SmallProgram],
    timings: Mapping[str, Timing],
    families: EngineFamilies,
) -> Speed:
    """The two terms for all layers alike, fitted to the programs in the first engine."""

    def fit(threads: str, dtype: DType) -> tuple[float, float]:
        parts = []
        for name in _PLAIN:
            layers = loaded[name, engine, dtype].graph.layers
            macs, written = sum(layer.macs for layer in layers), sum(layer.output_bytes for layer in layers)
            parts.append((macs, written, timings[_Key(name, engine, dtype, threads).text].ms))
        return two_rates(parts)

    def rates(threads: str, known: Families) -> Rates:
        float32, int8 = fit(threads, "float32"), fit(threads, "int8")
        source = f"{known.origin.text}; fitted to all families together"
        return Rates(float32[0], int8[0], float32[1], int8[1], Origin(source))

    one = families.one_thread
    every = rates("all_cores", families.all_cores)
    return Speed(one.layer_overhead_us, rates("one_thread", one), every, Origin(one.origin.text))


def _power(
    sensor: PowerSensor | None, idle_w: float | None, busiest: Run, nearest: Profile, seconds: float
) -> tuple[Power, list[str]]:
    """The machine's power, and a note where its sensor is of no use."""
    if sensor is None:
        return copied(nearest, "this machine has no power sensor"), []
    busy_w = busy_watts(sensor, busiest, seconds)
    if not idle_w or not busy_w:
        why = f"{sensor.name} gave nothing that a board draws"
        return copied(nearest, why), [why]
    source = (
        f"midstream profile, {_today()}: {sensor.name}, {seconds:g} s idle and {seconds:g} s with all cores computing"
    )
    notes = [] if busy_w > idle_w else [f"{sensor.name} gave {busy_w:.2f} W busy and {idle_w:.2f} W idle"]
    return measured(sensor, idle_w, busy_w, nearest, source), notes


def _no_gain(families: Mapping[str, EngineFamilies]) -> list[str]:
    """Engines that a thread on every core did not help."""
    shares = {
        engine: known.all_cores.float32.conv_gmacs / known.one_thread.float32.conv_gmacs
        for engine, known in families.items()
    }
    return [
        f"{engine} computes convolutions at {share:.2f} × the speed of one thread with a thread on every core"
        for engine, share in shares.items()
        if share < _GAIN
    ]


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _before(machine: Machine) -> list[str]:
    """What disturbs a measurement before it begins."""
    load = load_average()
    if load is not None and load > _BUSY_LOAD * machine.cores:
        return [
            f"the machine was busy before: load average {load:.1f} on {machine.cores} cores; figures may be too slow"
        ]
    return []


def _after(timings: Mapping[str, Timing]) -> list[str]:
    """What disturbed it: repeats that differ, a machine that slowed down, heat."""
    notes = []
    spread = median(timing.spread for timing in timings.values())
    if spread > _WIDE_SPREAD:
        notes.append(f"repeats spread by {spread:.0%}: other work on this machine, or a clock that changes")
    drift = median(timing.drift for timing in timings.values())
    if drift > _DRIFT:
        notes.append(f"the last repeats took {drift:.0%} more than the first: the machine slowed down")
    board = Board()
    clock, hottest = board.clock_share(), board.temperature_c()
    if clock is not None and clock < _SLOW_CLOCK:
        notes.append(f"the clock was at {clock:.0%} of its highest right after measuring")
    if hottest is not None and hottest >= _HOT_C:
        notes.append(f"the machine was at {hottest:.0f} °C: cool it and measure again")
    return notes + [f"the firmware reports: {state}" for state in throttled() or ()]
