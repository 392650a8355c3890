"""The small programs that are timed, for each engine and family of layers; benchmarks/make_programs.py made them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from midstream.archive import Archive
from midstream.engines import Program, Session, engine_for
from midstream.manifest import EngineName, Graph, SliceRecord
from midstream.profiles import DType
from midstream.sealed import graph_from_bytes
from midstream.tensors import Tensor

NAMES = ("conv-deep", "conv-wide", "depthwise", "dense", "elementwise", "small", "single")
DTYPES: tuple[DType, ...] = ("float32", "int8")
_ARCHIVE = "programs.tar.xz"
_MAX_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class SmallProgram:
    """A chain of layers on one value: ``inputs`` holds it, random from 0 to 1, or quantised to the same.

    ``dtype`` is what the layers compute with; quantised ONNX programs take and give floats.
    """

    name: str
    engine: EngineName
    dtype: DType
    program: Program
    graph: Graph
    inputs: dict[str, Tensor]

    def load(self, threads: int) -> Session:
        """Load it in its engine; raises BundleError where the runtime refuses it."""
        return engine_for(self.engine).load(self.program, threads)


@contextmanager
def small_programs() -> Iterator[Programs]:
    """The archive of programs, for as long as it is needed."""
    with as_file(files("midstream_profiles").joinpath(_ARCHIVE)) as path:
        yield Programs(path)


class Programs:
    """The archive of programs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive = Archive(path, _MAX_BYTES)

    def read(self, name: str, engine: EngineName, dtype: DType) -> SmallProgram:
        """One of `NAMES`, for this engine."""
        stem = f"{name}-{engine}-{dtype}"
        content = self._archive.read(f"{stem}.program", _MAX_BYTES)
        facts = json.loads(self._archive.read(f"{stem}.json", _MAX_BYTES))
        graph = graph_from_bytes(self._archive.read(f"{stem}.graph", _MAX_BYTES), f"{self._path}:{stem}.graph")
        record = SliceRecord(stem, len(content), ("x",), ("y",))
        random = np.random.default_rng(0).random(facts["input"], np.float32)
        value = random if facts["dtype"] == "float32" else (random * 127).astype(np.int8)
        return SmallProgram(name, engine, dtype, Program(record, content, self._path), graph, {"x": value})
