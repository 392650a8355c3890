"""LiteRT as an engine: the slice's flatbuffer and the weights it uses, laid end to end in memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np

from midstream.engines.base import Accelerator, Engine, Program, Session
from midstream.errors import AcceleratorError, BundleError, InputError
from midstream.manifest import WEIGHT_ALIGNMENT, SliceRecord
from midstream.tensors import Tensor, Tensors

# tflite-runtime is what an older board has; ai-edge-litert is its maintained successor.
_PACKAGE = "ai_edge_litert" if find_spec("ai_edge_litert") else "tflite_runtime"
_PIECE_BYTES = 1 << 20
# What Coral's runtime is called on each system (coral.ai/docs/edgetpu/tflite-python).
_EDGETPU_LIBRARY = {"darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}.get(sys.platform, "libedgetpu.so.1")
_interpreter: Any = import_module(f"{_PACKAGE}.interpreter")


class LiteRtSession:
    """One loaded flatbuffer."""

    def __init__(self, load: Callable[[], Any], record: SliceRecord) -> None:
        self._load = load
        self._start_anew()
        interpreter = self._interpreter
        # What variables and tables hold belongs to the interpreter: only a new one starts anew.
        kinds = {operator["op_name"] for operator in interpreter._get_ops_details()}
        self._has_resources = not kinds.isdisjoint(("VAR_HANDLE", "HASHTABLE", "CALL_ONCE"))
        # Tensors are matched by position: names in a model need not be unique.
        self._inputs = list(zip(record.inputs, interpreter.get_input_details(), strict=True))
        self._outputs = [
            (name, detail["index"])
            for name, detail in zip(record.outputs, interpreter.get_output_details(), strict=True)
        ]

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Outputs by name; inputs of dynamic size are resized. Raises InputError where the runtime refuses them."""
        try:
            self._fit(inputs)
            for name, detail in self._inputs:
                self._interpreter.set_tensor(detail["index"], inputs[name])
            self._ran = True
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"LiteRT refuses these inputs: {_first_line(error)}") from None
        return {name: np.asarray(self._interpreter.get_tensor(index)) for name, index in self._outputs}

    def _fit(self, inputs: Mapping[str, Tensor]) -> None:
        for position, (name, detail) in enumerate(self._inputs):
            shape = inputs[name].shape
            if shape != self._shapes[position]:
                self._interpreter.resize_tensor_input(detail["index"], shape, strict=False)
                self._shapes[position] = shape
                self._allocated = False
        if not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True

    def reset(self) -> None:
        """Set every variable tensor to its first value."""
        if self._has_resources and self._ran:
            self._start_anew()
        elif self._allocated:
            try:
                self._interpreter.reset_all_variables()
            except RuntimeError:
                # A subgraph that nothing calls has variables too, but no memory for them: the runtime gives up there.
                self._start_anew()

    def _start_anew(self) -> None:
        self._interpreter: Any = self._load()
        self._shapes = [tuple(int(size) for size in each["shape"]) for each in self._interpreter.get_input_details()]
        self._allocated = self._ran = False

    def close(self) -> None:
        """Drop the interpreter and the model bytes it points into."""
        del self._interpreter, self._load


class LiteRtEngine:
    """LiteRT with the XNNPACK kernels its package chooses."""

    name = "litert"

    def version(self) -> str:
        """Package and release."""
        package = _PACKAGE.replace("_", "-")
        return f"{package} {metadata.version(package)}"

    def require(self, accelerator: Accelerator) -> None:
        """Raise AcceleratorError where LiteRT has no delegate for it here."""
        _delegates(accelerator)

    def load(self, program: Program, threads: int = 1, accelerator: Accelerator = "cpu") -> Session:
        """Load a flatbuffer whose buffers lie behind it, at the offsets it names."""
        delegates = _delegates(accelerator)
        try:
            content = laid_out(program)
            return LiteRtSession(
                lambda: _interpreter.Interpreter(
                    model_content=content, num_threads=threads, experimental_delegates=delegates
                ),
                program.record,
            )
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"LiteRT cannot load slice {program.record.member!r}: {_first_line(error)}") from None


def _delegates(accelerator: Accelerator) -> list[Any]:
    if accelerator == "cpu":
        return []
    if accelerator != "edgetpu":
        raise AcceleratorError(f"a LiteRT bundle runs on cpu, edgetpu, not on {accelerator!r}")
    try:
        # LiteRT's own attempt at a library that is not there ends in an exception that nobody can catch.
        ctypes.CDLL(_EDGETPU_LIBRARY)
        return [_interpreter.load_delegate(_EDGETPU_LIBRARY)]
    except (ValueError, OSError) as error:
        raise AcceleratorError(
            f"the Edge TPU cannot be used: {_EDGETPU_LIBRARY} does not load ({_first_line(error)}); "
            "install libedgetpu1-std from coral.ai/software, connect the device, or run on the cpu"
        ) from None


def laid_out(program: Program) -> bytes:
    """The program and its weights as one piece of memory, filled without a second copy on the way."""
    if not program.record.weights:
        return program.content
    content = BytesIO()
    content.write(program.content)
    try:
        with program.weights_path.open("rb") as weights:
            for offset, length in program.record.weights:
                weights.seek(offset)
                for start in range(0, length, _PIECE_BYTES):
                    content.write(weights.read(min(_PIECE_BYTES, length - start)))
                content.write(bytes(-length % WEIGHT_ALIGNMENT))
    except OSError as error:
        raise BundleError(f"cannot read {program.weights_path}: {error.strerror}") from None
    padded = sum(length + -length % WEIGHT_ALIGNMENT for _, length in program.record.weights)
    if content.tell() != len(program.content) + padded:
        raise BundleError(f"{program.weights_path} ends early: the bundle is damaged")
    return content.getvalue()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


ENGINE: Engine = LiteRtEngine()
