"""Work of ours in a process of its own: what a framework prints, keeps in memory or breaks there stays there.

The module that does it calls `serve`; whoever wants it done calls `run_apart`. Request and answer are JSON files in a
folder that both work in.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midstream.child import Child, module_path
from midstream.errors import MidstreamError, ModelError, printable

_REQUEST, _ANSWER = "request.json", "answer.json"
_LOOK_S = 60.0
# The same model gives the same bytes: no order of hashes, no choice of kernels by the machine's devices.
_ENVIRON = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def run_apart(module: str, folder: Path, request: Mapping[str, Any], purpose: str, remedy: str) -> dict[str, Any]:
    """Run this module on a request, in ``folder``, and return its answer.

    Raises ModelError where it refuses, fails or breaks: ``purpose`` begins that message, such as "x.keras: making
    TFLite", and ``remedy`` ends it.
    """
    (folder / _ANSWER).unlink(missing_ok=True)
    (folder / _REQUEST).write_text(json.dumps(request))
    # Keras writes a configuration file where it finds none.
    environ = _ENVIRON | {"PYTHONPATH": module_path(), "KERAS_HOME": str(folder)}
    child = Child([sys.executable, "-P", "-m", module, str(folder)], environ=environ)
    try:
        child.start()
        while not child.wait(_LOOK_S):
            pass
        if not (folder / _ANSWER).is_file():
            raise ModelError(f"{purpose} broke: {_ending(child)}; {remedy}")
    finally:
        child.stop()
    answer: dict[str, Any] = json.loads((folder / _ANSWER).read_text())
    if "refused" in answer:
        raise ModelError(answer["refused"])
    if "failed" in answer:
        raise ModelError(f"{purpose} failed: {answer['failed']}; {remedy}")
    return answer


def _ending(child: Child) -> str:
    status = child.returncode or 0
    return signal.Signals(-status).name if status < 0 else printable(child.last_words())


def serve(action: Callable[[Path, dict[str, Any]], dict[str, Any]]) -> None:
    """The other side: answer the request in the folder that the command line names."""
    folder = Path(sys.argv[1])
    try:
        answer = action(folder, json.loads((folder / _REQUEST).read_text()))
    except MidstreamError as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"failed": "it lacks memory"}
    except Exception as error:  # noqa: BLE001  whatever else is raised here is told where it was asked for
        answer = {"failed": printable(f"{type(error).__name__}: {' '.join(str(error).split())}")}
    fresh = folder / f"{_ANSWER}.new"
    fresh.write_text(json.dumps(answer))
    fresh.replace(folder / _ANSWER)


@contextmanager
def refusing(refusal: Callable[[Exception], ModelError]) -> Iterator[None]:
    """A framework's work on a model: what it raises within is answered with the error that this makes of it.

    Our own errors, and lack of memory, are not the framework's refusal of the model, and stay what they are.
    """
    try:
        yield
    except (MidstreamError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  frameworks raise classes of their own bindings, all of them Exception
        raise refusal(error) from None
