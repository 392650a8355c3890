"""Whether a flatbuffer stays inside its file, and unpacks into no more than a file of its size can hold.

Requires: nothing; the bytes may be anything. Ensures: every table, vector and string that the schema can reach lies in
the file, so that unpacking them all takes time and memory in proportion to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from midstream.errors import ModelError
from midstream_converters.tflite.layout import LAYOUTS, Behind, Field, Layout, Numbers, Tables, Text, Union

# Builders share equal strings, vectors and tables; real models do so for a small part of the file.
MAX_SHARING = 2
MAX_TABLES = 250_000
_SMALL_BYTES = 64 << 10

_U16, _U32, _I32, _U64 = (struct.Struct(code).unpack_from for code in ("<H", "<I", "<i", "<Q"))
_NO_FIELDS: Layout = {}


class _DamagedError(Exception):
    """What is wrong with the bytes, and where."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a vtable says of a table: its bytes, and where in it which fields lie."""

    size: int
    fields: tuple[tuple[int, Field, int], ...]
    """Where the field lies, what it is, and where the number lies that belongs to it; 0 where that is left out."""


def check_bounds(data: bytes, path: str) -> None:
    """Raise ModelError naming the first part of a TFLite file that lies outside it, or is used too often."""
    try:
        _Walk(data).run()
    except _DamagedError as error:
        raise ModelError(
            f"{path} is not a whole TFLite model: {error}; it is truncated or damaged, fetch or export it again"
        ) from None


class _Walk:
    """One pass over everything that the root reaches, each part as often as it is reached."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._end = len(data)
        self._left = MAX_SHARING * len(data) + _SMALL_BYTES
        self._tables_left = MAX_TABLES
        self._shapes: dict[tuple[str, int], _Shape] = {}

    def run(self) -> None:
        if self._end < 8:
            raise _DamagedError(f"it has {self._end} bytes")
        pending = [("Model", self._target(0))]
        while pending:
            pending.extend(self._table(*pending.pop()))

    def _table(self, name: str, at: int) -> Iterator[tuple[str, int]]:
        """Check one table; gives those it points to."""
        data = self._data
        shape = self._shape(name, at)
        if at + shape.size > self._end:
            raise _DamagedError(f"the {name} at byte {at} ends behind the file")
        self._spend(shape.size + 4)
        for where, field, partner in shape.fields:
            where += at
            if isinstance(field, Numbers):
                _, count = self._vector(where, field.item_bytes)
                if field.at_most is not None and count > field.at_most:
                    raise _DamagedError(f"the {name} at byte {at} has a shape of {count} axes")
            elif isinstance(field, Tables) and field.many:
                start, count = self._vector(where, 4)
                self._count(count)
                offsets = struct.unpack_from(f"<{count}I", data, start)
                yield from ((field.name, self._inside(start + 4 * i + step)) for i, step in enumerate(offsets))
            elif isinstance(field, Tables):
                self._count(1)
                yield field.name, self._target(where)
            elif isinstance(field, Text):
                start, count = self._vector(where, 1)
                if start + count >= self._end or data[start + count]:
                    raise _DamagedError(f"the string at byte {start} has no end")
            elif isinstance(field, Union):
                choice = data[at + partner] if partner else 0
                if choice:
                    self._count(1)
                    yield field.choices.get(choice, "?"), self._target(where)
            else:
                self._behind(_U64(data, where)[0], _U64(data, at + partner)[0] if partner else 0)

    def _shape(self, name: str, at: int) -> _Shape:
        if at % 4 or not 4 <= at <= self._end - 4:
            raise _DamagedError(f"the {name} at byte {at} does not lie in it")
        vtable = at - _I32(self._data, at)[0]
        shape = self._shapes.get((name, vtable))
        if shape is None:
            shape = self._shapes[name, vtable] = self._read_shape(name, vtable)
        return shape

    def _read_shape(self, name: str, vtable: int) -> _Shape:
        if vtable % 2 or not 0 <= vtable <= self._end - 4:
            raise _DamagedError(f"the layout at byte {vtable} of a {name} does not lie in it")
        length, size = _U16(self._data, vtable)[0], _U16(self._data, vtable + 2)[0]
        if length % 2 or length < 4 or vtable + length > self._end or size < 4:
            raise _DamagedError(f"the layout at byte {vtable} of a {name} has {length} bytes, its table {size}")
        places = struct.unpack_from(f"<{length // 2 - 2}H", self._data, vtable + 4)
        fields = []
        for slot, field in LAYOUTS.get(name, _NO_FIELDS).items():
            where = places[slot] if slot < len(places) else 0
            if not where:
                continue
            partner_slot = slot + 1 if isinstance(field, Behind) else slot - 1
            paired = isinstance(field, Behind | Union) and 0 <= partner_slot < len(places)
            partner = places[partner_slot] if paired else 0
            width = 8 if isinstance(field, Behind) else 4
            if where + width > size or where % 4 or partner + (8 if isinstance(field, Behind) else 1) > size:
                raise _DamagedError(f"field {slot} of the {name} laid out at byte {vtable} does not lie in it")
            fields.append((where, field, partner))
        return _Shape(size, tuple(fields))

    def _vector(self, where: int, item_bytes: int) -> tuple[int, int]:
        """Where the items of a vector start, and how many there are."""
        at = self._target(where)
        start, count = at + 4, _U32(self._data, at)[0]
        if start + count * item_bytes > self._end:
            raise _DamagedError(f"the vector of {count} items at byte {at} ends behind the file")
        self._spend(4 + count * item_bytes)
        return start, count

    def _target(self, where: int) -> int:
        return self._inside(where + _U32(self._data, where)[0])

    def _inside(self, at: int) -> int:
        if at % 4 or not 4 <= at <= self._end - 4:
            raise _DamagedError(f"something points to byte {at} of {self._end}")
        return at

    def _behind(self, offset: int, size: int) -> None:
        """Data behind the flatbuffer; offsets of 0 and 1 say that there is none."""
        if offset > 1:
            if offset + size > self._end:
                raise _DamagedError(f"the {size} bytes of data at byte {offset} end behind the file")
            self._spend(size)

    def _count(self, tables: int) -> None:
        self._tables_left -= tables
        if self._tables_left < 0:
            raise _DamagedError(f"it has more than {MAX_TABLES} tables")

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _DamagedError(f"its parts are used so often that they would fill its {self._end} bytes many times")
