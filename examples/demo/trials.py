"""Inputs put through a device again and again: by the planner's choice, and by every plan there is, each one compared.

A `Trial` is what is kept of one request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from midstream import Bundle, Device, MidstreamError
from midstream.communication.codecs import find_codec
from midstream.planning import INPUT_CUT, LOCAL_CUT
from midstream.tensors import Tensors

Kind = Literal["planner", "tour"]
LOSSY_CODEC = "jpeg90"
# Nothing that was forced should be given up for being slow: that is what the tour is there to show.
PATIENCE_MS = 10 * 60_000.0


@dataclass(frozen=True)
class Case:
    """One input of a model, ready for it."""

    name: str
    tensors: Tensors


@dataclass(frozen=True, slots=True)
class Trial:
    """One request. ``option`` is "local", "input" or a cut's id; ``max_abs_error`` is against the whole model here.

    ``same_answer`` says whether the decoded answer is that of the whole model. ``failure`` is None where all went well.
    """

    model: str
    input: str
    kind: Kind
    option: str
    codec: str
    score: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    device_ms: float = 0.0
    link_ms: float = 0.0
    gateway_ms: float = 0.0
    total_ms: float = 0.0
    max_abs_error: float | None = None
    same_answer: bool = False
    why: str = ""
    failure: str | None = None

    @property
    def lossless(self) -> bool:
        """Whether its codec loses nothing."""
        return self.option == LOCAL_CUT or find_codec(self.codec).lossless


class Trials:
    """One model's trials. ``reference`` is the same bundle, unpaced; ``same`` compares two answers as a user would."""

    def __init__(
        self,
        title: str,
        device: Device,
        reference: Bundle,
        same: Callable[[Tensors, Tensors], bool],
        cut_codec: str,
        seen: Callable[[Trial], None],
    ) -> None:
        self._title = title
        self._device = device
        self._reference = reference
        self._same = same
        self._cut_codec = cut_codec
        self._seen = seen

    def plan(self, case: Case) -> Tensors:
        """The outputs, by the planner's choice; by the whole model here where the request failed."""
        return self._request(case, "planner", None, None)

    def tour(self, case: Case) -> None:
        """The same input by every option there is."""
        for option, codec in self.options():
            self._request(case, "tour", option, codec)

    def options(self) -> Iterator[tuple[str, str | None]]:
        """Local, the whole input by each codec that takes it, every cut."""
        yield LOCAL_CUT, None
        yield INPUT_CUT, "raw"
        yield INPUT_CUT, "lossless"
        if self._reference.image_inputs:
            yield INPUT_CUT, LOSSY_CODEC
        for cut in self._reference.cuts:
            yield cut.id, self._cut_codec

    def _request(self, case: Case, kind: Kind, option: str | None, codec: str | None) -> Tensors:
        expected = self._reference.run(case.tensors)
        try:
            result = self._device.infer(
                case.tensors, cut=option, codec=codec, deadline_ms=PATIENCE_MS if option else None
            )
        except MidstreamError as error:
            self._seen(Trial(self._title, case.name, kind, option or "?", codec or "?", failure=str(error)))
            return expected
        plan, timings = result.plan, result.timings_ms
        trial = Trial(
            model=self._title,
            input=case.name,
            kind=kind,
            option=plan.cut or (INPUT_CUT if plan.offloads else LOCAL_CUT),
            codec=plan.codec,
            score=None if result.analysis is None else result.analysis.score,
            sent_bytes=result.sent_bytes,
            received_bytes=result.received_bytes,
            device_ms=timings.get("device", 0.0) + timings.get("encode", 0.0) + timings.get("decode", 0.0),
            link_ms=timings.get("link", 0.0),
            gateway_ms=timings.get("gateway", 0.0),
            total_ms=timings["total"],
            max_abs_error=_max_abs_error(expected, result.outputs),
            same_answer=self._same(expected, result.outputs),
            why=plan.why,
            failure=result.fallback if option is not None else None,
        )
        self._seen(trial)
        return result.outputs


def warm_gateway(reference: Bundle, broker: str, case: Case, rounds: int) -> None:
    """Have the gateway's workers load every slice, so that no timing holds a load. An unpaced device asks for it."""
    with Device(reference, broker, analyse=False) as device:
        for _ in range(rounds):
            for option in (INPUT_CUT, *(cut.id for cut in reference.cuts)):
                device.infer(case.tensors, cut=option, deadline_ms=PATIENCE_MS)


def _max_abs_error(expected: Tensors, got: Tensors) -> float:
    """The largest difference of any output's element; infinite where a shape differs or only one is a number."""
    worst = 0.0
    for name, value in expected.items():
        if value.shape != got[name].shape:
            return float("inf")
        if value.size and not np.array_equal(value, got[name], equal_nan=value.dtype.kind == "f"):
            difference = np.abs(value.astype(np.float64) - got[name].astype(np.float64))
            worst = max(worst, float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()))
    return worst
