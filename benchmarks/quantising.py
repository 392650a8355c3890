"""What codec int8 takes: as its formula says, as it is built, and by operators within slices of real models.

``python benchmarks/quantising.py`` takes about a minute and writes docs/benchmarks/quantising.md.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from models import CONVERSIONS, MODELS, machine, table, verdict, write_page
from numpy.typing import NDArray

from midstream.communication.codecs.steps import dequantise, holds, keeps, quantise
from midstream.engines import Program, engine_for
from midstream.manifest import SliceRecord, carrier_names
from midstream.tensors import Tensors
from midstream_converters import slicing
from midstream_converters.coding import LEAST_BYTES, carried
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import PLAIN, ModelGraph, Slice, Source, Variant
from midstream_converters.loaded import Loaded
from midstream_converters.opening import Options, open_model, read_model
from midstream_converters.tflite.schema import IDENTIFIER, flatbuffers, schema
from midstream_converters.weights import WeightStore

ONNX_MODELS = (
    "ch_PP-OCRv4_det_infer.onnx",
    "ch_PP-OCRv4_rec_infer.onnx",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx",
)
# What crosses at the widest, a middle and a narrow place of selfie_segmentation and pose_landmark_full.
TFLITE_SHAPES = ((1, 128, 128, 64), (1, 128, 128, 16), (1, 64, 64, 16), (1, 32, 32, 16))
CODEC = "int8"
PLACES = 7
NEIGHBOURS = 8
ROUNDS = 61
QUANTILE = 0.25
LEAST_KEPT = 1 / 16
ASKED = 1.5

Work = Callable[[], object]
WAYS = ("formula", "built", "within", "alone")


@dataclass(frozen=True)
class Place:
    """One place: microseconds per MB of float32 of a copy, and of each way to encode and to decode."""

    model: str
    where: str
    bytes: int
    copy: float
    encode: dict[str, float]
    decode: dict[str, float]


def by_formula(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Codes as one would write them down."""
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = np.float32((high - low) / 255)
    zero = np.rint(-low / step)
    return np.clip(np.rint(values / step) + zero, 0, 255).astype(np.uint8)


def from_formula(codes: NDArray[np.uint8], step: float, zero: int) -> NDArray[np.float32]:
    """And their values."""
    return (codes.astype(np.float32) - np.float32(zero)) * np.float32(step)


