"""What each option costs: a model's times on two machines, the codecs' rungs, the candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from midstream.exits import Exit
from midstream.inputs import ImageInput
from midstream.ladder import Ladder, Place, ReplySize
from midstream.manifest import Costs, Cut, Graph, Layer, Manifest
from midstream.partitioning.families import families, work
from midstream.partitioning.plan import GATEWAY, LOCAL_CODEC
from midstream.profiles import Power, Profile
from midstream.tensors import TensorSpec, nbytes

__all__ = [
    "DEFAULT_RUNGS",
    "Candidate",
    "MachineTimes",
    "Numbers",
    "Power",
    "Rung",
    "candidates",
    "layers_from_profile",
    "times_from_costs",
    "times_from_profile",
    "with_exit",
]

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MachineTimes:
    """Milliseconds of the whole model on one machine, and of each cut's head and tail by the cut's id."""

    whole_ms: float
    head_ms: Mapping[str, float]
    tail_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rung:
    """What is assumed of a codec where nobody has calibrated.

    ``ratio`` is encoded size / raw size; it holds for float32 tensors, and for a picture's 8-bit pixels where
    ``pictures_only``. ``encode_ms_per_mb`` (on the device) and ``decode_ms_per_mb`` (on the gateway) are
    for 10⁶ of the same raw bytes.
    """

    codec: str
    lossless: bool
    ratio: float
    encode_ms_per_mb: float
    decode_ms_per_mb: float
    pictures_only: bool = False


# Sizes: lossless float32 gains 1.3–1.7 ×, of which this is the careful end; a PNG at level 1 of five photographs took
# 0.45–0.7; JPEG-90 of a 320² picture took 26 KB. JPEG-75's size is an estimate. So are the times: those of one x86
# thread, three times as long on a device.
DEFAULT_RUNGS: tuple[Rung, ...] = (
    Rung("raw", lossless=True, ratio=1.0, encode_ms_per_mb=0.0, decode_ms_per_mb=0.0),
    Rung("lossless", lossless=True, ratio=0.75, encode_ms_per_mb=20.0, decode_ms_per_mb=4.0),
    Rung("png", lossless=True, ratio=0.7, encode_ms_per_mb=75.0, decode_ms_per_mb=8.0, pictures_only=True),
    Rung("jpeg90", False, ratio=0.085, encode_ms_per_mb=3.0, decode_ms_per_mb=1.0, pictures_only=True),
    Rung("jpeg75", False, ratio=0.048, encode_ms_per_mb=3.0, decode_ms_per_mb=1.0, pictures_only=True),
)


@dataclass(frozen=True, slots=True)
class Leg:
    """A stage on a machine beyond the gateway: what it does idle, and what it is sent and sends back.

    It begins at ``cut`` (None: with the whole input). ``codec_ms`` is for encoding at the machine before and decoding
    here; ``reply_bytes`` come from it to the device.
    """

    machine: str
    cut: str | None
    nodes: tuple[int, ...]
    work_ms: float
    codec_ms: float
    payload_bytes: int
    reply_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one option costs with idle machines, before the link is known.

    ``head`` and ``tail`` are the layers on the device and on the gateway. Both with a ``cut``; without one,
    all layers are in one of them. ``payload_bytes`` is as encoded; ``reply_bytes`` are the outputs that
    come back. ``reveals_input`` says whether an input of the model, or what is linear in one, crosses; None where the
    bundle does not tell.

    With an ``exit``, the cut whose early exit is asked first, the device always takes ``device_ms``, for that cut's
    head and the exit; all else is done only for the share of inputs that the exit does not answer, 1 − ``exit_share``.
    Of this, ``rest_ms`` is the device's own.

    ``legs`` are stages on further machines, in their order, after the gateway's; without a ``tail`` the gateway has
    none. ``device_bytes`` is the memory that the device's layers take, 0 where that is not known. Of the outputs' own
    bytes, ``reply_share`` comes back, as they are packed. Where no answer comes, the device takes ``fallback_ms`` for
    what others were to do; 0 where that is not known.
    """

    cut: str | None
    head: tuple[int, ...]
    tail: tuple[int, ...]
    device_ms: float
    gateway_ms: float = 0.0
    payload_bytes: int = 0
    reply_bytes: int = 0
    encode_ms: float = 0.0
    decode_ms: float = 0.0
    codec: str = LOCAL_CODEC
    lossless: bool = True
    agreement: float | None = 1.0
    reveals_input: bool | None = False
    exit: str | None = None
    exit_share: float = 0.0
    rest_ms: float = 0.0
    legs: tuple[Leg, ...] = ()
    device_bytes: int = 0
    reply_share: float = 1.0
    fallback_ms: float = 0.0

    @property
    def offloads(self) -> bool:
        """Whether any other machine than the device runs any of it."""
        return bool(self.tail or self.legs)

    @property
    def others(self) -> tuple[str, ...]:
        """The other machines that have a stage, in order."""
        return (GATEWAY,) * bool(self.tail) + tuple(leg.machine for leg in self.legs)

    def follows(self, other: Candidate) -> bool:
        """Whether its cut's head has all layers of the other's, and more."""
        return set(self.head) > set(other.head)

    @property
    def onward(self) -> tuple[str, ...]:
        """The cuts at which stages after the first other machine's begin."""
        return tuple(leg.cut for leg in (self.legs if self.tail else self.legs[1:]) if leg.cut is not None)

    @property
    def machines(self) -> int:
        """How many machines have a stage."""
        return bool(self.head) + len(self.others)


