"""A slice that is loaded, to be run on tensors of which it takes its own."""

from __future__ import annotations

import time

from midstream.engines import Session
from midstream.tensors import Tensors


class Loaded:
    """A loaded slice that starts every run from reset state."""

    def __init__(self, session: Session, inputs: tuple[str, ...]) -> None:
        self._session = session
        self._inputs = inputs

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        self._session.close()

    def run(self, tensors: Tensors) -> Tensors:
        """One run on those of the tensors that the slice takes."""
        self._session.reset()
        return self._session.run({name: tensors[name] for name in self._inputs})

    def time_ms(self, tensors: Tensors) -> float:
        """How long a run takes."""
        start = time.perf_counter()
        self.run(tensors)
        return (time.perf_counter() - start) * 1e3