def timed_us(works: dict[str, Work], before: Work) -> dict[str, float]:
    """Microseconds of this thread on the processor for each, in a new random order every round.

    Each runs twice and the second counts, as on a machine that does nothing else. ``before`` each run, and not in its
    time, what has just come off the wire is unpacked.
    """
    rng, times = random.Random(0), {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(ROUNDS):
        for name in rng.sample(list(works), len(works)):
            before()
            works[name]()
            before()
            start = time.thread_time()
            works[name]()
            times[name].append((time.thread_time() - start) * 1e6)
    return {name: float(np.quantile(series, QUANTILE)) for name, series in times.items()}


def onnx_places(name: str) -> Iterator[Place]:
    """Places all over a model, each with some layers before and after it, as onnxruntime runs them."""
    path, engine = MODELS / name, engine_for("onnx")
    with tempfile.TemporaryDirectory() as folder, WeightStore(Path(folder) / "weights.bin") as weights:
        opened = open_model(read_model(path), dict(CONVERSIONS).get(path, Options()), weights)
        opened.original.close()
        source, sample = opened.source, opened.types.generate(opened.shapes, 0)

        def load(part: Slice) -> Loaded:
            return Loaded(engine.load(Program(part.record, part.content, weights.path)), part.record.inputs)

        cuts = Cutter(source.graph).candidates()
        fit = [index for index in range(NEIGHBOURS, len(cuts) - NEIGHBOURS) if fits(source.graph, cuts, index)]
        for index in sorted({fit[int(at)] for at in np.linspace(0, len(fit) - 1, PLACES)}):
            yield onnx_place(source, cuts, index, sample, load)


def fits(graph: ModelGraph, cuts: Sequence[Candidate], index: int) -> bool:
    """Whether what crosses is of single precision, large enough, made by the layers before and read by those after."""
    before, cut, after = (cuts[index + step] for step in (-NEIGHBOURS, 0, NEIGHBOURS))
    specs = [graph.values[value].spec for value in cut.crossing]
    return (
        cut.payload_bytes >= LEAST_BYTES
        and all(spec is not None and spec.dtype == np.float32 for spec in specs)
        and set(cut.crossing).isdisjoint(before.crossing)
        and set(cut.crossing).isdisjoint(after.crossing)
        and all(value in graph.producer for value in cut.crossing)
    )


def onnx_place(
    source: Source, cuts: Sequence[Candidate], index: int, sample: Tensors, load: Callable[[Slice], Loaded]
) -> Place:
    """Each way beside the same layers without it."""
    before, cut, after = (cuts[index + step] for step in (-NEIGHBOURS, 0, NEIGHBOURS))
    names = cut.crossing
    encodes = Variant(codec=CODEC, gives_coded=names)
    parts = [
        slicing.middle(source, before, cut, PLAIN),
        slicing.middle(source, before, cut, encodes),
        slicing.middle(source, cut, after, PLAIN),
        slicing.middle(source, cut, after, Variant(codec=CODEC, takes_coded=names)),
    ]
    assert all(part is not None for part in parts)
    made_parts: list[Slice] = [part for part in parts if part is not None]
    codes_only = tuple(carrier for name in names for carrier in carrier_names(CODEC, name))
    made_parts.append(replace(made_parts[1], record=replace(made_parts[1].record, outputs=codes_only)))
    with load(slicing.halves(source, before).head) as head:
        given = sample | head.run(sample)
    loaded = [load(part) for part in made_parts]
    head, coding_head, tail, coding_tail, codes_head = loaded
    crossing = {name: value for name, value in head.run(given).items() if name in names}
    flat = {name: value.reshape(-1) for name, value in crossing.items()}
    coded = given | coding_head.run(given)
    codes = {name: carried(coded, CODEC, name) for name in names}
    sent = {name: stepped.codes.copy() for name, stepped in codes.items()}
    values = given | crossing
    copies = {name: np.empty_like(value) for name, value in flat.items()}

    def encode_built() -> None:
        made = head.run(given)
        for name in names:
            one = made[name].reshape(-1)
            stepped = quantise(one, 0.0)
            assert stepped is not None
            keeps(stepped, one, LEAST_KEPT)

    def encode_within() -> None:
        made = coding_head.run(given)
        for name in names:
            one, stepped = made[name].reshape(-1), carried(made, CODEC, name)
            assert holds(stepped, one)
            keeps(stepped, one, LEAST_KEPT)

    def encode_formula() -> None:
        made = head.run(given)
        for name in names:
            by_formula(made[name].reshape(-1))

    def decode_with(one: Callable[[str], NDArray[np.float32]]) -> None:
        tail.run(values | {name: one(name).reshape(crossing[name].shape) for name in names})

    took = timed_us(
        {
            "copy": lambda: [np.copyto(copies[name], flat[name]) for name in names],
            "head": lambda: head.run(given),
            "tail": lambda: tail.run(values),
            "formula": encode_formula,
            "built": encode_built,
            "within": encode_within,
            "alone": lambda: codes_head.run(given),
            "from formula": lambda: decode_with(
                lambda name: from_formula(codes[name].codes, codes[name].step, codes[name].zero)
            ),
            "from built": lambda: decode_with(lambda name: dequantise(codes[name])),
            "from within": lambda: coding_tail.run(coded),
        },
        before=lambda: [np.copyto(codes[name].codes, sent[name]) for name in names],
    )
    for each in loaded:
        each.close()
    size = sum(value.nbytes for value in crossing.values())
    encode = {way: (took[way] - took["head"]) / size * 1e6 for way in WAYS}
    decode = {way: (took[f"from {way}"] - took["tail"]) / size * 1e6 for way in WAYS[:3]}
    return Place(source.graph.nodes[cut.head[-1]].name, cut.id, size, took["copy"] / size * 1e6, encode, decode)


# Section: the same in TFLite


class Flatbuffer:
    """A TFLite program in the making, of one size of tensors and of numbers without axes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._model = schema.ModelT(version=3, buffers=[schema.BufferT()], operatorCodes=[])
        self._graph = schema.SubGraphT(tensors=[], operators=[])
        self._model.subgraphs = [self._graph]

    def value(self, *, large: bool = True, scale: float | None = None, constant: Any = None) -> int:
        """A float tensor; of uint8 where it has a scale."""
        tensor = schema.TensorT(buffer=0, name=f"t{len(self._graph.tensors)}")
        tensor.shape = list(self._shape) if large else list(np.shape(constant)) if constant is not None else []
        tensor.type = schema.TensorType.FLOAT32 if scale is None else schema.TensorType.UINT8
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT(scale=np.float32([scale]), zeroPoint=np.int64([0]))
        if constant is not None:
            if constant.dtype == np.int32:
                tensor.type = schema.TensorType.INT32
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(schema.BufferT(data=np.frombuffer(constant.tobytes(), np.uint8)))
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def apply(self, name: str, inputs: Sequence[int], output: int, options: str = "") -> int:
        """One operator; its options are all at their defaults."""
        code = getattr(schema.BuiltinOperator, name)
        self._model.operatorCodes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127)))
        self._model.operatorCodes[-1].version = 1
        operator = schema.OperatorT(inputs=list(inputs), outputs=[output])
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        if options:
            operator.builtinOptions = getattr(schema, f"{options}T")()
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        self._graph.operators.append(operator)
        return output

    def load(self, inputs: Sequence[int], outputs: Sequence[int]) -> Loaded:
        """As LiteRT runs it; tensors are called by their numbers."""
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        content = bytes(builder.Output())
        takes, gives = (tuple(map(str, numbers)) for numbers in (inputs, outputs))
        record = SliceRecord("t.tflite", len(content), takes, gives)
        return Loaded(engine_for("litert").load(Program(record, content, Path())), takes)


def tflite_head(shape: tuple[int, ...], way: str) -> Loaded:
    """A ReLU, then nothing, QUANTIZE of a range set ahead, or operators that find the range and code by it."""
    build = Flatbuffer(shape)
    given = build.value()
    made = build.apply("RELU", [given], build.value())
    if way == "plain":
        return build.load([given], [made])
    if way == "static":
        codes = build.apply("QUANTIZE", [made], build.value(scale=0.02), "QuantizeOptions")
        return build.load([given], [made, codes])

    def small(name: str, inputs: Sequence[int], options: str = "") -> int:
        return build.apply(name, inputs, build.value(large=False), options)

    def number(value: float) -> int:
        return build.value(large=False, constant=np.array(value, np.float32))

    axes = build.value(large=False, constant=np.arange(len(shape), dtype=np.int32))
    high = small("MAXIMUM", [small("REDUCE_MAX", [made, axes], "ReducerOptions"), number(0)], "MaximumMinimumOptions")
    low = small("MINIMUM", [small("REDUCE_MIN", [made, axes], "ReducerOptions"), number(0)], "MaximumMinimumOptions")
    step = small("MUL", [small("SUB", [high, low], "SubOptions"), number(1 / 255)], "MulOptions")
    inverse = small("DIV", [number(1), step], "DivOptions")
    below = small("ROUND", [small("MUL", [low, inverse], "MulOptions")])
    scaled = build.apply("MUL", [made, inverse], build.value(), "MulOptions")
    moved = build.apply("SUB", [scaled, below], build.value(), "SubOptions")
    # Of a scale of 1, QUANTIZE only rounds and clips.
    codes = build.apply("QUANTIZE", [moved], build.value(scale=1), "QuantizeOptions")
    return build.load([given], [made, codes, step, below])


def tflite_tail(shape: tuple[int, ...], way: str) -> Loaded:
    """The reverse, then a ReLU."""
    build = Flatbuffer(shape)
    if way == "plain":
        given = build.value()
        return build.load([given], [build.apply("RELU", [given], build.value())])
    codes = build.value(scale=0.02 if way == "static" else 1)
    values = build.apply("DEQUANTIZE", [codes], build.value(), "DequantizeOptions")
    takes = [codes]
    if way == "dynamic":
        step, zero = build.value(large=False), build.value(large=False)
        takes += [step, zero]
        values = build.apply("SUB", [values, zero], build.value(), "SubOptions")
        values = build.apply("MUL", [values, step], build.value(), "MulOptions")
    return build.load(takes, [build.apply("RELU", [values], build.value())])


def tflite_row(shape: tuple[int, ...]) -> list[object]:
    """MB, a copy, then encoding as built, static and dynamic, and decoding as built, static and dynamic."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stepped = quantise(np.maximum(values, 0).reshape(-1), 0.0)
    assert stepped is not None
    codes = stepped.codes.reshape(shape)
    sent = codes.copy()
    step, zero = np.array(stepped.step, np.float32), np.array(stepped.zero, np.float32)
    copied = np.empty_like(values)
    heads = {way: tflite_head(shape, way) for way in ("plain", "static", "dynamic")}
    tails = {way: tflite_tail(shape, way) for way in ("plain", "static", "dynamic")}
    first = {way: {"0": values} for way in heads}
    second: dict[str, Tensors] = {"plain": {"0": values}, "static": {"0": codes}}
    second["dynamic"] = {"0": codes, "2": step, "3": zero}
    made = heads["dynamic"].run(first["dynamic"])
    found = next(value for value in made.values() if value.dtype == np.uint8)
    assert np.abs(found.astype(int) - codes).max() <= 1
    (back,) = tails["dynamic"].run(second["dynamic"]).values()
    assert np.array_equal(back.reshape(-1), np.maximum(dequantise(stepped), 0))

    def checked(way: str) -> None:
        """What has to be asked of values whoever codes them."""
        one = heads[way].run(first[way])["1"].reshape(-1)
        holds(stepped, one)
        keeps(stepped, one, LEAST_KEPT)

    def encode_built() -> None:
        one = heads["plain"].run(first["plain"])["1"].reshape(-1)
        quantised = quantise(one, 0.0)
        assert quantised is not None
        keeps(quantised, one, LEAST_KEPT)

    took = timed_us(
        {
            "copy": lambda: np.copyto(copied, values),
            "head": lambda: heads["plain"].run(first["plain"]),
            "tail": lambda: tails["plain"].run(second["plain"]),
            "encode built": encode_built,
            "encode static": lambda: checked("static"),
            "encode dynamic": lambda: checked("dynamic"),
            "decode built": lambda: tails["plain"].run({"0": dequantise(stepped).reshape(shape)}),
            "decode static": lambda: tails["static"].run(second["static"]),
            "decode dynamic": lambda: tails["dynamic"].run(second["dynamic"]),
        },
        before=lambda: np.copyto(codes, sent),
    )
    mb = values.nbytes / 1e6
    ways = ("built", "static", "dynamic")
    encode = [f"{(took[f'encode {way}'] - took['head']) / mb:.0f}" for way in ways]
    decode = [f"{(took[f'decode {way}'] - took['tail']) / mb:.0f}" for way in ways]
    return [f"{mb:.2f}", f"{took['copy'] / mb:.0f}", *encode, *decode]


# Section: the page


def encodes(place: Place) -> dict[str, float]:
    """The device's end."""
    return place.encode


def decodes(place: Place) -> dict[str, float]:
    """The gateway's."""
    return place.decode


def page(places: dict[str, list[Place]], tflite: list[list[object]], seconds: float) -> str:
    """The generated page."""
    everything = [place for each in places.values() for place in each]

    def middle(of: Callable[[Place], float]) -> float:
        return median(of(place) for place in everything)

    copy = middle(lambda place: place.copy)
    encode = {way: middle(lambda place, way=way: place.encode[way]) for way in WAYS}
    decode = {way: middle(lambda place, way=way: place.decode[way]) for way in WAYS[:3]}
    pair = middle(lambda place: place.encode["alone"] + place.decode["within"])
    beside = middle(lambda place: place.encode["built"] + place.decode["built"])
    both = ("built", "within")
    ends = (encodes, decodes)
    encoded, decoded = (middle(lambda place, end=end: min(end(place)[way] for way in both)) for end in ends)
    chosen = middle(lambda place: sum(min(end(place)[way] for way in both) for end in ends))
    heads, tails = (sum(end(place)["within"] < end(place)["built"] for place in everything) for end in ends)
    summary = [
        ["the formula in numpy", encode["formula"], decode["formula"], encode["formula"] + decode["formula"]],
        ["as built, beside the slices", encode["built"], decode["built"], beside],
        ["within the slices, checked", encode["within"], decode["within"], encode["within"] + decode["within"]],
        ["the operators alone, unchecked", encode["alone"], decode["within"], pair],
        ["the quicker of both, place by place", encoded, decoded, chosen],
    ]
    rows = [[name, *(f"{value:.0f}" for value in each), f"{each[-1] / copy:.1f}"] for name, *each in summary]
    detail = [
        [
            model,
            place.where,
            f"{place.bytes / 1e6:.2f}",
            f"{place.copy:.0f}",
            *(f"{place.encode[way]:.0f}" for way in WAYS),
            *(f"{place.decode[way]:.0f}" for way in WAYS[:3]),
        ]
        for model, each in places.items()
        for place in each
    ]
    return f"""# Quantising within slices and beside them

Generated by `python benchmarks/quantising.py`. Microseconds of one thread on the processor per MB of float32, for codec
`int8` without its entropy stage. Each figure is the time of some layers of a real model with the coding less that of
the same layers without: the {QUANTILE:.0%} quantile of {ROUNDS} rounds in random order, each run following one of its
own kind. What coding does to the caches of the layers is in it; small differences of that kind can be negative. A
*copy* is `memcpy` of the same tensors in the same rounds.

## ONNX: medians of {len(everything)} places of {len(places)} models

{table("way| encode| decode| both| both, in copies", rows)}

*As built* is OpenCV and numpy, and looks at whether all values are finite and enough of them is kept. *Within the
slices* is DynamicQuantizeLinear and DequantizeLinear, and the head's codes are looked at in the same way: onnxruntime
makes codes of NaN too. *Alone*, the head is not looked at, and is spared handing out the floats, which a device keeps
to go on by itself.

Of these {len(everything)} places, encoding is quicker within the head at {heads}, and decoding
within the tail at {tails}. Asked for: both ends within {ASKED} × of the operators alone. Beside the slices they take
{beside / pair:.2f} ×, the quicker of both {chosen / pair:.2f} ×: {verdict(chosen <= ASKED * pair)}.

{table("model|cut| MB| copy| formula| built| within| alone| formula| built| within", detail)}

The first four ways are to encode, the last three to decode. A conversion times both ends of the bundle's own cuts in
the same manner, and its heads and tails code themselves where that is quicker by a tenth or more.

## TFLite: a ReLU with and without coding

{table("MB| copy| encode: built| static range| dynamic range| decode: built| static range| dynamic range", tflite)}

A *static* range is what QUANTIZE and DEQUANTIZE have: set at conversion, so that a larger value is clipped, which the
codec must not do. The *dynamic* one is made of REDUCE_MAX, REDUCE_MIN, SUB, MUL, DIV, ROUND and a QUANTIZE that only
rounds; back, of a DEQUANTIZE of scale 1, SUB and MUL. LiteRT copies what goes in and out, which is in the figures.
So TFLite heads of a bundle do not encode, and tails decode where that is quicker.

Measured in {seconds:.0f} s on {machine()}, load {os.getloadavg()[0]:.1f}.
"""


def main() -> None:
    cv2.setNumThreads(1)
    start = time.perf_counter()
    places = {name: list(onnx_places(name)) for name in ONNX_MODELS}
    tflite = [tflite_row(shape) for shape in TFLITE_SHAPES]
    write_page("quantising", page(places, tflite, time.perf_counter() - start))


if __name__ == "__main__":
    main()
