"""Run an untrusted model in a process of its own first: what breaks the runtime there is only an error here.

``python -m midstream_converters.trial`` is that process. Either side sends a line of JSON and after it the bytes that
the line announces: the program and inputs one way, the shapes of outputs or a refusal the other.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from midstream.child import module_path
from midstream.errors import InputError, MidstreamError, ModelError, printable

if TYPE_CHECKING:
    from midstream.engines import Program, Session
    from midstream.manifest import EngineName
    from midstream.tensors import Tensor

_RUNTIMES = {"litert": "LiteRT", "onnx": "onnxruntime"}
_FORMATS = {"litert": "a TFLite", "onnx": "an ONNX"}
_MODULE = "midstream_converters.trial"
_MAX_REPLY_BYTES = 16 << 20
_MAX_LOG_BYTES = 64 << 10
_SECONDS = 10.0
_MEMORY_BYTES = 768 << 20
_MEMORY_VARIABLE = "MIDSTREAM_TRIAL_MEMORY_MB"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a trial may take: seconds for the load and again for each run, and memory where the system can limit it."""

    seconds: float
    memory_bytes: int

    @classmethod
    def for_model(cls, model_bytes: int) -> Limits:
        """Limits that a model of so many bytes, external data included, usually stays well below.

        The environment variable MIDSTREAM_TRIAL_MEMORY_MB allows another amount of memory.
        """
        given = os.environ.get(_MEMORY_VARIABLE, "")
        memory = int(given) << 20 if given.isdecimal() else 4 * model_bytes + _MEMORY_BYTES
        return cls(_SECONDS + model_bytes / (10 << 20), memory)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run shows of an output; both are None where it is not a tensor of numbers."""

    dtype: str | None
    shape: tuple[int, ...] | None


class Trial:
    """A program loaded in a process of its own; ``path`` is the model file that messages name."""

    def __init__(self, engine: EngineName, program: Program, path: Path, limits: Limits) -> None:
        self._engine = engine
        self._program = program
        self._path = path
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._expired = False

    def __enter__(self) -> Trial:
        """Load it; raises ModelError where the runtime refuses it, breaks, or takes more than its limits."""
        self._load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Seen]:
        """Run it from fresh state and say what comes out.

        Raises InputError where the runtime refuses the inputs, ModelError where it breaks or takes more than its
        limits; the next call then starts again.
        """
        if self._child is None:
            self._load()
        header = {"inputs": [(name, value.dtype.str, value.shape) for name, value in inputs.items()]}
        reply = self._ask(header, (value.tobytes() for value in inputs.values()))
        if "refused" in reply:
            raise InputError(reply["refused"])
        return {name: Seen(dtype, None if shape is None else tuple(shape)) for name, dtype, shape in reply["outputs"]}

    def refusal(self, inputs: Mapping[str, Tensor]) -> str | None:
        """Why it does not run on these inputs, None where it does. Raises ModelError where it takes too long."""
        try:
            self.run(inputs)
        except InputError as error:
            return str(error)
        except ModelError as error:
            if self._expired:
                raise
            return str(error)
        return None

    def _load(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  _stop closes it
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": module_path(), "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            header = {
                "engine": self._engine,
                "limits": (self._limits.seconds, self._limits.memory_bytes),
                "record": asdict(self._program.record),
                "weights_path": str(self._program.weights_path),
                "bytes": len(self._program.content),
            }
            reply = self._ask(header, [self._program.content])
            if "refused" in reply:
                what = f"{self._path} is {_FORMATS[self._engine]} file that {_RUNTIMES[self._engine]} refuses"
                raise ModelError(f"{what}: {reply['refused']}")
        except BaseException:
            self._stop()
            raise

    def _ask(self, header: Mapping[str, Any], parts: Iterable[bytes]) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(self._limits.seconds, child.kill)
        timer.start()
        line = b""
        try:
            with suppress(OSError):
                child.stdin.write(_line(header))
                for part in parts:
                    child.stdin.write(part)
                child.stdin.flush()
                line = child.stdout.readline(_MAX_REPLY_BYTES)
        finally:
            self._expired = not timer.is_alive()
            timer.cancel()
            timer.join()
        if line.endswith(b"\n") and not self._expired:
            return dict(json.loads(line))
        problem = self._problem()
        self._stop()
        raise ModelError(f"{self._path}: {_RUNTIMES[self._engine]} {problem}")

    def _problem(self) -> str:
        """Why there was no answer, and what to do."""
        if self._expired:
            return (
                f"does not load it or run it once within {self._limits.seconds:.0f} s; "
                "export it without endless loops, or give it smaller inputs with --shape"
            )
        status, reason = self._last_words()
        return (
            f"breaks down on it ({_ending(status)}{': ' if reason else ''}{reason}); it is damaged or made to harm, "
            f"export it again, or needs more than {self._limits.memory_bytes >> 20} MiB of memory, "
            f"allow that with {_MEMORY_VARIABLE}"
        )

    def _last_words(self) -> tuple[int, str]:
        """The exit status of a process that ended without an answer, and the last line it wrote."""
        child = self._child
        assert child is not None
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1)
        self._log.seek(0)
        lines = self._log.read(_MAX_LOG_BYTES).decode(errors="replace").split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("INFO")), "")
        return child.returncode or 0, printable(reason)

    def _stop(self) -> None:
        """End the process, whatever it does."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for file in (child.stdin, child.stdout, self._log):
            with suppress(OSError):
                if file is not None:
                    file.close()


