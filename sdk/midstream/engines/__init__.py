"""The inference runtimes behind one Protocol; which one runs is the manifest's choice, never a guess."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from midstream.allocator import tune_allocator
from midstream.engines.base import ACCELERATORS, Accelerator, Engine, Program, Session
from midstream.errors import MissingExtraError
from midstream.manifest import EngineName

__all__ = ["ACCELERATORS", "Accelerator", "Engine", "Program", "Session", "engine_for", "installed_engines"]

_EXTRAS: dict[EngineName, tuple[str, tuple[str, ...], str]] = {
    "litert": ("tflite", ("ai_edge_litert", "tflite_runtime"), "running a TFLite model"),
    "onnx": ("onnx", ("onnxruntime",), "running an ONNX model"),
}


def engine_for(name: EngineName) -> Engine:
    """The engine of this name; raises MissingExtraError where its runtime is not installed."""
    extra, packages, purpose = _EXTRAS[name]
    if not any(find_spec(package) for package in packages):
        raise MissingExtraError(packages[0].replace("_", "-"), extra, purpose)
    tune_allocator()
    return cast("Engine", import_module(f"midstream.engines.{name}").ENGINE)


@cache
def installed_engines() -> tuple[EngineName, ...]:
    """The engines whose runtime is installed here, LiteRT first; nothing is imported to find out."""
    return tuple(name for name, (_, packages, _) in _EXTRAS.items() if any(find_spec(package) for package in packages))
