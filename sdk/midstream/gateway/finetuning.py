"""The forecast model trained on from the gateway's own history, now and then, in a process that gives way to others.

What errs no less on the last part of the history than the model in use is not taken: ``midstream train-forecast`` sees
to that, and then leaves the folder as it is.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from midstream.child import Child, module_path
from midstream.errors import MidstreamError, VerificationError
from midstream.forecaster import CARD, SHIPPED

_log = logging.getLogger("midstream.gateway")

EVERY_S = 6 * 3600.0
_MOST_S = 3600.0
_LOOK_S = 0.5

Command = Callable[[Path, Path, Path], Sequence[str]]


def training_command(history: Path, start: Path, output: Path) -> list[str]:
    """Train on ``history`` from the model in ``start`` on, and write ``output``; at the lowest priority there is."""
    nice = shutil.which("nice")
    command = [sys.executable, "-P", "-m", "midstream_converters.forecasting", str(history)]
    return [*([nice, "-n", "19"] if nice else []), *command, "--from", str(start), "--output", str(output)]


class FineTuning:
    """Trains every ``every_s`` seconds from `start` to `stop`, at first when these have passed; never two at once.

    ``folder`` is where a model of the gateway's own is, or will be; until then training begins from the shipped one.
    ``taken`` is called with it, on a thread of this, when there is a better one in it. Where TensorFlow is not
    installed, one line in the log says so, and that is all.
    """

    def __init__(
        self,
        history: Path,
        folder: Path,
        taken: Callable[[Path], None],
        *,
        every_s: float = EVERY_S,
        command: Command = training_command,
    ) -> None:
        self._history = history
        self._folder = folder
        self._taken = taken
        self._every_s = every_s
        self._command = command
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="midstream-finetuning", daemon=True)

    def start(self) -> None:
        """Begin to wait for the first time."""
        if self._command is training_command and find_spec("tensorflow") is None:
            _log.warning(
                "forecasts are not trained on from this gateway's history: TensorFlow is not installed; "
                "pip install 'midstream[convert-keras]'"
            )
            return
        self._thread.start()

    def stop(self) -> None:
        """End what is running, and wait for it. Safe to call twice, and before `start`."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                better = self._train()
            except MidstreamError as error:
                _log.warning("%s", error)
                return
            if better and not self._stopped.is_set():
                try:
                    self._taken(self._folder)
                except Exception:  # noqa: BLE001  the gateway goes on with the forecasts that it has
                    _log.exception("the forecast model in %s could not be taken", self._folder)

    def _train(self) -> bool:
        """Whether there is a better model in the folder now."""
        start = self._folder if (self._folder / CARD).is_file() else SHIPPED
        command = self._command(self._history, start, self._folder)
        child = Child(command, environ={"PYTHONPATH": module_path()})
        try:
            child.start()
            waited_s = 0.0
            while not child.wait(_LOOK_S) and waited_s < _MOST_S and not self._stopped.is_set():
                waited_s += _LOOK_S
            if self._stopped.is_set():
                return False
            status = child.returncode
            if status == 0:
                _log.info("forecasts are made by a model that was trained on from this gateway's history")
            elif status == VerificationError.exit_code:
                _log.info("the forecast model stays: trained on from this gateway's history it got no better")
            elif status is None:
                _log.warning("training the forecast model took more than %.0f s, and was ended", _MOST_S)
            else:
                _log.warning("the forecast model was not trained on: %s", child.last_words())
            return status == 0
        finally:
            child.stop()
