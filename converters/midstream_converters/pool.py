"""Proofs beside each other, each worker a process of its own: a runtime that loads a slice lets nothing else run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Concatenate, ParamSpec, TypeVar

from midstream_converters.proving import Prover

P = ParamSpec("P")
T = TypeVar("T")

# A process takes about a second to start: proofs that one worker finishes in less than twice that stay in this one.
_WORTH_S = 2.0
_MAX_WORKERS = 4
# Every worker has a copy of what the runtime makes of the weights.
_ALONE_BYTES = 256 << 20

_prover: Prover


class Pool:
    """Where a prover works: in processes, or in this one, which then does each piece of work as it is submitted."""

    def __init__(self, prover: Prover, executor: Executor | None = None, workers: int = 1) -> None:
        self.workers = workers
        self._prover = prover
        self._executor = executor

    def submit(self, work: Callable[Concatenate[Prover, P], T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Have the prover do this; the future raises BrokenProcessPool where the runtime takes a worker down."""
        if self._executor is not None:
            call: Callable[..., T] = _work
            return self._executor.submit(call, work, *arguments, **named)
        future: Future[T] = Future()
        future.set_result(work(self._prover, *arguments, **named))
        return future


@contextmanager
def proving(prover: Prover, weight_bytes: int, expected_s: float) -> Iterator[Pool]:
    """A pool for work that one worker does in ``expected_s`` seconds; what still runs at the end is given up."""
    workers = 1 if weight_bytes > _ALONE_BYTES else min(_MAX_WORKERS, os.cpu_count() or 1)
    if workers == 1 or expected_s < _WORTH_S:
        yield Pool(prover)
        return
    # Unlike the standard library's, its processes do not run the caller's main module again.
    from loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(workers, initializer=_start, initargs=(prover,))
    try:
        with _undisturbed():
            executor.submit(_is_ready)
        yield Pool(prover, executor, workers)
    finally:
        with _undisturbed():
            executor.shutdown(kill_workers=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until this is done: the pool does not end processes whose start or end it has only half seen.

    Nor does it reach processes that begin in here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = threading.Event()
    handler = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        with _blocked():
            yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came.is_set():
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _blocked() -> Iterator[None]:
    """Processes inherit that Ctrl-C is blocked, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # In its own start, multiprocessing's tracker lets Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_ready() -> bool:
    return True


def _start(prover: Prover) -> None:
    """In a worker: Ctrl-C is for the process that started it."""
    global _prover
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prover = prover


def _work(work: Callable[Concatenate[Prover, P], T], *arguments: P.args, **named: P.kwargs) -> T:
    return work(_prover, *arguments, **named)