def times_from_costs(costs: Costs, factor: float = 1.0) -> MachineTimes:
    """Measured times · ``factor``: how many times slower this machine is than the one that measured."""
    return MachineTimes(
        costs.whole_ms * factor,
        {cut_id: cost.head_ms * factor for cut_id, cost in costs.cuts.items()},
        {cut_id: cost.tail_ms * factor for cut_id, cost in costs.cuts.items()},
    )


def times_from_profile(
    manifest: Manifest, graph: Graph, profile: Profile, threads: int | None = None, digest: bytes | None = None
) -> MachineTimes:
    """Times by the most specific figures that the profile has; static layers cost nothing.

    Layers are predicted by the rates of their families where the profile has those of the bundle's engine, else all
    alike by `Profile.predict_ms`. Where it has times of the bundle with this ``digest``, those of the whole model and
    of the cuts it names are taken as measured, and the others are scaled as the whole model is. A model with
    quantised tensors at its inputs or cuts, or with layers that quantise, is predicted with the int8 rates.
    """
    predicted = _predicted(manifest, graph, profile, threads)
    measured = profile.model_times(digest.hex()) if digest is not None else None
    if measured is None:
        return predicted
    whole_ms = profile.between(measured.one_thread_ms, measured.all_cores_ms, threads)
    # Cuts are measured with one thread: with more, they are taken to gain what the whole model does.
    gain = whole_ms / measured.one_thread_ms
    scale = whole_ms / predicted.whole_ms if predicted.whole_ms else 1.0
    known = {cut: (head * gain, tail * gain) for cut, (head, tail) in measured.cuts_ms.items()}
    return MachineTimes(
        whole_ms,
        {cut: known[cut][0] if cut in known else ms * scale for cut, ms in predicted.head_ms.items()},
        {cut: known[cut][1] if cut in known else ms * scale for cut, ms in predicted.tail_ms.items()},
    )


def layers_from_profile(
    manifest: Manifest, graph: Graph, profile: Profile, threads: int | None = None, digest: bytes | None = None
) -> tuple[float, ...]:
    """Milliseconds of each layer, by index, that add up to the whole model's of `times_from_profile`.

    What a run costs besides its layers is shared out over them as their own times are, evenly where none takes any.
    """
    predict = _predictor(manifest, graph, profile, threads)
    alone = predict(())
    layers_ms = [0.0 if layer.static else predict((layer,)) - alone for layer in graph.layers]
    whole_ms = times_from_profile(manifest, graph, profile, threads, digest).whole_ms
    total = sum(layers_ms)
    if not total:
        layers_ms = [0.0 if layer.static else 1.0 for layer in graph.layers]
        total = sum(layers_ms)
    return tuple(ms * whole_ms / total if total else 0.0 for ms in layers_ms)


def _predicted(manifest: Manifest, graph: Graph, profile: Profile, threads: int | None) -> MachineTimes:
    predict = _predictor(manifest, graph, profile, threads)
    heads = {cut.id: frozenset(cut.nodes) for cut in manifest.cuts}
    return MachineTimes(
        predict(graph.layers),
        {key: predict(layer for layer in graph.layers if layer.index in head) for key, head in heads.items()},
        {key: predict(layer for layer in graph.layers if layer.index not in head) for key, head in heads.items()},
    )


def _predictor(
    manifest: Manifest, graph: Graph, profile: Profile, threads: int | None
) -> Callable[[Iterable[Layer]], float]:
    """What gives the milliseconds of one run of some layers."""
    int8 = _quantised(manifest, graph)
    rates = profile.family_rates(manifest.engine, int8, threads)
    kinds = families(graph, int8) if rates is not None else {}

    def predict(layers: Iterable[Layer]) -> float:
        if rates is not None:
            return work(layers, kinds, int8).ms(*rates)
        working = [layer for layer in layers if not layer.static]
        macs = sum(layer.macs for layer in working)
        written = sum(layer.output_bytes for layer in working)
        return profile.predict_ms(macs, len(working), output_bytes=written, int8=int8, threads=threads)

    return predict


