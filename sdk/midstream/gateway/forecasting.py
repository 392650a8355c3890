"""The forecasts of a gateway: which predictors it has, and the network among them, kept trained on its own history."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

from midstream.allocation.ensemble import ensemble, follower
from midstream.allocation.mixing import Chooser
from midstream.errors import InputError
from midstream.forecaster import CARD, SHIPPED, Network, RecurrentForecaster, load_forecaster
from midstream.gateway.finetuning import FineTuning

Forecasts = Literal["all", "simple", "last"]
"""With the network, without it, or that all is as it was in the last second."""


def checked_folder(folder: Path, history: object) -> Path:
    """A forecast model's folder. Raises InputError where it can be none, or has none and none is trained into it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the folder of a forecast model, which holds {CARD}")
    if history is None and not (folder / CARD).exists():
        raise InputError(
            f"there is no forecast model in {folder}: {CARD} is missing; make one with midstream train-forecast, or "
            "have one trained there, with a history"
        )
    return folder


class Forecasting:
    """A chooser among predictors, guarded by ``lock``; `start` and `close` bracket what trains the network.

    The network is the one in ``folder``, where it has one, else the one that is part of midstream. With a ``history``
    it is trained on from that now and then, into the folder.
    """

    def __init__(self, forecasts: Forecasts, workers: int, folder: Path | None, history: Path | None) -> None:
        self.lock = threading.Lock()
        own = [] if folder is None or not (folder / CARD).exists() else [folder]
        self._network: RecurrentForecaster | None = load_forecaster([*own, SHIPPED]) if forecasts == "all" else None
        further = [] if self._network is None else [self._network]
        self.chooser: Chooser = follower() if forecasts == "last" else ensemble(workers, further)
        self._training: FineTuning | None = None
        if self._network is not None and folder is not None and history is not None:
            self._training = FineTuning(history, folder, self._take)

    def start(self) -> None:
        """Begin to train now and then, where that was asked for."""
        if self._training is not None:
            self._training.start()

    def close(self) -> None:
        """End what is being trained."""
        if self._training is not None:
            self._training.stop()

    def _take(self, folder: Path) -> None:
        network = Network(folder)
        with self.lock:
            if self._network is not None:
                self._network.use(network)
