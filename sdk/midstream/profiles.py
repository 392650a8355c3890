"""What a board can do: how fast it runs layers, what it draws, and where each of these figures comes from.

A profile is one TOML file; ten are shipped in ``midstream_profiles``. Every table names the ``source`` of its
figures, or says ``estimate = true`` with a ``reason``; a single figure that differs from its table is
listed with its reason under ``estimates``. ::

    title = "Raspberry Pi 4 Model B"
    cores = 4
    memory_mb = 4096
    engines = ["litert", "onnx"]
    source = "..."

    [speed]                      # layer_overhead_us: microseconds a layer costs whatever its size
    [speed.one_thread]           # gmacs_float32, gmacs_int8: 10⁹ multiply-accumulates a second
    [speed.all_cores]            # gbytes_float32, gbytes_int8: 10⁹ bytes of layer outputs a second
    [power]                      # idle_w, busy_w (all cores computing), radio_uj_per_byte
    [power.estimates]
    radio_uj_per_byte = "..."
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from midstream.errors import ProfileError
from midstream.files import read_at_most

PACKAGE = "midstream_profiles"
MAX_PROFILE_BYTES = 1 << 20
_RATES = ("gmacs_float32", "gmacs_int8", "gbytes_float32", "gbytes_int8")
_POWER = ("idle_w", "busy_w", "radio_uj_per_byte")
_ENGINES = ("litert", "onnx")


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
class Power:
    """What the whole board draws: watts idle and while inferring, and microjoules a byte on the link."""

    idle_w: float
    busy_w: float
    radio_uj_per_byte: float
    origin: Origin = UNSTATED


@dataclass(frozen=True, slots=True)
class Profile:
    """One board. ``power.busy_w`` is its draw with all ``cores`` computing; see `power_with` for fewer."""

    name: str
    title: str
    cores: int
    memory_mb: int
    engines: tuple[str, ...]
    speed: Speed
    power: Power
    origin: Origin = UNSTATED

    def predict_ms(
        self, macs: int, layers: int, *, output_bytes: int, int8: bool = False, threads: int | None = None
    ) -> float:
        """Milliseconds of one inference of a model, or of any part of one.

        ms = macs / (gmacs · 10⁶) + output_bytes / (gbytes · 10⁶) + layers · layer_overhead_us / 1000

        ``output_bytes`` are the bytes its layers write: depthwise and elementwise layers are bound by memory,
        not by arithmetic. ``int8`` chooses the rates of quantised models. ``threads`` defaults to one on
        every core; between one and all, rates grow linearly.
        """
        one, every = self.speed.one_thread, self.speed.all_cores
        share = _parallel_share(threads, self.cores)
        if int8:
            gmacs = _between(one.gmacs_int8, every.gmacs_int8, share)
            gbytes = _between(one.gbytes_int8, every.gbytes_int8, share)
        else:
            gmacs = _between(one.gmacs_float32, every.gmacs_float32, share)
            gbytes = _between(one.gbytes_float32, every.gbytes_float32, share)
        return macs / (gmacs * 1e6) + output_bytes / (gbytes * 1e6) + layers * self.speed.layer_overhead_us / 1e3

    def power_with(self, threads: int) -> Power:
        """The board's power while an inference keeps this many cores busy: each adds the same share."""
        busy = min(max(threads, 1), self.cores) / self.cores
        watts = self.power.idle_w + (self.power.busy_w - self.power.idle_w) * busy
        return replace(self.power, busy_w=watts)

    @property
    def estimated(self) -> tuple[str, ...]:
        """The figures that are estimates, such as ``"power.busy_w"``."""
        tables: tuple[tuple[str, Origin, tuple[str, ...]], ...] = (
            ("", self.origin, ("cores", "memory_mb")),
            ("speed.", self.speed.origin, ("layer_overhead_us",)),
            ("speed.one_thread.", self.speed.one_thread.origin, _RATES),
            ("speed.all_cores.", self.speed.all_cores.origin, _RATES),
            ("power.", self.power.origin, _POWER),
        )
        return tuple(
            prefix + figure
            for prefix, origin, figures in tables
            for figure in figures
            if origin.estimate or figure in origin.estimates
        )