def candidates(
    manifest: Manifest,
    graph: Graph,
    device: MachineTimes,
    gateway: MachineTimes | None,
    ladder: Ladder | None = None,
    rungs: Sequence[Rung] = DEFAULT_RUNGS,
    memory: Mapping[str | None, int] | None = None,
) -> tuple[Candidate, ...]:
    """Everything that can be done with one input, the whole model on the device first.

    Without a gateway that is all. With one: the whole input, and every cut that both machines have times for, in every
    rung of the ladder that was measured there; where none was, in those of ``rungs`` that apply. Inputs bound to one
    value never travel. The whole input of a stateful model does not either: its state is the device's own, and every
    cut leaves it there. ``memory`` is what `device_memory` gives.
    """
    everything = tuple(layer.index for layer in graph.layers)
    taken = {} if memory is None else memory
    local = Candidate(None, everything, (), device.whole_ms, device_bytes=taken.get(None, 0))
    if gateway is None:
        return (local,)
    places = [] if manifest.stateful else [replace(_whole_input(manifest, graph, gateway), fallback_ms=device.whole_ms)]
    places += [
        replace(_at_cut(manifest, graph, cut, device, gateway), device_bytes=taken.get(cut.id, 0))
        for cut in manifest.cuts
        if cut.id in device.head_ms and cut.id in gateway.tail_ms
    ]
    calibrated = {} if ladder is None else {place.cut: place for place in ladder.places}
    replied = _replied(manifest, None if ladder is None else ladder.reply)
    found = [local]
    for place in places:
        if ladder is not None and place.cut in calibrated:
            here, there = device.whole_ms / ladder.whole_ms, gateway.whole_ms / ladder.whole_ms
            found += _as_measured(place, calibrated[place.cut], here, there, replied)
        else:
            found += _as_assumed(place, manifest, rungs, replied)
    return tuple(found)


def with_exit(options: Sequence[Candidate], early_exit: Exit, device: MachineTimes) -> tuple[Candidate, ...]:
    """The options, and behind them those that ask this early exit first.

    Whoever asks it has run its cut's head; what it does not answer can go on from there, on the device or on a gateway,
    or be sent away as a whole. Their agreement is no better than the exit's; behind a lossy rung, the mistakes of both
    add up, as nobody has measured whether they meet the same inputs.
    """
    head_ms = device.head_ms.get(early_exit.cut)
    tail_ms = device.tail_ms.get(early_exit.cut)
    if head_ms is None or tail_ms is None:
        return tuple(options)
    asked_ms = head_ms + early_exit.exit_ms * device.whole_ms / early_exit.whole_ms
    missed = early_exit.answered_share * (1.0 - early_exit.assured)
    head_bytes = max((option.device_bytes for option in options if option.cut == early_exit.cut), default=0)
    found = []
    for option in options:
        if option.offloads and option.cut not in (None, early_exit.cut):
            continue
        found.append(
            replace(
                option,
                device_ms=asked_ms,
                rest_ms=0.0 if option.offloads else tail_ms,
                fallback_ms=tail_ms if option.offloads else 0.0,
                lossless=False,
                agreement=None
                if option.agreement is None
                else max(0.0, min(option.agreement - missed, early_exit.assured)),
                exit=early_exit.cut,
                exit_share=early_exit.answered_share,
                device_bytes=max(option.device_bytes, head_bytes),
            )
        )
    return (*options, *found)


_Replied = Callable[[Candidate, str], tuple[int, float]]


def _replied(manifest: Manifest, reply: ReplySize | None) -> _Replied:
    """What comes back, in bytes and as a share of the outputs' own, for a place and a codec.

    As it was measured: packed, but for raw requests, and as large as on average where the outputs have no fixed size.
    """
    varies = any(None in spec.shape for spec in manifest.outputs)

    def replied(place: Candidate, codec: str) -> tuple[int, float]:
        if reply is None or not place.reply_bytes:
            return place.reply_bytes, place.reply_share
        share = 1.0 if codec == "raw" else reply.packed_share
        return math.ceil(share * (reply.mean_bytes if varies else place.reply_bytes)), share

    return replied


def _as_measured(
    place: Candidate,
    measured: Place,
    device: float,
    gateway: float,
    replied: _Replied,
) -> Iterator[Candidate]:
    """A place, whose payload is raw, in every rung, on machines so many times slower than the one that measured."""
    for rung in measured.rungs:
        reply_bytes, reply_share = replied(place, rung.codec)
        # Not by `replace`, which takes twice as long.
        yield Candidate(
            place.cut,
            place.head,
            place.tail,
            place.device_ms,
            place.gateway_ms,
            math.ceil(rung.payload_bytes),
            reply_bytes,
            rung.encode_ms * device,
            rung.decode_ms * gateway,
            rung.codec,
            rung.lossless,
            rung.agreement,
            place.reveals_input,
            device_bytes=place.device_bytes,
            reply_share=reply_share,
            fallback_ms=place.fallback_ms,
        )


