"""A session that takes as long as a slower board would: it sleeps for the rest of each run's stretched time.

What is stretched is the quickest of the first runs, not the run itself: what other programs take of this machine would
be stretched with it.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from midstream.engines.base import Session
from midstream.tensors import Tensor, Tensors

# A runtime's first run at a size plans its memory, the second allocates it: work that must not be stretched.
_WARM_RUNS = 2
# So many runs say how long it takes. What later ones take is up to what else the machine does.
FIRST_RUNS = 10
_Size = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Pace:
    """To how many times what they take runs are stretched; may change while they run."""

    slowdown: float = 1.0


class Stretched:
    """Work of one kind, each time as long as the quickest of its first runs, stretched as the pace says.

    Not thread-safe, but that at worst a run is forgotten.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._seen_s: dict[Hashable, list[float]] = {}

    def saw(self, kind: Hashable, took_s: float) -> float:
        """How long it took once; the quickest of the first runs, which stays as it is after some."""
        seen = self._seen_s.setdefault(kind, [])
        if len(seen) < FIRST_RUNS:
            seen.append(took_s)
        return min(seen)

    @contextmanager
    def run(self, kind: Hashable) -> Iterator[None]:
        """Do it within; then it is waited for the rest of its time."""
        start = time.perf_counter()
        yield
        took_s = time.perf_counter() - start
        left_s = self.saw(kind, took_s) * self._pace.slowdown - took_s
        if self._pace.slowdown > 1.0 and left_s > 0:
            time.sleep(left_s)


class PacedSession:
    """Another session, each run as long as the quickest of the first ones stretched; at 1 or less it is as it is.

    Before the first stretched run at a size come two that are not and do not count; state is as if they had not been.
    """

    def __init__(self, session: Session, pace: Pace) -> None:
        self._session = session
        self._pace = pace
        self._fresh = True
        self._stretched = Stretched(pace)
        self._sizes: set[_Size] = set()

    def run(self, inputs: Mapping[str, Tensor]) -> Tensors:
        """Run, then wait."""
        size = tuple(value.shape for value in inputs.values())
        if self._fresh and self._pace.slowdown > 1.0:
            self._warm_up(size, inputs)
        with self._stretched.run(size):
            outputs = self._session.run(inputs)
        self._fresh = False
        return outputs

    def reset(self) -> None:
        """Forget the state of variable tensors."""
        self._session.reset()
        self._fresh = True

    def close(self) -> None:
        """Give the memory back."""
        self._session.close()

    def _warm_up(self, size: _Size, inputs: Mapping[str, Tensor]) -> None:
        if size in self._sizes:
            return
        self._sizes.add(size)
        for _ in range(_WARM_RUNS):
            self._session.run(inputs)
            self._session.reset()
