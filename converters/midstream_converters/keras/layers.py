"""Layers in a Keras model's configuration whose code is not Keras' own.

A configuration is what Keras writes into the file: nested objects with ``class_name``, ``config`` and, since Keras 3,
``module`` and ``registered_name``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from midstream.errors import printable


def lambda_layers(config: Any) -> list[str]:
    """The names of layers that are Python code in the file."""
    return [_name(part) for part in _parts(config) if part["class_name"] == "Lambda"]


def custom_layers(config: Any) -> list[str]:
    """Name and class of layers that Keras does not bring, as far as the configuration tells."""
    return [f"{_name(part)} ({printable(part['class_name'], 100)})" for part in _parts(config) if _is_custom(part)]


def _is_custom(part: dict[str, Any]) -> bool:
    # How HDF5 files of any release name a registered class.
    if ">" in part["class_name"]:
        return True
    module = part.get("module")
    if isinstance(module, str):
        return module.partition(".")[0] != "keras"
    return "module" in part and part.get("registered_name") is not None


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    waiting = [config]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str):
                yield value
            waiting[:0] = value.values()
        elif isinstance(value, list):
            waiting[:0] = value


def _name(part: dict[str, Any]) -> str:
    config = part.get("config")
    name = part.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return printable(name if isinstance(name, str) else part["class_name"], 100)


def read_config(text: str | bytes) -> Any:
    """The configuration, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