def _as_assumed(
    place: Candidate,
    manifest: Manifest,
    rungs: Sequence[Rung],
    replied: _Replied,
) -> Iterator[Candidate]:
    specs = manifest.free_inputs() if place.cut is None else manifest.cut(place.cut).tensors
    pixels = _picture_bytes(manifest, specs) if place.cut is None else None
    for rung in rungs:
        if rung.pictures_only and pixels is None:
            continue
        size = pixels if rung.pictures_only and pixels is not None else place.payload_bytes
        reply_bytes, reply_share = replied(place, rung.codec)
        yield replace(
            place,
            payload_bytes=_encoded_bytes(size, specs, rung),
            reply_bytes=reply_bytes,
            encode_ms=size / 1e6 * rung.encode_ms_per_mb,
            decode_ms=size / 1e6 * rung.decode_ms_per_mb,
            codec=rung.codec,
            lossless=rung.lossless,
            agreement=1.0 if rung.lossless else None,
            reply_share=reply_share,
        )


def _whole_input(manifest: Manifest, graph: Graph, gateway: MachineTimes) -> Candidate:
    free = manifest.free_inputs()
    return Candidate(
        cut=None,
        head=(),
        tail=tuple(layer.index for layer in graph.layers),
        device_ms=0.0,
        gateway_ms=gateway.whole_ms,
        payload_bytes=sum(nbytes(spec.dtype, manifest.sample_shapes[spec.name]) for spec in free),
        reply_bytes=_reply_bytes(manifest, graph, frozenset(), ()),
        codec="raw",
        reveals_input=bool(free),
    )


def _at_cut(manifest: Manifest, graph: Graph, cut: Cut, device: MachineTimes, gateway: MachineTimes) -> Candidate:
    head = frozenset(cut.nodes)
    return Candidate(
        cut=cut.id,
        head=cut.nodes,
        tail=tuple(layer.index for layer in graph.layers if layer.index not in head),
        device_ms=device.head_ms[cut.id],
        gateway_ms=gateway.tail_ms[cut.id],
        fallback_ms=device.tail_ms.get(cut.id, 0.0),
        payload_bytes=cut.payload_bytes,
        reply_bytes=_reply_bytes(manifest, graph, head, cut.head_outputs),
        codec="raw",
        reveals_input=cut.reveals_input,
    )


def _encoded_bytes(raw_bytes: int, specs: Sequence[TensorSpec], rung: Rung) -> int:
    """A rung's ratio is known for float32 and for pixels; anything else is counted as it is."""
    known = rung.pictures_only or all(spec.dtype == np.float32 for spec in specs)
    return math.ceil(raw_bytes * rung.ratio) if known else raw_bytes


def _picture_bytes(manifest: Manifest, free: Sequence[TensorSpec]) -> int | None:
    """Bytes of the 8-bit pixels of the one free input, None where that is not one picture."""
    if len(free) != 1 or not isinstance(manifest.semantics.get(free[0].name), ImageInput):
        return None
    return math.prod(manifest.sample_shapes[free[0].name])


def _reply_bytes(manifest: Manifest, graph: Graph, head: frozenset[int], head_outputs: Sequence[str]) -> int:
    """Bytes of the outputs that the gateway computes; with dynamic shapes, of the last layers' outputs."""
    outputs = [spec for spec in manifest.outputs if spec.name not in head_outputs]
    shapes = [tuple(size for size in spec.shape if size is not None) for spec in outputs]
    if all(len(shape) == len(spec.shape) for shape, spec in zip(shapes, outputs, strict=True)):
        return sum(nbytes(spec.dtype, shape) for spec, shape in zip(outputs, shapes, strict=True))
    feeding = {edge.source for edge in graph.edges}
    return sum(
        layer.output_bytes
        for layer in graph.layers
        if not layer.static and layer.index not in feeding and layer.index not in head
    )


def _quantised(manifest: Manifest, graph: Graph) -> bool:
    """Whether layers compute with bytes; in quantised ONNX models, what crosses between them may still be floats."""
    crossing = [spec for cut in manifest.cuts for spec in cut.tensors]
    return any(spec.scale is not None and spec.dtype.itemsize == 1 for spec in (*manifest.inputs, *crossing)) or any(
        layer.op == "QuantizeLinear" and not layer.static for layer in graph.layers
    )
