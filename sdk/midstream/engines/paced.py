"""A session that takes as long as a slower board would: it sleeps for the rest of each run's stretched time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from midstream.engines.base import Session
from midstream.tensors import Tensor, Tensors

# A runtime's first run at a size plans its memory, the second allocates it: work that must not be stretched.
_WARM_RUNS = 2


@dataclass(slots=True)
class Pace:
    """To how many times what they take runs are stretched; may change while they run."""

    slowdown: float = 1.0


class PacedSession:
    """Another session, each run stretched as the pace says; at 1 or less it is as it is.

    Before the first stretched run at a size come two that are not and do not count; state is as if they had not been.
    """

    def __init__(self, session: Session, pace: Pace) -> None:
        self._session = session
        self._pace = pace
        self._fresh = True
        self._sizes: set[tuple[tuple[int, ...], ...]] = set()

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Run, then wait."""
        slowdown = self._pace.slowdown
        if self._fresh and slowdown > 1.0:
            self._warm_up(inputs)
        start = time.perf_counter()
        outputs = self._session.run(inputs)
        self._fresh = False
        if slowdown > 1.0:
            time.sleep((time.perf_counter() - start) * (slowdown - 1.0))
        return outputs

    def reset(self) -> None:
        """Forget the state of variable tensors."""
        self._session.reset()
        self._fresh = True

    def close(self) -> None:
        """Give the memory back."""
        self._session.close()

    def _warm_up(self, inputs: Mapping[str, Tensor]) -> None:
        size = tuple(value.shape for value in inputs.values())
        if size in self._sizes:
            return
        self._sizes.add(size)
        for _ in range(_WARM_RUNS):
            self._session.run(inputs)
            self._session.reset()
