"""The Edge TPU: which heads it can run whole, and Coral's compiler where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from midstream.engines import Program
from midstream.errors import ModelError, printable
from midstream.files import regular_file
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

        Raises ModelError where the compiler fails.
        """
        from midstream.engines.litert import laid_out
        from midstream_converters.tflite.plain import with_weights_inside

        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "slice.tflite"
            # The compiler is older than buffers behind the flatbuffer, and would see weights of no bytes.
            source.write_bytes(with_weights_inside(laid_out(program)))
            report = _run([self.path, "--show_operations", "--out_dir", folder, str(source)])
            if not _TOTAL.search(report) or _LEFT.search(report):
                return None
            return _checked(source.with_name("slice_edgetpu.tflite"), source.read_bytes(), program.record.member)


def find_compiler() -> Compiler | None:
    """The compiler on PATH, None where there is none. Raises ModelError where it does not answer."""
    path = shutil.which(COMPILER)
    return None if path is None else Compiler(path, _run([path, "--version"]).strip())


def _checked(compiled: Path, source: bytes, member: str) -> bytes:
    """What the compiler has written: a model that takes and gives what its source does. Raises ModelError."""
    from midstream_converters.tflite.ends import ends_of

    try:
        with regular_file(compiled, follow_links=False) as file:
            content = file.read(_MAX_COMPILED_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"{COMPILER} says that it has compiled {member}, and what it wrote cannot be read: {error.strerror}; "
            "convert without --edgetpu"
        ) from None
    if len(content) > _MAX_COMPILED_BYTES:
        raise ModelError(f"{COMPILER} makes more than {_MAX_COMPILED_BYTES} bytes of {member}")
    try:
        same = ends_of(content) == ends_of(source)
    except ModelError:
        same = False
    if not same:
        raise ModelError(
            f"{COMPILER} makes no TFLite model of {member} that takes and gives the same tensors; "
            "convert without --edgetpu"
        )
    return content


def _run(command: list[str]) -> str:
    """What a run of the compiler says; both of its streams, as it uses them alike.

    Coral's compiler is a script that starts others: all of them end with it, or with us.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, process_group=0
            )
        except OSError as error:
            raise ModelError(f"{command[0]} cannot be run: {error.strerror}; convert without --edgetpu") from None
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise ModelError(
                f"{command[0]} has not ended after {_SECONDS:g} s and was stopped; convert without --edgetpu"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - _MAX_REPORT_BYTES))
        report = said.read().decode(errors="replace")
    if process.returncode:
        last = next((line for line in reversed(report.splitlines()) if line.strip()), "it says nothing")
        raise ModelError(
            f"{command[0]} fails with exit code {process.returncode}: {printable(last)}; convert without --edgetpu"
        )
    return report
