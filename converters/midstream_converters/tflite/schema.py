"""The TFLite schema, from the package that ships it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from midstream.errors import MissingExtraError

for _module, _package in (("ai_edge_litert", "ai-edge-litert"), ("flatbuffers", "flatbuffers")):
    if not find_spec(_module):
        raise MissingExtraError(_package, "convert", "converting a TFLite model")

IDENTIFIER = b"TFL3"

schema: Any = import_module("ai_edge_litert.schema_py_generated")
flatbuffers: Any = import_module("flatbuffers")