def profile_names() -> tuple[str, ...]:
    """The names of the shipped profiles, sorted."""
    found = (entry.name for entry in files(PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by its name, or any profile by the path of its ``.toml`` file.

    Raises ProfileError where there is none, and where a key is unknown, missing or out of range.
    """
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        path = Path(name_or_path)
        try:
            text = str(read_at_most(path, MAX_PROFILE_BYTES), "utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ProfileError(f"cannot read profile {name_or_path}: {why}") from None
        return profile_from_toml(text, path.stem, name_or_path)
    known = profile_names()
    if name_or_path not in known:
        raise ProfileError(
            f"no profile is named {name_or_path!r}{_nearest(name_or_path, known)}; "
            f"shipped are {', '.join(known)}, and the path of a .toml file is taken too"
        )
    text = files(PACKAGE).joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    return profile_from_toml(text, name_or_path, f"{name_or_path}.toml")


def profile_from_toml(text: str, name: str, path: str) -> Profile:
    """Read a profile; ``path`` is for error messages. Raises ProfileError naming the file and the key."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ProfileError(f"profile {path} is not TOML: {error}") from None
    top = _Table(path, "", document, ("cores", "memory_mb"), ("title", "engines", "speed", "power"))
    speed = _Table(path, "speed.", top.table("speed"), ("layer_overhead_us",), ("one_thread", "all_cores"))
    power = _Table(path, "power.", top.table("power"), _POWER)
    one, every = (_rates(path, key, speed.table(key)) for key in ("one_thread", "all_cores"))
    idle_w, busy_w, radio = (power.number(key) for key in _POWER)
    if busy_w < idle_w:
        raise ProfileError(
            f"profile {path}: power.busy_w is {busy_w:g}, below power.idle_w = {idle_w:g}; "
            "both are watts of the whole board"
        )
    return Profile(
        name=name,
        title=top.text("title"),
        cores=top.count("cores"),
        memory_mb=top.count("memory_mb"),
        engines=top.engines(),
        speed=Speed(speed.number("layer_overhead_us"), one, every, speed.origin()),
        power=Power(idle_w, busy_w, radio, power.origin()),
        origin=top.origin(),
    )


def profile_to_toml(profile: Profile) -> str:
    """The text that `profile_from_toml` reads back into the same profile."""
    speed, power = profile.speed, profile.power
    parts = [
        f"title = {_quote(profile.title)}",
        f"cores = {profile.cores}",
        f"memory_mb = {profile.memory_mb}",
        f"engines = [{', '.join(_quote(engine) for engine in profile.engines)}]",
        *_origin_lines("", profile.origin),
        "\n[speed]",
        f"layer_overhead_us = {float(speed.layer_overhead_us)!r}",
        *_origin_lines("speed.", speed.origin),
    ]
    for key, rates in (("one_thread", speed.one_thread), ("all_cores", speed.all_cores)):
        parts.append(f"\n[speed.{key}]")
        parts += [f"{figure} = {float(getattr(rates, figure))!r}" for figure in _RATES]
        parts += _origin_lines(f"speed.{key}.", rates.origin)
    parts.append("\n[power]")
    parts += [f"{figure} = {float(getattr(power, figure))!r}" for figure in _POWER]
    parts += _origin_lines("power.", power.origin)
    return "\n".join(parts) + "\n"


class _Table:
    """One table of a profile, refusing what it does not know."""

    def __init__(
        self,
        path: str,
        prefix: str,
        values: Mapping[str, Any],
        figures: tuple[str, ...],
        others: tuple[str, ...] = (),
    ) -> None:
        self._path, self._prefix, self._values, self._figures = path, prefix, values, figures
        known = (*figures, *others, "source", "estimate", "reason", "estimates")
        self._refuse_unknown(prefix, values, known)

    def number(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        if not math.isfinite(value) or value <= 0:
            raise self._wrong(key, value, "a number above 0")
        return float(value)

    def count(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._wrong(key, value, "a whole number above 0")
        return value

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, value, "a text")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        value = self._get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a table")
        return value

    def engines(self) -> tuple[str, ...]:
        value = self._get("engines")
        if not isinstance(value, list) or not value or any(engine not in _ENGINES for engine in value):
            raise self._wrong("engines", value, f"a list of {' and '.join(_ENGINES)}")
        return tuple(value)

    def origin(self) -> Origin:
        """The table's ``source``, or ``estimate = true`` with its ``reason``, and the exceptions."""
        exceptions = self.table("estimates") if "estimates" in self._values else {}
        self._refuse_unknown(f"{self._prefix}estimates.", exceptions, self._figures)
        for key, reason in exceptions.items():
            if not isinstance(reason, str) or not reason.strip():
                raise self._wrong(f"estimates.{key}", reason, "the reason, a text")
        estimate = self._values.get("estimate", False)
        if not isinstance(estimate, bool):
            raise self._wrong("estimate", estimate, "true or false")
        if estimate == ("source" in self._values) or (not estimate and "reason" in self._values):
            raise ProfileError(
                f"profile {self._path}: the figures of [{self._prefix.rstrip('.') or 'the top'}] need either "
                'source = "...", or estimate = true with reason = "..."'
            )
        return Origin(self.text("reason" if estimate else "source"), estimate, dict(exceptions))

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise ProfileError(f"profile {self._path} has no {self._prefix}{key}; add it")
        return self._values[key]

    def _wrong(self, key: str, value: Any, needed: str) -> ProfileError:
        return ProfileError(f"profile {self._path}: {self._prefix}{key} is {value!r}, needed {needed}")

    def _refuse_unknown(self, prefix: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in values:
            if key not in known:
                raise ProfileError(
                    f"profile {self._path} has the unknown key {prefix}{key}{_nearest(key, known)}; "
                    f"known here are {', '.join(known)}"
                )


def _rates(path: str, key: str, values: Mapping[str, Any]) -> Rates:
    table = _Table(path, f"speed.{key}.", values, _RATES)
    float32, int8, bytes32, bytes8 = (table.number(figure) for figure in _RATES)
    return Rates(float32, int8, bytes32, bytes8, table.origin())


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; nearest is {close[0]!r}" if close else ""


def _parallel_share(threads: int | None, cores: int) -> float:
    if threads is None or cores == 1:
        return 1.0
    return (min(max(threads, 1), cores) - 1) / (cores - 1)


def _between(one: float, every: float, share: float) -> float:
    return one + (every - one) * share


def _quote(text: str) -> str:
    return json.dumps(text)


def _origin_lines(prefix: str, origin: Origin) -> list[str]:
    lines = ["estimate = true", f"reason = {_quote(origin.text)}"] if origin.estimate else []
    lines = lines or [f"source = {_quote(origin.text)}"]
    if origin.estimates:
        lines.append(f"[{prefix}estimates]")
        lines += [f"{key} = {_quote(reason)}" for key, reason in origin.estimates.items()]
    return lines
