"""Profiles as TOML, read strictly: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from midstream.errors import ProfileError, printable
from midstream.profiles.board import (
    DELEGATES,
    ENGINES,
    FAMILY_RATES,
    POWER,
    RATES,
    EngineFamilies,
    Families,
    FamilyRates,
    ModelTimes,
    Origin,
    Power,
    Profile,
    Rates,
    Speed,
)

_THREADS = ("one_thread", "all_cores")
_DTYPES = ("float32", "int8")
_OVERHEADS = ("layer_overhead_us", "run_overhead_us")
_MODEL = ("one_thread_ms", "all_cores_ms", "cuts_ms")
_DIGEST = re.compile("[0-9a-f]{64}")
# Figures of all units, from what a clock cannot see to what no machine has: no sum or quotient of these overflows.
_LEAST, _MOST = 1e-9, 1e12
_MOST_COUNT = 10**9
_MOST_SHOWN = 200
_TOP = ("title", "engines", "delegates", "speed", "families", "models", "power")


def profile_from_toml(text: str, name: str, path: str) -> Profile:
    """Read a profile; ``path`` is for error messages. Raises ProfileError naming the file and the key."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"profile {path} is not TOML: {error}") from None
    top = _Table(path, "", document, ("cores", "memory_mb"), _TOP)
    speed = _Table(path, "speed.", top.table("speed"), ("layer_overhead_us",), _THREADS)
    power = _Table(path, "power.", top.table("power"), POWER)
    one, every = (_rates(path, key, speed.table(key)) for key in _THREADS)
    idle_w, busy_w, radio = (power.number(key) for key in POWER)
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
        engines=top.words("engines", ENGINES),
        speed=Speed(speed.number("layer_overhead_us"), one, every, speed.origin()),
        power=Power(idle_w, busy_w, radio, power.origin()),
        origin=top.origin(),
        delegates=top.words("delegates", DELEGATES) if "delegates" in document else (),
        families=_families(path, top.table("families")) if "families" in document else {},
        models=_models(path, top.table("models")) if "models" in document else {},
    )


def profile_to_toml(profile: Profile) -> str:
    """The text that `profile_from_toml` reads back into the same profile."""
    speed, power = profile.speed, profile.power
    parts = [
        f"title = {_quote(profile.title)}",
        f"cores = {profile.cores}",
        f"memory_mb = {profile.memory_mb}",
        f"engines = [{', '.join(_quote(engine) for engine in profile.engines)}]",
        *([f"delegates = [{', '.join(map(_quote, profile.delegates))}]"] if profile.delegates else []),
        *_origin_lines("", profile.origin),
        "\n[speed]",
        _figure(speed, "layer_overhead_us"),
        *_origin_lines("speed.", speed.origin),
    ]
    for key, rates in (("one_thread", speed.one_thread), ("all_cores", speed.all_cores)):
        parts.append(f"\n[speed.{key}]")
        parts += [_figure(rates, figure) for figure in RATES]
        parts += _origin_lines(f"speed.{key}.", rates.origin)
    for engine, known in profile.families.items():
        for key, families in (("one_thread", known.one_thread), ("all_cores", known.all_cores)):
            prefix = f"families.{engine}.{key}"
            parts += [f"\n[{prefix}]", *(_figure(families, overhead) for overhead in _OVERHEADS)]
            for dtype in _DTYPES:
                figures = ", ".join(_figure(getattr(families, dtype), rate) for rate in FAMILY_RATES)
                parts.append(f"{dtype} = {{ {figures} }}")
            parts += _origin_lines(f"{prefix}.", families.origin)
    for name, model in profile.models.items():
        prefix = f"models.{_quote(name)}"
        parts += [f"\n[{prefix}]", f"digest = {_quote(model.digest)}"]
        parts += [_figure(model, "one_thread_ms"), _figure(model, "all_cores_ms")]
        cuts = ", ".join(f"{_quote(cut)} = [{head!r}, {tail!r}]" for cut, (head, tail) in model.cuts_ms.items())
        parts += [f"cuts_ms = {{ {cuts} }}"] if cuts else []
        parts += _origin_lines(f"{prefix}.", model.origin)
    parts.append("\n[power]")
    parts += [_figure(power, figure) for figure in POWER]
    parts += _origin_lines("power.", power.origin)
    return "\n".join(parts) + "\n"


def nearest(word: str, known: tuple[str, ...]) -> str:
    """The end of a message that names what may have been meant."""
    close = get_close_matches(word, known, n=1, cutoff=0.0)
    return f"; nearest is {close[0]!r}" if close else ""


