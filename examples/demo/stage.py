"""A model on the stage: paced to the board, its gateway warmed up, its trials counted on a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from report import print_tour
from rich.console import Console
from rich.progress import Progress
from trials import Case, Trial, Trials, warm_gateway

from midstream import Bundle, Device, MidstreamError
from midstream.partitioning import times_from_profile
from midstream.profiles import Profile
from midstream.tensors import Tensors

Frame = NDArray[np.uint8]
# Each worker of the gateway plans memory in a slice's first run and allocates it in the second.
_WARM_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """What all models have in common: the board, the brokers' URLs by the link and past it, where things lie."""

    profile: Profile
    broker: str
    direct_broker: str
    bundles: dict[str, Path]
    assets: Path
    output: Path
    cut_codec: str


class Stage:
    """Where the models come on, one after the other; keeps every trial and what was found."""

    def __init__(self, console: Console, progress: Progress, setting: Setting) -> None:
        self.console = console
        self.setting = setting
        self.trials: list[Trial] = []
        self.found: dict[str, Any] = {}
        self.bundles: dict[str, Bundle] = {}
        self._progress = progress
        self._task = progress.add_task("requests", total=None)
        self._expected = 0

    @contextmanager
    def model(self, title: str, same: Callable[[Tensors, Tensors], bool]) -> Iterator[tuple[Trials, Bundle]]:
        """A model on the paced device, and the same bundle unpaced; ``same`` compares two answers as a user would."""
        setting, profile = self.setting, self.setting.profile
        path = setting.bundles[title]
        reference = Bundle.open(path)
        self.bundles[title] = reference
        shapes = reference.manifest.sample_shapes
        blank = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in reference.manifest.free_inputs()}
        warm_gateway(reference, setting.direct_broker, Case("warm-up", blank), _WARM_ROUNDS * (os.cpu_count() or 1))
        board_ms = times_from_profile(reference.manifest, reference.graph, profile, threads=1).whole_ms
        here_ms = reference.measure_whole_ms()
        slowdown = max(1.0, board_ms / here_ms)
        self.console.rule(f"[bold]{title}[/]: {reference.name}, {len(reference.cuts)} cuts")
        self.console.print(
            f"paced to {profile.name}: {board_ms:.1f} ms predicted for the whole model there, {here_ms:.2f} ms "
            f"measured here, so every run takes {slowdown:.1f} × its time",
            highlight=False,
            markup=False,
        )
        with Device(Bundle.open(path, slowdown=slowdown), setting.broker, profile=profile.name) as device:
            yield Trials(title, device, reference, same, setting.cut_codec, self._seen), reference

    def expect(self, requests: int) -> None:
        """So many more requests are coming."""
        self._expected += requests
        self._progress.update(self._task, total=self._expected)

    def tour(self, trials: Trials, case: Case) -> None:
        """The tour of one input, and its table."""
        start = len(self.trials)
        trials.tour(case)
        print_tour(self.console, f"{case.name}: every way", self.trials[start:])

    def save(self, name: str, picture: Frame) -> None:
        """Write an RGB picture to the output folder."""
        path = self.setting.output / name
        if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise MidstreamError(f"cannot write {path}; check the folder and the disk")

    def _seen(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._progress.update(self._task, advance=1, description=f"{trial.model}: {trial.input}")
