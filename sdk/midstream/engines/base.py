"""What midstream needs of an inference runtime: load a slice, run it, start over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from midstream.manifest import SliceRecord
from midstream.tensors import Tensor, Tensors

Accelerator = Literal["cpu", "cuda", "tensorrt", "edgetpu"]
ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)


@dataclass(frozen=True, slots=True)
class Program:
    """A slice's program, and the file its weights lie in."""

    record: SliceRecord
    content: bytes
    weights_path: Path


class Session(Protocol):
    """One loaded slice. Not thread-safe: a session belongs to one caller at a time."""

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Outputs by name. The inputs were checked; state carries over from the run before."""

    def reset(self) -> None:
        """Forget the state of variable tensors."""

    def close(self) -> None:
        """Give the memory back."""


class Engine(Protocol):
    """An inference runtime."""

    name: str

    def version(self) -> str:
        """Package and release, such as ``"onnxruntime 1.28.0"``."""

    def require(self, accelerator: Accelerator) -> None:
        """Raise AcceleratorError, with the remedy, where this runtime cannot use it here."""

    def load(self, program: Program, threads: int = 1, accelerator: Accelerator = "cpu") -> Session:
        """Load a slice; raises BundleError where the runtime refuses it, AcceleratorError as `require`."""
