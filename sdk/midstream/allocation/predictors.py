"""Predictors of a gateway's next interval: what each of its partitions will ask for and wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from midstream.allocation.intervals import Forecast, Interval
from midstream.allocation.usage import Partition


class Predictor(Protocol):
    """Forecasts all partitions of one gateway. Not thread-safe; pure but for what it has seen."""

    @property
    def name(self) -> str:
        """What it is called in metrics and logs."""

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        """An interval has closed; a partition that is not in it is known no longer."""

    def forecast(self) -> Mapping[Partition, Forecast]:
        """The next interval of every partition in the last one."""