def _told(text: str, memory_bytes: int) -> str:
    """A refusal as the user sees it, with what to do where memory is what it lacks."""
    more = f" (it has {memory_bytes >> 20} MiB here; {_MEMORY_VARIABLE} allows more)" if "alloc" in text.lower() else ""
    return printable(text) + more


def _ending(status: int) -> str:
    if status < 0:
        return signal.Signals(-status).name
    return f"exception {status:#x}" if status > 255 else f"exit status {status}"


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """The other side: load what comes first, then run what comes, until nothing does."""
    first = json.loads(requests.readline())
    seconds, memory_bytes = first["limits"]
    _limit(memory_bytes)
    sessions: list[Session] = []

    def load() -> dict[str, Any]:
        sessions.append(_load(first, requests.read(first["bytes"])))
        return {}

    def answer(action: Callable[[], dict[str, Any]]) -> None:
        _wake_after(seconds)
        try:
            reply = action()
        except MidstreamError as error:
            reply = {"refused": _told(str(error), memory_bytes)}
        except MemoryError:
            reply = {"refused": _told("cannot allocate memory", memory_bytes)}
        except Exception as error:  # noqa: BLE001  whatever a runtime's binding raises is an answer here
            reply = {"refused": _told(f"{type(error).__name__}: {error}", memory_bytes)}
        replies.write(_line(reply))
        replies.flush()

    answer(load)
    for line in requests:
        answer(partial(_run, sessions[0], _inputs(json.loads(line)["inputs"], requests)))


def _load(first: Mapping[str, Any], content: bytes) -> Session:
    from midstream.engines import Program, engine_for
    from midstream.manifest import SliceRecord

    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in first["record"].items()
    }
    record = SliceRecord(**fields)
    return engine_for(first["engine"]).load(Program(record, content, Path(first["weights_path"])))


def _inputs(announced: Iterable[tuple[str, str, list[int]]], requests: BinaryIO) -> dict[str, Tensor]:
    import numpy as np

    inputs: dict[str, Tensor] = {}
    for name, dtype, shape in announced:
        kind = np.dtype(dtype)
        content = requests.read(math.prod(shape) * kind.itemsize)
        inputs[name] = np.frombuffer(content, kind).reshape(shape)
    return inputs


def _run(session: Session, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    session.reset()
    return {"outputs": [(name, *_seen(value)) for name, value in session.run(inputs).items()]}


def _seen(value: Any) -> tuple[str | None, tuple[int, ...] | None]:
    dtype = getattr(value, "dtype", None)
    return (None, None) if dtype is None or dtype.hasobject else (dtype.str, value.shape)


def _limit(memory_bytes: int) -> None:
    """Limit what this process may take, as far as the system can."""
    try:
        import resource
    except ImportError:
        return
    for what, limit in (("DATA", memory_bytes), ("FSIZE", _MAX_LOG_BYTES), ("CORE", 0)):
        with suppress(AttributeError, ValueError, OSError):
            number = getattr(resource, f"RLIMIT_{what}")
            most = resource.getrlimit(number)[1]
            resource.setrlimit(number, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _wake_after(seconds: float) -> None:
    """End this process some time after its limit, should the one that started it be gone."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)


if __name__ == "__main__":
    # Whatever a runtime prints goes to the log.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)
