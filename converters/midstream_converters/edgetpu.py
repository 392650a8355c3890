"""The Edge TPU: which heads it can run whole, and Coral's compiler where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from midstream.engines import Program
from midstream.errors import ModelError, printable
from midstream.files import regular_file
from midstream.tensors import TensorSpec
from midstream_converters.graph import ModelGraph

COMPILER = "edgetpu_compiler"
# The compiler gives up by itself after 180 s.
_SECONDS = 240.0
_MAX_COMPILED_BYTES = 256 << 20
_MAX_REPORT_BYTES = 1 << 20
# Table 1 of "TensorFlow models on the Edge TPU", coral.ai/docs/edgetpu/models-intro: quantised tensors, sizes fixed at
# compile time. Its limits on single operators are the compiler's to judge.
_OPERATORS = frozenset(
    (
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "EXPAND_DIMS",
        "FULLY_CONNECTED",
        "L2_NORMALIZATION",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "PACK",
        "PAD",
        "PRELU",
        "QUANTIZE",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "RSQRT",
        "SLICE",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SQUARED_DIFFERENCE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    )
)
# The counts by machine are there only where something is left to the processor.
_TOTAL = re.compile(r"^Total number of operations: ([1-9]\d*)$", re.MULTILINE)
_LEFT = re.compile(r"^Number of operations that will run on CPU: [1-9]\d*$", re.MULTILINE)


def maps_whole(graph: ModelGraph, layers: Iterable[int]) -> bool:
    """Whether all of these layers are operators that the Edge TPU has, on 8-bit quantised tensors of fixed sizes."""
    for index in layers:
        node = graph.nodes[index]
        specs = [graph.values[value].spec for value in (*node.inputs, *node.outputs)]
        if node.static or node.stateful or node.op not in _OPERATORS:
            return False
        if any(spec is None or spec.dtype.itemsize != 1 or spec.scale is None or None in spec.shape for spec in specs):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Compiler:
    """Coral's compiler, and what it says its version is."""

    path: str
    version: str

    def compile(self, program: Program) -> bytes | None:
        """The program compiled; None where a part of it would stay on the processor.

        Raises ModelError where the compiler fails, or what it writes takes or gives other tensors.
        """
        from midstream.engines.litert import laid_out
        from midstream_converters.tflite.plain import with_weights_inside

        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "slice.tflite"
            # The compiler is older than buffers behind the flatbuffer, and would see weights of no bytes.
            plain = with_weights_inside(laid_out(program))
            source.write_bytes(plain)
            report = _run([self.path, "--show_operations", "--out_dir", folder, str(source)])
            if not _TOTAL.search(report) or _LEFT.search(report):
                return None
            made = _written(source.with_name("slice_edgetpu.tflite"), program.record.member)
            _check_ends(plain, made, f"what {COMPILER} makes of {program.record.member}")
            return made


def _written(compiled: Path, member: str) -> bytes:
    try:
        with regular_file(compiled, follow_links=False) as file:
            content = file.read(_MAX_COMPILED_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"{COMPILER} says that it has compiled {member}, and what it wrote cannot be read: {error.strerror}"
        ) from None
    if len(content) > _MAX_COMPILED_BYTES:
        raise ModelError(f"{COMPILER} makes more than {_MAX_COMPILED_BYTES} bytes of {member}")
    return content


def _check_ends(plain: bytes, compiled: bytes, name: str) -> None:
    """Raise ModelError where a compiled model's inputs or outputs are of other types, sizes or scales."""
    from midstream_converters.tflite.read import read_tflite

    want, got = read_tflite(plain, "the head"), read_tflite(compiled, name)
    for kind, wanted, given in (("input", want.inputs, got.inputs), ("output", want.outputs, got.outputs)):
        if len(wanted) != len(given):
            raise ModelError(f"{name} has {len(given)} {kind}s, and the head has {len(wanted)}")
        for number, (spec, other) in enumerate(zip(wanted, given, strict=True)):
            if replace(other, name=spec.name) != spec:
                raise ModelError(f"{name} has {_said(other)} as {kind} {number}, and the head has {_said(spec)}")


def _said(spec: TensorSpec) -> str:
    quantised = "" if spec.scale is None else f" of scale {spec.scale:g} and zero point {spec.zero_point}"
    return f"{spec.dtype.name}[{', '.join('?' if size is None else str(size) for size in spec.shape)}]{quantised}"


def find_compiler() -> Compiler | None:
    """The compiler on PATH, None where there is none. Raises ModelError where it does not answer."""
    path = shutil.which(COMPILER)
    if path is None:
        return None
    try:
        return Compiler(path, _run([path, "--version"]).strip())
    except ModelError as error:
        raise ModelError(f"{error}; convert without --edgetpu") from None


def _run(command: list[str]) -> str:
    """What a run of the compiler says; both of its streams, as it uses them alike."""
    try:
        with tempfile.TemporaryFile() as said:
            # A session of its own: what the compiler starts itself ends with it.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                process.wait(_SECONDS)
            except BaseException:
                _kill(process)
                raise
            said.seek(max(0, said.seek(0, os.SEEK_END) - _MAX_REPORT_BYTES))
            report = said.read().decode(errors="replace")
    except OSError as error:
        raise ModelError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ModelError(f"{command[0]} does not end within {_SECONDS:g} s and was stopped") from None
    if process.returncode:
        last = next((line for line in reversed(report.splitlines()) if line.strip()), "it says nothing")
        raise ModelError(f"{command[0]} fails with exit code {process.returncode}: {printable(last)}")
    return report


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
