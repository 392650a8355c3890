"""Whether protobuf bytes parse into no more objects than a real model has.

Requires: nothing; the bytes may be anything. Ensures: parsing them takes some hundred megabytes more than they have. A
message of two bytes becomes an object of a hundred, so a file of some megabytes could otherwise fill a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midstream.errors import ModelError
from midstream_converters.onnx.proto import onnx

MAX_ITEMS = 2_000_000
"""Messages and strings together."""
MAX_NUMBERS = 10_000_000
"""Numbers that have a field each."""
MAX_PACKED_BYTES = 32 << 20
"""Integers of variable length that follow each other in one field; they grow eightfold and more."""
MAX_DEPTH = 100
"""As many levels as protobuf itself reads."""

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_PACKED: Mapping[int, Any] = {}
_KNOWN: dict[str, dict[int, Any]] = {}


def check_wire(data: bytes, path: Path) -> None:
    """Raise ModelError where these bytes are no protobuf message, or one of more items than any model has."""
    try:
        problem = _problem(data)
    except IndexError:
        problem = "it ends early"
    if problem:
        raise ModelError(f"{path} is not a whole ONNX model: {problem}; it is truncated, damaged or of another kind")


def _problem(data: bytes) -> str | None:
    fields = _fields(onnx.ModelProto.DESCRIPTOR)
    at, end, items, numbers, packed = 0, len(data), 0, 0, 0
    outer: list[tuple[int, Mapping[int, Any]]] = []
    while True:
        if at >= end:
            if at > end:
                return "a part of it is longer than the whole"
            if not outer:
                return None
            end, fields = outer.pop()
            continue
        key = data[at]
        at += 1
        if key >= 128:
            key, at = _varint(data, at - 1)
        kind = key & 7
        if kind == _BYTES:
            length = data[at]
            at += 1
            if length >= 128:
                length, at = _varint(data, at - 1)
            if at + length > end:
                return "a part of it is longer than the whole"
            items += 1
            if items > MAX_ITEMS:
                return f"it holds more than {MAX_ITEMS} items"
            inner = fields.get(key >> 3)
            if inner is None:
                at += length
            elif inner is _PACKED:
                at += length
                packed += length
                if packed > MAX_PACKED_BYTES:
                    return f"it spells out more than {MAX_PACKED_BYTES >> 20} MiB of numbers, store them as raw data"
            else:
                outer.append((end, fields))
                if len(outer) > MAX_DEPTH:
                    return f"it is nested more than {MAX_DEPTH} levels deep"
                end, fields = at + length, inner
            continue
        numbers += 1
        if numbers > MAX_NUMBERS:
            return f"it spells out more than {MAX_NUMBERS} numbers, store them as raw data"
        if kind == _VARINT:
            while data[at] >= 128:
                at += 1
            at += 1
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if kind == _EIGHT_BYTES else 4
        else:
            return f"its byte {at - 1} starts no field"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            return 1 << 63, at


def _fields(descriptor: Any) -> Mapping[int, Any]:
    """What lies in a message's fields, by number: another message's fields, or packed integers."""
    known = _KNOWN.get(descriptor.full_name)
    if known is None:
        known = _KNOWN[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                known[field.number] = _fields(field.message_type)
            elif field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
                known[field.number] = _PACKED
    return known
