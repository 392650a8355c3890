"""JSON that gateways publish about themselves, read strictly: sizes, depth, types and numbers are checked."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from midstream.communication.framing import MAX_FIGURE
from midstream.errors import WireError

MAX_BUNDLES = 64
MAX_CUTS = 256
MAX_NAME_CHARACTERS = 32
_MAX_CUT_CHARACTERS = 255

_DIGEST_HEX = re.compile(r"[0-9a-f]{64}")
_NOT_A_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"?|[^"\[\]{}]+', re.DOTALL)
_MAX_BRACKETS = 2 * (MAX_BUNDLES + 8)


def dumped(body: dict[str, Any]) -> bytes:
    """The JSON, as short as can be."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()


class Announcement:
    """One JSON object of at most ``max_bytes``, whose values are read one by one; ``what`` names it in errors.

    Raises WireError for whatever is not such an object, and so do the methods for what is not such a value.
    """

    def __init__(self, payload: bytes, what: str, max_bytes: int) -> None:
        self._what = what
        if len(payload) > max_bytes:
            raise WireError(f"{what} has {len(payload)} bytes; {max_bytes} are allowed")
        # Depth is bounded here, because the JSON parser descends on the C stack.
        if len(_NOT_A_BRACKET.sub(b"", payload)) > _MAX_BRACKETS:
            raise WireError(f"{what} has more than {_MAX_BRACKETS // 2} lists and objects; it is not a {what}")
        try:
            body = json.loads(str(payload, "utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise WireError(f"{what} of {len(payload)} bytes is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise WireError(f"{what} is a JSON {type(body).__name__}, needed an object")
        self._body: dict[str, Any] = body

    def __contains__(self, key: str) -> bool:
        return key in self._body

    def text(self, key: str) -> str:
        """A string."""
        return str(self._field(self._body, key, str))

    def items(self, key: str, most: int) -> list[Any]:
        """A list of at most so many."""
        return list(self._field(self._body, key, list, most))

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        """Strings, at most so many."""
        found = self.items(key, most)
        if not all(isinstance(value, str) for value in found):
            raise WireError(f"{self._what} has in {key!r} what is not a string")
        return tuple(found)

    def names(self, key: str, most: int) -> tuple[str, ...]:
        """Names of 1 to 32 characters."""
        return tuple(self._name(value, key) for value in self.items(key, most))

    def name(self, key: str) -> str:
        """A name of 1 to 32 characters."""
        return self._name(self._body.get(key), key)

    def digests(self, key: str) -> tuple[bytes, ...]:
        """Digests of bundles."""
        return tuple(bytes.fromhex(self._digest(value, key)) for value in self.items(key, MAX_BUNDLES))

    def names_of_bundles(self, key: str) -> dict[str, str]:
        """A name for each digest."""
        found = self._field(self._body, key, dict, MAX_BUNDLES)
        return {self._digest(digest, key): self._name(value, key) for digest, value in found.items()}

    def times_of_cuts(self, key: str) -> dict[str, dict[str, float]]:
        """Milliseconds for each cut of each digest."""
        tables = self._field(self._body, key, dict, MAX_BUNDLES)
        return {self._digest(digest, key): self._times(tables, digest, key) for digest in tables}

    def number(self, key: str, *, positive: bool = False) -> float:
        """A number from 0, or from 10⁻¹², to 10¹²."""
        return self._number(self._body.get(key), key, positive)

    def whole(self, key: str, most: int) -> int:
        """A whole number of 0 to ``most``."""
        return self.whole_number(self._body.get(key), key, most)

    def whole_number(self, value: object, key: str, most: int) -> int:
        """A value of that kind, found under this key."""
        if type(value) is not int or not 0 <= value <= most:
            raise WireError(f"{self._what} has in {key!r} what is not a number of 0…{most}")
        return value

    def _times(self, tables: dict[str, Any], digest: str, key: str) -> dict[str, float]:
        table = self._field(tables, digest, dict, MAX_CUTS)
        for cut in table:
            if not 0 < len(cut) <= _MAX_CUT_CHARACTERS:
                raise WireError(
                    f"{self._what} names a cut of {len(cut)} characters; 1 to {_MAX_CUT_CHARACTERS} are allowed"
                )
        return {cut: self._number(ms, f"{key} of cut {cut!r}", False) for cut, ms in table.items()}

    def _field(self, body: dict[str, Any], key: str, kind: type[Any], most: int | None = None) -> Any:
        value = body.get(key)
        if not isinstance(value, kind):
            raise WireError(f"{self._what} has {key!r} of type {type(value).__name__}, needed {kind.__name__}")
        if most is not None and len(value) > most:
            raise WireError(f"{self._what} has {len(value)} entries in {key!r}; {most} are allowed")
        return value

    def _name(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS:
            raise WireError(f"{self._what} has in {key!r} what is not a name of 1 to {MAX_NAME_CHARACTERS} characters")
        return value

    def _digest(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not _DIGEST_HEX.fullmatch(value):
            raise WireError(f"{self._what} has in {key!r} what is not a digest of 64 hexadecimal digits")
        return value

    def _number(self, value: object, key: str, positive: bool) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WireError(f"{self._what} has {key} of type {type(value).__name__}, needed a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (1 / MAX_FIGURE if positive else 0) <= number <= MAX_FIGURE:
            raise WireError(f"{self._what} has {key} = {number}, which is out of range")
        return number


def microseconds(ms: float) -> float:
    """Times are sent to the microsecond."""
    return round(ms, 3)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
