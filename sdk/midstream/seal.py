"""Canonical JSON under a SHA-256 of its own, and values that are checked as they are read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from midstream.errors import BundleError

T = TypeVar("T")

CONVERT = "convert the model again"
_MAX_MS = 1e9
_LEAST_WHOLE_MS = 1e-6


def canonical(value: Any) -> bytes:
    """Keys sorted, no white space, ASCII, no NaN or infinity: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def seal(body: dict[str, Any]) -> bytes:
    """The file that holds this body, its ``format`` among it."""
    return canonical({"body": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}) + b"\n"


def unseal(data: bytes, path: str, version: int, remedy: str = CONVERT) -> dict[str, Any]:
    """The body of a sealed file of this format version. Only the canonical bytes are taken: any flipped byte is seen.

    Raises BundleError naming the file and the ``remedy``.
    """
    damaged = f"{path} is damaged: it does not hold what its own SHA-256 says; {remedy}"
    try:
        document = json.loads(data)
        body = document["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(damaged) from None
    if not isinstance(body, dict):
        raise BundleError(damaged)
    found = body.get("format")
    if type(found) is int and found != version:
        raise BundleError(
            f"{path} has bundle format version {found}; this midstream reads version {version}; "
            f"install the release that wrote it, or with this one {remedy}"
        )
    try:
        intact = seal(body) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact or type(found) is not int:
        raise BundleError(damaged)
    return body


def guard(path: str, build: Callable[[], T], remedy: str = CONVERT) -> T:
    """What ``build`` makes of a body; raises BundleError where it is not what it should be."""
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise BundleError(f"{path} does not read as this part of a bundle: {error!r}; {remedy}") from None


def text(value: Any) -> str:
    """The text that it is; raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list; raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(map(text, value))


def count(value: Any) -> int:
    """A whole number of 0 or more, in 63 bits; raises ValueError. JSON's true is none."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a whole number of 0 or more, below 2⁶³")
    return value


def truth(value: Any) -> bool:
    """True or false; raises TypeError."""
    if type(value) is not bool:
        raise TypeError(f"{value!r} is not a truth value")
    return value


def one_of(value: Any, known: Sequence[T]) -> T:
    """The one of these that it is; raises ValueError."""
    for each in known:
        if value == each:
            return each
    raise ValueError(f"{value!r} is not one of {', '.join(map(str, known))}")


def number(value: Any) -> float:
    """A finite number of 0 or more; raises ValueError."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a finite number of 0 or more")
    return float(value)


def milliseconds(value: Any) -> float:
    """A time that a run may take; with numbers as large, sums and products of them stay finite. Raises ValueError."""
    if number(value) > _MAX_MS:
        raise ValueError(f"{value!r} is no number of milliseconds")
    return float(value)


def whole_milliseconds(value: Any) -> float:
    """That of a whole model, which is divided by; raises ValueError."""
    if milliseconds(value) < _LEAST_WHOLE_MS:
        raise ValueError(f"the whole model takes {value} ms")
    return float(value)


def share(value: Any) -> float:
    """A number from 0 to 1; raises ValueError."""
    if number(value) > 1:
        raise ValueError(f"{value!r} is not a share")
    return float(value)


def any_number(value: Any) -> float:
    """A finite number; raises ValueError."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def packed(values: NDArray[np.float32]) -> str:
    """Numbers in single precision, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def unpacked(value: Any) -> NDArray[np.float32]:
    """The reverse of `packed`, in one dimension; raises ValueError where it is none, or a number is not finite."""
    try:
        data = base64.b64decode(text(value).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("numbers are not in base64") from None
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("there are numbers that are not finite")
    return values
