"""Damage a model: single fields of what it says. Pure but for the source of randomness."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import onnx

from hostile.damage import INTEGERS
from hostile.models import packed

_LONG_INTEGERS = (*INTEGERS, 10**10, 10**18, (1 << 63) - 1, -(1 << 63))
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))


def edited_tflite(data: bytes, random: Random) -> bytes | None:
    """A well-formed flatbuffer in which a few fields hold something else; None where it cannot be written."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    for _ in range(random.choice((1, 1, 2, 3))):
        owner, name = random.choice(_fields(model))
        setattr(owner, name, _other(getattr(owner, name), random))
    try:
        return packed(model)
    except Exception:  # noqa: BLE001  what cannot be written is of no interest
        return None


def _fields(owner: Any) -> list[tuple[Any, str]]:
    found = []
    for name, value in vars(owner).items():
        found.append((owner, name))
        for item in value if isinstance(value, list) else [value]:
            if type(item).__module__ == schema.__name__:
                found.extend(_fields(item))
    return found


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice(INTEGERS)
    if isinstance(value, float):
        return random.choice(_FLOATS)
    if isinstance(value, np.ndarray):
        return _other_array(value, random)
    if isinstance(value, list) and value:
        items = list(value)
        at = random.randrange(len(items))
        change = random.randrange(4)
        if change == 0:
            del items[at]
        elif change == 1:
            items.append(items[at])
        elif change == 2:
            random.shuffle(items)
        elif isinstance(items[at], int):
            items[at] = random.choice(INTEGERS)
        return items
    return value if random.random() < 0.5 else None


def _other_array(array: Any, random: Random) -> Any:
    array = array.copy()
    change = random.randrange(5)
    if change == 0 or not len(array):
        return array[: len(array) // 2]
    if change == 1:
        return np.concatenate([array, array])
    at = random.randrange(len(array))
    if array.dtype.kind == "f":
        array[at] = random.choice(_FLOATS)
    else:
        limits = np.iinfo(array.dtype)
        array[at] = min(max(random.choice(INTEGERS), limits.min), limits.max)
    return array


def edited_onnx(model: onnx.ModelProto, random: Random) -> bytes | None:
    """A well-formed message in which a few fields hold something else; None where it cannot be written."""
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    for _ in range(random.choice((1, 1, 2, 3))):
        messages = [message for message in _messages(edited) if message.ListFields()]
        message = random.choice(messages)
        field, value = random.choice(message.ListFields())
        try:
            _edit(message, field, value, messages, random)
        except (ValueError, TypeError, OverflowError):
            continue
    try:
        return bytes(edited.SerializeToString())
    except Exception:  # noqa: BLE001  what cannot be written is of no interest
        return None


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if _repeated(value) else [value]:
                found.extend(_messages(item))
    return found


def _repeated(value: Any) -> bool:
    return hasattr(value, "extend")


def _edit(message: Any, field: Any, value: Any, messages: list[Any], random: Random) -> None:
    if field.message_type is not None:
        # A copy of its own: a message must not be copied into a part of itself.
        other = copy.deepcopy(random.choice([other for other in messages if other.DESCRIPTOR is field.message_type]))
        if not _repeated(value):
            if random.random() < 0.3:
                message.ClearField(field.name)
            else:
                value.CopyFrom(other)
            return
        change = random.randrange(4)
        at = random.randrange(len(value))
        if change == 0:
            del value[at]
        elif change == 1:
            value.add().CopyFrom(other)
        elif change == 2:
            value.reverse()
        else:
            value[at].CopyFrom(other)
        return
    if not _repeated(value):
        setattr(message, field.name, _other_scalar(field, value, messages, random))
        return
    change = random.randrange(4)
    at = random.randrange(len(value))
    if change == 0:
        del value[at]
    elif change == 1:
        value.append(_other_scalar(field, value[at], messages, random))
    else:
        value[at] = _other_scalar(field, value[at], messages, random)


def _other_scalar(field: Any, value: Any, messages: list[Any], random: Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        if isinstance(value, bytes):
            return random.choice((b"", value[: len(value) // 2], value * 2, bytes(len(value)), b"\xff" * len(value)))
        names = [name for other in messages for name in _names(other)]
        return random.choice(names) if names and random.random() < 0.8 else ""
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return random.choice(_FLOATS)
    return random.choice(_LONG_INTEGERS)


def _names(message: Any) -> list[str]:
    if isinstance(message, onnx.NodeProto):
        return [*message.input, *message.output, message.op_type]
    return [message.name] if isinstance(message, onnx.TensorProto | onnx.ValueInfoProto) else []
