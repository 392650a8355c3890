"""ONNX Runtime as an engine; weights are read from the bundle's own file, which the runtime maps."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from midstream.engines.base import Accelerator, Engine, Program, Session
from midstream.errors import AcceleratorError, BundleError, InputError
from midstream.tensors import Tensor, Tensors

_log = logging.getLogger("midstream.engines")

# At least so many profiled runs, and at most so many, for about this long.
_PROFILED_RUNS = (5, 50)
_PROFILED_S = 0.5
_KERNEL = "_kernel_time"
_PLACEMENT = "session.record_ep_graph_assignment_info"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


# In the order in which each takes what it can of the layers.
_PROVIDERS: Mapping[Accelerator, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
# CUDA rounds the factors of float32 products to TF32's 10 bits where it may.
_PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}
_REMEDIES: Mapping[Accelerator, str] = {
    "cuda": "install onnxruntime-gpu in place of onnxruntime, on a Jetson NVIDIA's own wheel",
    "tensorrt": "install TensorRT, and onnxruntime-gpu in place of onnxruntime, on a Jetson NVIDIA's own wheel",
}


class OnnxSession:
    """One loaded graph."""

    def __init__(self, session: ort.InferenceSession, outputs: tuple[str, ...]) -> None:
        self._session = session
        self._outputs = list(outputs)

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Outputs by name; raises InputError where the runtime refuses the values."""
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # noqa: BLE001  onnxruntime raises classes of its own binding, all of them Exception
            raise InputError(f"onnxruntime refuses these inputs: {_first_line(error)}") from None
        return dict(zip(self._outputs, values, strict=True))

    def reset(self) -> None:
        """ONNX keeps no state between runs: recurrent state is an input and an output."""

    def close(self) -> None:
        """Drop the runtime's session."""
        del self._session


class OnnxEngine:
    """ONNX Runtime on the CPU provider."""

    name = "onnx"

    def version(self) -> str:
        """Package and release."""
        return f"onnxruntime {ort.__version__}"

    def require(self, accelerator: Accelerator) -> None:
        """Raise AcceleratorError where onnxruntime has no provider for it here."""
        if accelerator not in _PROVIDERS:
            raise AcceleratorError(f"an ONNX bundle runs on {', '.join(_PROVIDERS)}, not on {accelerator!r}")
        wanted, there = _PROVIDERS[accelerator][0], ort.get_available_providers()
        if wanted not in there:
            raise AcceleratorError(
                f"{self.version()} has no {wanted} here, only {', '.join(there)}; {_REMEDIES[accelerator]}, "
                "or run on the cpu"
            )

    def load(self, program: Program, threads: int = 1, accelerator: Accelerator = "cpu") -> Session:
        """Load a graph whose external data lies beside ``program.weights_path``."""
        self.require(accelerator)
        providers, options = _PROVIDERS[accelerator], _options(program, threads)
        if accelerator == "cpu":
            return OnnxSession(_open(program, options), program.record.outputs)
        options.add_session_config_entry(_PLACEMENT, "1")
        try:
            session = _open(program, options, providers)
        except BundleError as error:
            # TensorRT's provider raises where its libraries are missing, CUDA's says so on the runtime's log only.
            raise AcceleratorError(f"{error}; {_REMEDIES[accelerator]}, or run on the cpu") from None
        if session.get_providers()[0] != providers[0]:
            raise AcceleratorError(
                f"{self.version()} knows {providers[0]} but cannot start it; {_REMEDIES[accelerator]}, "
                "or run on the cpu"
            )
        _check_placement(session, program.record.member, providers)
        return OnnxSession(session, program.record.outputs)


def _check_placement(session: Any, member: str, providers: Sequence[str]) -> None:
    """Raise AcceleratorError where a provider that runs takes no layer of a slice.

    Layers left to the processor are logged. Releases before 1.24 do not tell which layer is where.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    parts = session.get_provider_graph_assignment_info()
    placed = [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]
    left = Counter(op for provider, op in placed if provider == providers[-1])
    if placed and left.total() == len(placed):
        raise AcceleratorError(
            f"{providers[0]} takes none of the {len(placed)} layers of slice {member!r}: {', '.join(left)}; "
            "run on the cpu"
        )
    if left:
        message = "%d of %d layers of slice %r run on the processor: %s does not take %s"
        _log.warning(message, left.total(), len(placed), member, providers[0], ", ".join(left))


def write_optimised(program: Program, target: Path) -> None:
    """Write the graph that the runtime makes of a slice, without its processor's own layouts, as an ONNX file.

    Raises BundleError where the runtime refuses the slice, or its weights are too large for one file.
    """
    options = _options(program, 1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    _open(program, options)


def profile_nodes(program: Program, inputs: Mapping[str, Tensor], optimised: Path) -> dict[str, float]:
    """Milliseconds of each node of the graph that the runtime makes of a slice and writes to ``optimised``, by name.

    Nodes within the bodies of others are there too. Raises BundleError where the runtime refuses the slice or its
    weights are too large for one file, InputError where it refuses the values.
    """
    options = _options(program, 1)
    options.optimized_model_filepath = str(optimised)
    options.enable_profiling = True
    options.profile_file_prefix = str(optimised.parent / "profile")
    session = _open(program, options)
    loaded = OnnxSession(session, program.record.outputs)
    start, runs = time.perf_counter(), 0
    while runs < _PROFILED_RUNS[0] or (runs < _PROFILED_RUNS[1] and time.perf_counter() - start < _PROFILED_S):
        loaded.run(inputs)
        runs += 1
    took: dict[str, list[int]] = {}
    for event in json.loads(Path(session.end_profiling()).read_bytes()):
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            took.setdefault(name.removesuffix(_KERNEL), []).append(event["dur"])
    # The profiler cuts off microseconds: of a run that is shorter than one, half of it is the best guess.
    return {name: (float(np.mean(sorted(each)[: -(-len(each) // 2)])) + 0.5) / 1e3 for name, each in took.items()}


def output_types(program: Program) -> dict[str, str]:
    """What the runtime finds the outputs of a slice to be, such as ``"tensor(float)"``; nothing is run.

    Raises BundleError where the runtime refuses the slice.
    """
    return {output.name: output.type for output in _open(program, _options(program, 1)).get_outputs()}


def run_sizes_first(program: Program, inputs: Mapping[str, Tensor]) -> Tensors:
    """One run in which sizes are asked for as soon as they are there, so that large values need not be kept for it.

    Raises BundleError where the runtime refuses the slice, InputError where it refuses the values.
    """
    options = _options(program, 1)
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return OnnxSession(_open(program, options), program.record.outputs).run(inputs)


def _options(program: Program, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(program.weights_path.parent))
    # Spinning worker threads would take the cores from the transport and the other slices.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(
    program: Program, options: ort.SessionOptions, providers: Sequence[str] = _PROVIDERS["cpu"]
) -> ort.InferenceSession:
    try:
        # The fallback tries the same provider again, and prints to stdout that it does.
        return ort.InferenceSession(
            program.content,
            options,
            providers=list(providers),
            provider_options=[dict(_PROVIDER_OPTIONS.get(provider, {})) for provider in providers],
            enable_fallback=0,
            disabled_optimizers=list(program.record.without),
        )
    except Exception as error:  # noqa: BLE001  as above
        raise BundleError(f"onnxruntime cannot load slice {program.record.member!r}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


ENGINE: Engine = OnnxEngine()
