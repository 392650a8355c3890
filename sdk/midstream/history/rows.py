"""A `Usage` as a row of the table, and back: numbers by name become arrays, whose names are kept once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from midstream.allocation.usage import Outcome, Usage

# What is longer is cut off, so that no peer can make a row large.
_MOST_TEXT = 255
_MOST_REASON = 500
_MOST_NUMBERS = 64
_MOST_NAME = 64
_MOST_ID_BYTES = 64
_MOST_PLAN = 2000
_MOST_WHOLE = (1 << 63) - 1
_DIGEST_LETTERS = 64

Names = tuple[str, ...]
# Unlike json.loads it looks for no white space, of which there is none.
_decode = json.JSONDecoder().raw_decode


def row_of(usage: Usage, number_of: Callable[[Names], int | None]) -> tuple[object, ...]:
    """The columns of a row; ``number_of`` gives a set of names its number, None where it is to be written out.

    Raises ValueError, TypeError or OverflowError where it is none that can be kept.
    """
    if not math.isfinite(usage.time_s):
        raise ValueError(f"it came at {usage.time_s}")
    return (
        float(usage.time_s),
        bytes(usage.request_id[:_MOST_ID_BYTES]),
        _text(usage.machine),
        _text(usage.device_id),
        _digest(usage.bundle),
        _text(usage.cut),
        _text(usage.codec),
        str(usage.outcome),
        _text(usage.next_cut),
        _whole(usage.priority),
        _number(usage.deadline_ms),
        _number(usage.score),
        _numbers(usage.features, number_of),
        _plan(usage.plan),
        _numbers(usage.cpu_ms, number_of),
        _numbers(usage.timings_ms, number_of),
        None if usage.peak_bytes is None else _whole(usage.peak_bytes),
        _whole(usage.received_bytes),
        _whole(usage.sent_bytes),
        _whole(usage.batch),
        _number(usage.latency_ms),
        _text(usage.reason, _MOST_REASON),
    )


def usage_of(row: Sequence[Any], names_of: Callable[[int], Names]) -> Usage:
    """The reverse of `row_of`; raises ValueError, TypeError or KeyError where it is damaged.

    Numbers by name have seven digits; one that was none (NaN) is one again, and so is an infinite one. A score,
    deadline or latency that was not finite is None, or NaN where there is always one.
    """
    return Usage(
        time_s=float(row[0]),
        request_id=bytes(row[1]),
        machine=str(row[2]),
        device_id=str(row[3]),
        bundle=row[4].hex() if isinstance(row[4], bytes) else str(row[4]),
        cut=str(row[5]),
        codec=str(row[6]),
        outcome=Outcome(row[7]),
        next_cut=str(row[8]),
        priority=int(row[9]),
        deadline_ms=_optional(row[10]),
        score=_optional(row[11]),
        features=_by_name(row[12], names_of),
        plan={} if row[13] is None else _object(json.loads(row[13])),
        cpu_ms=_by_name(row[14], names_of),
        timings_ms=_by_name(row[15], names_of),
        peak_bytes=None if row[16] is None else int(row[16]),
        received_bytes=int(row[17]),
        sent_bytes=int(row[18]),
        batch=int(row[19]),
        latency_ms=math.nan if row[20] is None else float(row[20]),
        reason=str(row[21]),
    )


def names_to_json(names: Names) -> str:
    """How a set of names is kept."""
    return json.dumps(names, separators=(",", ":"))


def names_from_json(text: str) -> Names:
    """The reverse of `names_to_json`; raises ValueError or TypeError."""
    return tuple(map(str, json.loads(text)))


def plain(value: object) -> object:
    """The same in what JSON has, null for a number that is none; raises TypeError where that is not possible."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"a plan has {value!r}")


def _text(value: str, most: int = _MOST_TEXT) -> str:
    cut = value[:most]
    # Half of a pair is no text to SQLite.
    return cut if cut.isascii() else cut.encode(errors="replace").decode()


def _digest(text: str) -> bytes | str:
    """Half as long, where it is hexadecimal as always."""
    if len(text) == _DIGEST_LETTERS:
        try:
            digest = bytes.fromhex(text)
        except ValueError:
            return _text(text)
        if digest.hex() == text:
            return digest
    return _text(text)


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _whole(value: int) -> int:
    return min(int(value), _MOST_WHOLE)


def _numbers(values: Mapping[str, float], number_of: Callable[[Names], int | None]) -> str | None:
    """[number of the names, value, …], or {name: value, …}."""
    if not values:
        return None
    names, numbers = tuple(values), tuple(values.values())
    if len(names) > _MOST_NUMBERS or max(map(len, names)) > _MOST_NAME:
        names, numbers = tuple(name[:_MOST_NAME] for name in names[:_MOST_NUMBERS]), numbers[:_MOST_NUMBERS]
    number = number_of(names)
    if number is None:
        pairs = zip(names, numbers, strict=True)
        return "{" + ",".join(f"{json.dumps(name)}:{_in_json(value)}" for name, value in pairs) + "}"
    text = _format(len(names)) % (number, *numbers)
    # Of what is written of numbers, only NaN and infinities have an n.
    return f"[{number},{','.join(map(_in_json, numbers))}]" if "n" in text else text


@cache
def _format(count: int) -> str:
    return "[%d" + ",%.7g" * count + "]"


def _in_json(value: float) -> str:
    """JSON has no NaN and no infinity: null, and what every reader takes for one."""
    if math.isfinite(value):
        return f"{float(value):.7g}"
    return "null" if math.isnan(value) else "9e999" if value > 0 else "-9e999"


def _by_name(text: str | None, names_of: Callable[[int], Names]) -> dict[str, float]:
    if text is None:
        return {}
    value, end = _decode(text)
    if end != len(text):
        raise ValueError(f"{text[end:]!r} follows it")
    if isinstance(value, list):
        names, numbers = names_of(value[0]), value[1:]
    else:
        names, numbers = tuple(_object(value)), list(value.values())
    if None in numbers:
        numbers = [math.nan if number is None else number for number in numbers]
    return dict(zip(names, map(float, numbers), strict=True))


def _plan(plan: Mapping[str, object]) -> str | None:
    if not plan:
        return None
    text = json.dumps(plain(dict(plan)), separators=(",", ":"))
    return text if len(text) <= _MOST_PLAN else None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