class _Table:
    """One table of a profile, refusing what it does not know."""

    def __init__(
        self,
        path: str,
        prefix: str,
        values: Mapping[str, Any],
        figures: tuple[str, ...],
        others: tuple[str, ...] = (),
        sourced: bool = True,
    ) -> None:
        self._path, self._prefix, self._values, self._figures = path, prefix, values, figures
        known = (*figures, *others, *(("source", "estimate", "reason", "estimates") if sourced else ()))
        self._refuse_unknown(prefix, values, known)

    def number(self, key: str) -> float:
        return self._above_zero(key, self._get(key))

    def pairs(self, key: str) -> dict[str, tuple[float, float]]:
        """A table of two numbers each."""
        found = {}
        for name, value in self.table(key).items():
            if not isinstance(value, list) or len(value) != 2:
                raise self._wrong(f"{key}.{name}", value, "two numbers, [head ms, tail ms]")
            head, tail = (self._above_zero(f"{key}.{name}", number) for number in value)
            found[name] = (head, tail)
        return found

    def count(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST_COUNT:
            raise self._wrong(key, value, f"a whole number above 0, at most {_MOST_COUNT}")
        return value

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, value, "a text")
        return value

    def digest(self, key: str) -> str:
        value = self.text(key)
        if not _DIGEST.fullmatch(value):
            raise self._wrong(key, value, "a bundle's digest, 64 hexadecimal digits")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        value = self._get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a table")
        return value

    def words(self, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not value or any(word not in known for word in value):
            raise self._wrong(key, value, f"a list of {', '.join(known[:-1])} and {known[-1]}")
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

    def _above_zero(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        if not _LEAST <= value <= _MOST:
            raise self._wrong(key, value, f"a number above 0, from {_LEAST:g} to {_MOST:g}")
        return float(value)

    def _wrong(self, key: str, value: Any, needed: str) -> ProfileError:
        return ProfileError(f"profile {self._path}: {self._prefix}{key} is {_shown(value)}, needed {needed}")

    def _refuse_unknown(self, prefix: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in values:
            if key not in known:
                raise ProfileError(
                    f"profile {self._path} has the unknown key {prefix}{key}{nearest(key, known)}; "
                    f"known here are {', '.join(known)}"
                )


def _shown(value: Any) -> str:
    """A value as Python writes it; Python refuses to write a number of thousands of digits."""
    try:
        return printable(repr(value), _MOST_SHOWN)
    except ValueError:
        return "a number of thousands of digits"


def _rates(path: str, key: str, values: Mapping[str, Any]) -> Rates:
    table = _Table(path, f"speed.{key}.", values, RATES)
    float32, int8, bytes32, bytes8 = (table.number(figure) for figure in RATES)
    return Rates(float32, int8, bytes32, bytes8, table.origin())


def _families(path: str, values: Mapping[str, Any]) -> dict[str, EngineFamilies]:
    table = _Table(path, "families.", values, (), ENGINES, sourced=False)
    found = {}
    for engine in values:
        prefix = f"families.{engine}."
        threads = _Table(path, prefix, table.table(engine), (), _THREADS, sourced=False)
        one, every = (_family_rates(path, f"{prefix}{key}.", threads.table(key)) for key in _THREADS)
        found[engine] = EngineFamilies(one, every)
    return found


def _family_rates(path: str, prefix: str, values: Mapping[str, Any]) -> Families:
    table = _Table(path, prefix, values, (*_OVERHEADS, *_DTYPES))
    rates = [_Table(path, f"{prefix}{dtype}.", table.table(dtype), FAMILY_RATES, sourced=False) for dtype in _DTYPES]
    float32, int8 = (FamilyRates(*(each.number(figure) for figure in FAMILY_RATES)) for each in rates)
    layer_us, run_us = (table.number(overhead) for overhead in _OVERHEADS)
    return Families(layer_us, run_us, float32, int8, table.origin())


def _models(path: str, values: Mapping[str, Any]) -> dict[str, ModelTimes]:
    found = {}
    for name in values:
        names = _Table(path, "models.", values, tuple(values), sourced=False)
        table = _Table(path, f"models.{name}.", names.table(name), _MODEL, ("digest",))
        one_ms, every_ms = table.number("one_thread_ms"), table.number("all_cores_ms")
        cuts = table.pairs("cuts_ms") if "cuts_ms" in values[name] else {}
        found[name] = ModelTimes(table.digest("digest"), one_ms, every_ms, cuts, table.origin())
    return found


def _figure(owner: object, name: str) -> str:
    return f"{name} = {float(getattr(owner, name))!r}"


def _quote(text: str) -> str:
    """A TOML basic string: as in JSON, but that DEL has to be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _origin_lines(prefix: str, origin: Origin) -> list[str]:
    lines = ["estimate = true", f"reason = {_quote(origin.text)}"] if origin.estimate else []
    lines = lines or [f"source = {_quote(origin.text)}"]
    if origin.estimates:
        lines.append(f"[{prefix}estimates]")
        lines += [f"{key} = {_quote(reason)}" for key, reason in origin.estimates.items()]
    return lines
