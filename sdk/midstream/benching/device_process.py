"""The device of a bench, a process of its own: ``python -m midstream.benching.device_process``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from midstream.benching.measure import measure
from midstream.benching.measured import Measured
from midstream.benching.paced_bundle import PacedBundle
from midstream.benching.workers import answer_stdin
from midstream.communication.choosing import Gateways
from midstream.device import Device, Result
from midstream.errors import InputError, PeerError
from midstream.link_watch import LinkWatch
from midstream.partitioning import Objective
from midstream.profiles import load_profile
from midstream.samples import InputTypes, calibration_samples
from midstream.simulating.policies import Known, Partitioner
from midstream.simulating.results import Way
from midstream.tensors import Tensors

_CONNECT_S = 10.0
# So many inputs are used in turn, and so many are made up where none are given.
_MOST_INPUTS, _MADE_INPUTS = 64, 8
_PIECES = 16
# A device that falls behind without end has so many inputs under way; further ones wait, and count from when they came.
_MOST_UNDER_WAY = 256

Forced = dict[str, str | None]
"""What `Device.infer` is forced to; nothing where the device decides."""


class _Policy(Protocol):
    def __call__(self, number: int, device: Device) -> Forced: ...


class DeviceProcess:
    """Answers the messages of a bench: open, whole, pace, measure, begin, run, in this order."""

    def __init__(self, stack: ExitStack) -> None:
        self._bundle: PacedBundle
        self._inputs: list[Tensors]
        self._objective: Objective
        self._board: str
        self._url: str
        self._measured: Measured
        self._policy: _Policy
        self._device: Device
        self._running = stack.enter_context(ExitStack())

    def answer(self, message: Mapping[str, Any]) -> Any:
        """Do what is asked."""
        arguments = dict(message)
        found: Callable[..., Any] = getattr(self, arguments.pop("do"))
        return found(**arguments)

    def open(self, bundle: str, board: str, url: str, objective: Mapping[str, Any], inputs: str | None) -> int:
        """Open the bundle and read or make inputs; how many there are."""
        self._bundle = PacedBundle.open(bundle)
        self._bundle.early_exit = None
        self._board, self._url, self._objective = board, url, Objective(**objective)
        manifest = self._bundle.manifest
        types = InputTypes(manifest.free_inputs(), manifest.semantics)
        if inputs is None:
            self._inputs = [types.generate(manifest.sample_shapes, seed) for seed in range(_MADE_INPUTS)]
            return len(self._inputs)
        read = calibration_samples(Path(inputs), types, manifest.sample_shapes, blank=True, pieces=_PIECES)
        self._inputs = [each for each, _ in zip(read, range(_MOST_INPUTS), strict=False)]
        if not self._inputs:
            raise InputError(f"{inputs} holds no inputs for bundle {self._bundle.name!r}")
        return len(self._inputs)

    def whole(self, rounds: int) -> list[list[float]]:
        """Milliseconds of the whole model, and of a core, so many times, after one that does not count."""
        found: list[list[float]] = []
        for _ in range(rounds + 1):
            start, core = time.perf_counter(), time.thread_time()
            self._bundle.run_tail(None, self._inputs[0])
            core_s = time.thread_time() - core
            found.append([(time.perf_counter() - start) * 1e3, core_s * 1e3])
        return found[1:]

    def pace(self, slowdown: float) -> None:
        """Stretch runs and encodings from now on."""
        self._bundle.slowdown = slowdown

    def measure(self, keys: Sequence[Sequence[Any]], quota: bool) -> dict[str, Any]:
        """Everything but the whole run, over the link as it is: without limits."""
        slowdown = self._bundle.slowdown
        with self._new_device() as device:
            self._connected(device)
            places = [(cut, codec) for cut, codec in keys]
            self._measured = measure(self._bundle, device, self._inputs, places, slowdown, quota)
        return self._measured.to_json()

    def begin(self, policy: Mapping[str, Any]) -> None:
        """Connect a new device, which has learned nothing yet, for one policy."""
        self._running.close()
        self._policy = self._policy_of(policy)
        planner = policy["planner"] if policy["kind"] == "planner" else "adaptive"
        self._device = self._running.enter_context(self._new_device(planner=planner))
        self._connected(self._device)

    def run(self, start_s: float, arrivals_s: Sequence[float]) -> dict[str, Any]:
        """Answer inputs that come at these seconds after a time of `time.monotonic`: a row for each, in their order."""
        probes = self._device.probe_bytes
        with ThreadPoolExecutor(_MOST_UNDER_WAY, "midstream-bench") as pool:
            jobs = []
            for number, arrives_s in enumerate(arrivals_s):
                due_s = start_s + arrives_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                jobs.append(pool.submit(self._serve, number, due_s))
            rows = [job.result() for job in jobs]
        probes = self._device.probe_bytes - probes
        self._running.close()
        return {"rows": rows, "probe_bytes": probes}

    def _serve(self, number: int, due_s: float) -> dict[str, Any]:
        forced = self._policy(number, self._device)
        try:
            inputs = self._inputs[number % len(self._inputs)]
            result = self._device.infer(inputs, cut=forced.get("cut"), codec=forced.get("codec"))
        except PeerError:
            return {"latency_ms": (time.monotonic() - due_s) * 1e3, "way": "input", "answered": False}
        plan = result.plan
        way: Way = "local" if not plan.offloads else "input" if plan.cut is None else "split"
        return {
            "latency_ms": (time.monotonic() - due_s) * 1e3,
            "way": way,
            "answered": True,
            "choice": [plan.cut, plan.codec] if plan.offloads else None,
            "score": None if result.analysis is None else result.analysis.score,
            "timings_ms": result.timings_ms,
            "computed_ms": self._computed_ms(result),
            "sent_bytes": result.sent_bytes,
            "received_bytes": result.received_bytes,
            "fallback": result.fallback is not None and way != "local",
        }

    def _computed_ms(self, result: Result) -> float:
        """What the device itself has worked: as measured alone, where its timing holds a wait for others' runs."""
        here, cut = self._measured.device, result.plan.cut
        away = len(result.ran_on) > 1 or result.ran_on == ("gateway",)
        head_ms = 0.0 if cut is None else here.head_ms[cut]
        rest_ms = 0.0 if away else here.whole_ms if cut is None else here.tail_ms[cut]
        return min(result.timings_ms["device"], head_ms + rest_ms) + result.timings_ms.get("encode", 0.0)

    def _policy_of(self, policy: Mapping[str, Any]) -> _Policy:
        kind = policy["kind"]
        if kind == "planner":
            return lambda number, device: {}
        if kind == "plans":
            plans = policy["plans"]
            return lambda number, device: forced_to(plans[number % len(plans)])
        measured = self._measured.kind(self._bundle, load_profile(self._board))
        partitioner = Partitioner(measured, self._objective, averaged=policy["averaged"])
        return lambda number, device: _partitioned(partitioner, number, device)

    def _new_device(self, **options: Any) -> Device:
        objective = self._objective
        return Device(
            self._bundle,
            self._url,
            objective=objective.kind,
            deadline_ms=objective.deadline_ms,
            min_agreement=objective.min_agreement,
            keep_input_local=objective.keep_input_local,
            profile=self._board,
            **options,
        )

    def _connected(self, device: Device) -> None:
        until = time.monotonic() + _CONNECT_S
        while not device.gateways:
            if time.monotonic() > until:
                raise PeerError(device.last_error or "no gateway of the bench is seen over the link")
            time.sleep(0.02)


def forced_to(plan: Sequence[str | None] | None) -> Forced:
    """A cut, of which None is the whole input, and a codec; no plan is everything here."""
    if plan is None:
        return {"cut": "local"}
    return {"cut": plan[0] or "input", "codec": plan[1]}


def _partitioned(partitioner: Partitioner, number: int, device: Device) -> Forced:
    """What a published planner decides by the link as it was seen, at which it looks as often as `Device` does."""
    device.probe()
    watch = LinkWatch()
    watch.estimate = device.link_estimate
    known = Known(b"", time.monotonic(), watch, Gateways(device.bundle.digest), 0.0)
    candidate = partitioner.choose(number, known).candidate
    return forced_to((candidate.cut, candidate.codec) if candidate.offloads else None)


def main() -> None:
    """Answer until stdin ends."""
    with ExitStack() as stack:
        answer_stdin(DeviceProcess(stack).answer)


if __name__ == "__main__":
    main()
