"""Make and train the small models in tests/models: one of every kind that the converters must handle.

TensorFlow is no dependency of midstream, so this runs in an environment of its own, a few minutes on one core::

    python3 -m venv /tmp/tfenv
    /tmp/tfenv/bin/pip install tensorflow==2.21.0 tf2onnx==1.17.0 scikit-learn onnx 'onnxruntime<1.29' ai-edge-litert
    /tmp/tfenv/bin/python benchmarks/make_models.py [FOLDER]

Seeds are fixed, operators deterministic, threads one: the same packages on the same kind of processor write the same
bytes. Data: scikit-learn's digits (in its package), and clips of tones and chirps in noise that are made here.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "ORT_DISABLE_TELEMETRY": "1",
}

import keras
import onnx
import onnxruntime as ort
import tensorflow as tf
import tf2onnx
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from sklearn.datasets import load_digits
from tensorflow.python.eager.context import function_executor_type
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

Array = np.ndarray[Any, np.dtype[Any]]
Weights = dict[str, Array]
Sample = Sequence[Sequence[Array]]

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "models"
HELD_OUT_DIGITS = 450
SHOWN_DIGITS = 48
SHOWN_CLIPS = 30
CLASSES = ("noise", "low tone", "high tone", "rising chirp", "falling chirp", "warble")
FRAMES, BANDS, UNITS = 24, 12, 20
LSTM_CHUNK, GRU_CHUNK, ONNX_CHUNK = 8, 2, 4

# Even with one thread the default executor may add three gradients in either order.
IN_ORDER = "SINGLE_THREADED_EXECUTOR"

# About half of the digits have more ink than this.
_INK = 0.305
_STEPS = 4
_SATED = 2.5
_FORGET = 0.05


# Data


@dataclass(frozen=True)
class Examples:
    """Inputs, batch first, and their classes; the last ``held_out`` are never trained on."""

    inputs: Array
    labels: Array
    held_out: int

    @property
    def training(self) -> tuple[Array, Array]:
        """Inputs and classes to learn from."""
        return self.inputs[: -self.held_out], self.labels[: -self.held_out]

    @property
    def unseen(self) -> tuple[Array, Array]:
        """Inputs and classes to judge by."""
        return self.inputs[-self.held_out :], self.labels[-self.held_out :]


def digits() -> Examples:
    """Scikit-learn's 1797 digits as float32 [n, 8, 8, 1] from 0 to 1, shuffled."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = (bunch.images[order] / 16.0).astype(np.float32)[..., None]
    return Examples(images, bunch.target[order].astype(np.int32), HELD_OUT_DIGITS)


def clips(count: int = 3600, held_out: int = 600) -> Examples:
    """Made clips of half a second as float32 [n, FRAMES, BANDS]: log energies of bands, in steps of 1/16."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, len(CLASSES), count).astype(np.int32)
    return Examples(np.stack([_bands(_clip(int(label), rng), rng) for label in labels]), labels, held_out)


def _clip(label: int, rng: np.random.Generator, rate: int = 8000) -> Array:
    length = FRAMES * 160 + 96
    time = np.arange(length) / rate
    low, high = rng.uniform(300, 700), rng.uniform(1300, 2600)
    share = np.linspace(0.0, 1.0, length)
    pitch = {
        0: np.zeros(length),
        1: np.full(length, low),
        2: np.full(length, high),
        3: low + (high - low) * share,
        4: high + (low - high) * share,
        5: np.where(np.sin(2 * np.pi * rng.uniform(5, 8) * time + rng.uniform(0, 6)) > 0, low, high),
    }[label]
    loudness = np.where(time < rng.uniform(0.0, 0.08), 0.0, rng.uniform(0.3, 1.0)) * (label > 0)
    tone = loudness * np.sin(2 * np.pi * np.cumsum(pitch) / rate + rng.uniform(0, 6))
    return tone + rng.uniform(0.02, 0.25) * rng.standard_normal(length)


def _bands(sound: Array, rng: np.random.Generator) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(sound, 256)[::160][:FRAMES]
    power = np.abs(np.fft.rfft(windows * np.hanning(256))) ** 2
    edges = np.unique(np.geomspace(4, 120, BANDS + 1).round().astype(int))
    energy = np.stack([power[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    level = np.log10(energy + 1e-3) * rng.uniform(0.95, 1.05)
    return (np.round(np.clip(level, -4.0, 4.0) * 16.0) / 16.0).astype(np.float32)


# Layers: a net is written once, and built with variables to train, with constants for TFLite, and as ONNX nodes


class TfLayers:
    """Layers in TensorFlow over trained weights, batch of one."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def weight(self, name: str, shape: tuple[int, ...]) -> Any:
        """A trained weight, of this shape."""
        assert self.weights[name].shape == shape, name
        return tf.constant(self.weights[name])

    def conv(self, x: Any, name: str, channels: int, size: int = 3, relu: bool = True) -> Any:
        """Convolution with bias, of the same height and width."""
        kernel = self.weight(f"{name}/kernel", (size, size, int(x.shape[-1]), channels))
        y = tf.nn.conv2d(x, kernel, 1, "SAME") + self.weight(f"{name}/bias", (channels,))
        return tf.nn.relu(y) if relu else y

    def dense(self, x: Any, name: str, units: int, relu: bool = False) -> Any:
        """Matrix product with bias, over the last axis."""
        y = tf.matmul(x, self.weight(f"{name}/kernel", (int(x.shape[-1]), units)))
        y = y + self.weight(f"{name}/bias", (units,))
        return tf.nn.relu(y) if relu else y

    def add(self, x: Any, y: Any) -> Any:
        """Elementwise sum."""
        return x + y

    def relu(self, x: Any) -> Any:
        """Rectifier."""
        return tf.nn.relu(x)

    def concat(self, parts: Sequence[Any]) -> Any:
        """Channels of all parts."""
        return tf.concat(parts, axis=-1)

    def beside(self, parts: Sequence[Any]) -> Any:
        """Pictures of equal height side by side."""
        return tf.concat(parts, axis=2)

    def pool(self, x: Any) -> Any:
        """Maximum of each 2 × 2."""
        return tf.nn.max_pool2d(x, 2, 2, "VALID")

    def mean(self, x: Any) -> Any:
        """Mean of each channel: [n, channels]."""
        return tf.reduce_mean(x, axis=(1, 2))

    def flat(self, x: Any) -> Any:
        """All values of a sample in a row."""
        return tf.reshape(x, (-1, int(np.prod(x.shape[1:]))))

    def softmax(self, x: Any) -> Any:
        """Shares that sum to one."""
        return tf.nn.softmax(x)

    def level(self, x: Any) -> Any:
        """Mean of a whole sample: [n, 1, 1, 1]."""
        return tf.reduce_mean(x, axis=(1, 2, 3), keepdims=True)

    def half(self, x: Any, lower: bool) -> Any:
        """Upper or lower four rows."""
        return x[:, 4:] if lower else x[:, :4]

    def more(self, x: Any, y: Any) -> Any:
        """Whether x > y."""
        return x > y

    def choose(self, condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        """The result of one of two sub-nets, of the same shape."""
        return tf.cond(tf.reshape(condition, ()), then, otherwise)

    def repeat(self, x: Any, step: Callable[[Any], Any], limit: int, below: float) -> tuple[Any, Any]:
        """Steps until the level reaches ``below``, at most ``limit``: the result, and how many there were."""
        count, result = tf.while_loop(
            lambda i, z: tf.logical_and(i < limit, tf.reduce_mean(z) < below),
            lambda i, z: (i + 1, step(z)),
            (tf.constant(0), x),
        )
        return result, count


class TrainedLayers(TfLayers):
    """The same over variables, made on first use, for a batch of any size."""

    def __init__(self, rng: np.random.Generator, density: Mapping[str, float]) -> None:
        super().__init__({})
        self.variables: dict[str, Any] = {}
        self.masks: Weights = {}
        self._rng = rng
        self._density = density

    def weight(self, name: str, shape: tuple[int, ...]) -> Any:
        """A variable; one of given density has most blocks of 16 inputs to one output fixed at zero."""
        if name not in self.variables:
            spread = np.sqrt(2.0 / int(np.prod(shape[:-1]))) if name.endswith("kernel") else 0.0
            first = self._rng.normal(0.0, 1.0, shape).astype(np.float32) * np.float32(spread)
            self.variables[name] = tf.Variable(first, name=name)
            if name in self._density:
                self.masks[name] = self._mask(shape, self._density[name])
        variable = self.variables[name]
        return variable * tf.constant(self.masks[name]) if name in self.masks else variable

    def trained(self) -> Weights:
        """The weights as they are now."""
        return {
            name: variable.numpy() * self.masks.get(name, np.float32(1)) for name, variable in self.variables.items()
        }

    def choose(self, condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        """Both, and for each sample the one that counts, or now and then the other: so each learns from more."""
        swapped = tf.random.uniform(tf.shape(condition), seed=4) < 0.3
        return tf.where(tf.math.logical_xor(condition, swapped), then(), otherwise())

    def repeat(self, x: Any, step: Callable[[Any], Any], limit: int, below: float) -> tuple[Any, Any]:
        """All steps, each counting for the samples that still take it."""
        count = tf.zeros(tf.shape(x)[0], tf.int32)
        for _ in range(limit):
            goes_on = self.level(x) < below
            x = tf.where(goes_on, step(x), x)
            count = count + tf.cast(tf.reshape(goes_on, (-1,)), tf.int32)
        return x, count

    def _mask(self, shape: tuple[int, ...], density: float, block: int = 16) -> Array:
        inputs, outputs = int(np.prod(shape[:-1])), shape[-1]
        kept = np.zeros((inputs // block, outputs), np.float32)
        for column in range(outputs):
            chosen = self._rng.choice(len(kept), max(1, round(len(kept) * density)), replace=False)
            kept[chosen, column] = 1.0
        return np.repeat(kept, block, axis=0).reshape(shape)


class OnnxLayers:
    """The same as ONNX nodes, channels first. A sub-net is a graph of its own that captures the outer values."""

    opset = 17

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.initializers: dict[str, Any] = {}
        self.functions: list[Any] = []
        self._nodes: list[Any] = []
        self._count = 0

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node; the name of its output, or the names."""
        self._count += 1
        names = [f"{kind.lower()}_{self._count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self._nodes.append(
            helper.make_node(kind, inputs, names, name=f"{kind}_{self._count}", domain=domain or None, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, name: str, value: Any) -> str:
        """An initializer of the main graph."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    @contextmanager
    def subgraph(self) -> Iterator[list[Any]]:
        """Collect the nodes made meanwhile."""
        outer, self._nodes = self._nodes, []
        try:
            yield self._nodes
        finally:
            self._nodes = outer

    def picture(self, image: str) -> str:
        """Channels last to channels first."""
        return str(self.op("Transpose", image, perm=[0, 3, 1, 2]))

    def kernel(self, name: str) -> str:
        """A convolution's weights, [out, in, height, width]."""
        weight = self.weights[f"{name}/kernel"].transpose(3, 2, 0, 1)
        return self.constant(f"{name}.weight", np.ascontiguousarray(weight))

    def bias(self, name: str) -> str:
        """A layer's bias."""
        return self.constant(f"{name}.bias", self.weights[f"{name}/bias"])

    def conv(self, x: str, name: str, channels: int, size: int = 3, relu: bool = True) -> str:
        """Convolution with bias, of the same height and width."""
        weights = (self.kernel(name), self.bias(name))
        y = self.op("Conv", x, *weights, kernel_shape=[size, size], pads=[size // 2] * 4)
        return self.relu(y) if relu else str(y)

    def dense(self, x: str, name: str, units: int, relu: bool = False) -> str:
        """Matrix product with bias."""
        weight = self.constant(f"{name}.weight", self.weights[f"{name}/kernel"])
        y = self.op("Add", self.op("MatMul", x, weight), self.bias(name))
        return self.relu(y) if relu else str(y)

    def add(self, x: str, y: str) -> str:
        """Elementwise sum."""
        return str(self.op("Add", x, y))

    def relu(self, x: str) -> str:
        """Rectifier."""
        return str(self.op("Relu", x))

    def concat(self, parts: Sequence[str]) -> str:
        """Channels of all parts."""
        return str(self.op("Concat", *parts, axis=1))

    def beside(self, parts: Sequence[str]) -> str:
        """Pictures of equal height side by side."""
        return str(self.op("Concat", *parts, axis=3))

    def pool(self, x: str) -> str:
        """Maximum of each 2 × 2."""
        return str(self.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))

    def mean(self, x: str) -> str:
        """Mean of each channel: [n, channels]."""
        return str(self.op("Flatten", self.op("GlobalAveragePool", x)))

    def softmax(self, x: str) -> str:
        """Shares that sum to one."""
        return str(self.op("Softmax", x, axis=-1))

    def level(self, x: str) -> str:
        """Mean of a whole sample: a scalar."""
        return str(self.op("ReduceMean", x, keepdims=0))

    def half(self, x: str, lower: bool) -> str:
        """Upper or lower four rows."""
        first, last = (4, 8) if lower else (0, 4)
        bounds = [self.constant(f"rows_{name}", np.array([value])) for name, value in (("4", 4), ("8", 8), ("0", 0))]
        by_value = dict(zip((4, 8, 0), bounds, strict=True))
        return str(self.op("Slice", x, by_value[first], by_value[last], self.constant("height_axis", np.array([2]))))

    def more(self, x: str, y: str | float) -> str:
        """Whether x > y."""
        other = y if isinstance(y, str) else self.constant("threshold", np.float32(y))
        return str(self.op("Greater", x, other))

    def choose(self, condition: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """The result of one of two sub-graphs."""
        branches = {"then_branch": self._branch("then", then), "else_branch": self._branch("else", otherwise)}
        return str(self.op("If", condition, **branches))

    def _branch(self, name: str, build: Callable[[], str]) -> Any:
        with self.subgraph() as nodes:
            result = self.op("Identity", build())
        return helper.make_graph(nodes, f"{name}_{self._count}", [], [untyped(result)])

    def repeat(self, x: str, step: Callable[[str], str], limit: int, below: float) -> tuple[str, str]:
        """Steps until the level reaches ``below``, at most ``limit``: the result, and the level after each."""

        def goes_on(value: str) -> str:
            return str(self.op("Less", self.level(value), self.constant("sated", np.float32(below))))

        first = goes_on(x)
        with self.subgraph() as nodes:
            y = step("x_before")
            goes_on_after = goes_on(y)
            ends = [untyped(name) for name in (goes_on_after, y, self.op("Identity", self.level(y)))]
        starts = [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on_before", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_before", TensorProto.FLOAT, None),
        ]
        body = helper.make_graph(nodes, "step", starts, ends)
        result, levels = self.op("Loop", self.constant("limit", np.int64(limit)), first, x, outputs=2, body=body)
        return result, levels

    def model(self, inputs: Sequence[Any], outputs: Mapping[str, tuple[str, Any]], ir_version: int = 8) -> Any:
        """The whole model; outputs are named anew, each with its declaration."""
        for name, (value, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"name_{name}"))
        graph = helper.make_graph(
            self._nodes, "digits", inputs, [declared for _, declared in outputs.values()], [*self.initializers.values()]
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted({f.domain for f in self.functions})]
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=ir_version)
        model.producer_name = "midstream make_models"
        onnx.checker.check_model(model)
        return model


def tensor(name: str, *shape: int | str | None, kind: int = TensorProto.FLOAT) -> Any:
    """A declared ONNX input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def untyped(name: str) -> Any:
    """An ONNX output of which nothing is said but its name."""
    return onnx.ValueInfoProto(name=name)


class CallingLayers(OnnxLayers):
    """Convolutions as calls of a local function, which calls another one and hands an attribute on."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("midstream.made", 1)]
        convolve = helper.make_node("Conv", ["x", "w", "b"], ["y"], kernel_shape=[3, 3])
        convolve.attribute.append(helper.make_attribute_ref("pads", onnx.AttributeProto.INTS))
        inner = helper.make_node("Padded", ["x", "w", "b"], ["before"], domain="midstream.made")
        inner.attribute.append(helper.make_attribute_ref("pads", onnx.AttributeProto.INTS))
        rectify = helper.make_node("Relu", ["before"], ["after"])
        self.functions = [
            helper.make_function("midstream.made", "Padded", ["x", "w", "b"], ["y"], [convolve], imports, ["pads"]),
            helper.make_function(
                "midstream.made", "Rectified", ["x", "w", "b"], ["after"], [inner, rectify], imports, ["pads"]
            ),
        ]

    def conv(self, x: str, name: str, channels: int, size: int = 3, relu: bool = True) -> str:
        """A call."""
        kind = "Rectified" if relu else "Padded"
        return str(self.op(kind, x, self.kernel(name), self.bias(name), domain="midstream.made", pads=[size // 2] * 4))


class SequenceLayers(OnnxLayers):
    """The channels of every layer but the first taken apart into a sequence, and put together again."""

    def conv(self, x: str, name: str, channels: int, size: int = 3, relu: bool = True) -> str:
        """Convolution; then split, insert into another sequence at its front, and concatenate."""
        whole = super().conv(x, name, channels, size, relu)
        if name == "stem":
            return whole
        counts = self.constant(f"halves_{channels}", np.array([channels // 2] * 2))
        apart = self.op("SplitToSequence", whole, counts, axis=1)
        first, second = (self.op("SequenceAt", apart, self.constant(f"at_{i}", np.int64(i))) for i in (0, 1))
        joined = self.op("SequenceInsert", self.op("SequenceConstruct", second), first, "at_0")
        return str(self.op("ConcatFromSequence", joined, axis=1))


class OptionalValueLayers(OnnxLayers):
    """A skip connection as an optional value, looked at by an If."""

    def add(self, x: str, y: str) -> str:
        """The sum, if the optional holds something."""
        maybe = self.op("Optional", x)

        def with_it() -> str:
            return str(self.op("Add", self.op("OptionalGetElement", maybe), y))

        return self.choose(self.op("OptionalHasElement", maybe), with_it, lambda: y)


class EmptyInputLayers(OnnxLayers):
    """Operators some of whose optional inputs and outputs are left empty."""

    def relu(self, x: str) -> str:
        """Clip from below only, then from above only, far out of reach."""
        above = self.op("Clip", x, self.constant("zero", np.float32(0)))
        return str(self.op("Clip", above, "", self.constant("reach", np.float32(1e6))))

    def pool(self, x: str) -> str:
        """Maximum of each 2 × 2, of a picture that was doubled and halved before."""
        shape = self.op("Shape", x)
        double = self.op("Mul", shape, self.constant("twice", np.array([1, 1, 2, 2])))
        larger = self.op("Resize", x, "", "", double, mode="nearest")
        pooled = super().pool(larger)
        kept, _ = self.op("Dropout", pooled, "", "", outputs=2)
        return super().pool(kept)


class ReshapingLayers(OnnxLayers):
    """Sizes that no file declares and that follow only from a computed reshape."""

    def mean(self, x: str) -> str:
        """Mean of each channel, over a row of all its values."""
        bounds = [self.constant(f"axis_{i}", np.array([i])) for i in (0, 2)]
        kept = self.op("Slice", self.op("Shape", x), *bounds)
        rows = self.op("Reshape", x, self.op("Concat", kept, self.constant("rest", np.array([-1])), axis=0))
        return str(self.op("ReduceMean", rows, axes=[2], keepdims=0))


# Nets


def plain(m: Any, image: Any) -> Any:
    """Six layers with one skip connection, of any height and width."""
    x = m.conv(image, "stem", 8)
    y = m.conv(m.conv(x, "left", 8), "right", 8, relu=False)
    x = m.conv(m.pool(m.relu(m.add(x, y))), "late", 16)
    return m.softmax(m.dense(m.mean(x), "scores", 10))


def gated(m: Any, image: Any) -> Any:
    """Dark pictures take a larger sub-net, and in it the top-heavy ones a larger one again."""
    x = m.conv(image, "stem", 8)

    def larger() -> Any:
        y = m.conv(m.conv(x, "wide", 12), "narrow", 8)
        top_heavy = m.more(m.level(m.half(image, lower=False)), m.level(m.half(image, lower=True)))
        return m.choose(top_heavy, lambda: m.add(m.conv(y, "extra", 8), x), lambda: m.add(y, x))

    x = m.choose(m.more(m.level(image), _INK), larger, lambda: m.conv(x, "small", 8, size=1))
    x = m.conv(m.pool(x), "late", 16)
    return m.softmax(m.dense(m.mean(x), "scores", 10))


def refined(m: Any, image: Any) -> tuple[Any, Any]:
    """One layer again and again until its output is strong enough; scores, and what the loop tells of its steps."""
    stem = m.conv(image, "stem", 8)
    x, told = m.repeat(stem, lambda z: m.add(z, m.conv(m.add(z, stem), "step", 8)), _STEPS, _SATED)
    x = m.conv(m.pool(x), "late", 16)
    return m.softmax(m.dense(m.mean(x), "scores", 10)), told


def two_halves(m: Any, left: Any, right: Any) -> tuple[Any, Any, Any]:
    """Two inputs; three outputs: the digit, whether it is odd, and the features both were told from."""
    a, b = m.conv(left, "left", 6), m.conv(right, "right", 6)
    joined = m.conv(m.beside([a, b]), "joined", 12)
    features = m.mean(m.conv(m.pool(joined), "late", 16))
    odd = m.softmax(m.dense(m.dense(features, "hidden", 12, relu=True), "odd", 2))
    return m.softmax(m.dense(features, "digit", 10)), odd, features


def sparse(m: Any, image: Any) -> Any:
    """Layers most of whose weights are zero, in blocks of 16."""
    x = m.pool(m.conv(image, "stem", 32))
    x = m.conv(x, "pointwise", 16, size=1)
    x = m.dense(m.flat(x), "hidden", 48, relu=True)
    return m.softmax(m.dense(x, "scores", 10))


def centred(m: Any, image: Any, centre: Callable[[Any], Any]) -> Any:
    """Features less their running mean, which ``centre`` keeps."""
    x = m.conv(m.conv(image, "stem", 8), "early", 8)
    features = m.mean(m.conv(m.pool(x), "late", 16))
    return m.softmax(m.dense(m.dense(centre(features), "hidden", 16, relu=True), "scores", 10))


def row_cell(m: Any, row: Any, hidden: Any) -> Any:
    """What a recurrent net makes of one row of the picture, before the nonlinearity."""
    return m.add(m.dense(row, "row", 24), m.dense(hidden, "state", 24))


# Training


def jitter(images: Array, rng: np.random.Generator) -> Array:
    """The pictures a column aside, or not, a little noisy, fainter or stronger."""
    shifted = np.roll(images, rng.integers(-1, 2), axis=2)
    noisy = shifted * rng.uniform(0.8, 1.1, (len(images), 1, 1, 1)) + 0.06 * rng.standard_normal(images.shape)
    return np.clip(noisy, 0.0, 1.0).astype(np.float32)


def enlarge(images: Array, rng: np.random.Generator) -> Array:
    """Half the time the pictures at their size, else somewhere in a larger empty one."""
    images = jitter(images, rng)
    if rng.random() < 0.5:
        return images
    top, left = rng.integers(0, 4, 2)
    return np.pad(images, ((0, 0), (top, 3 - top), (left, 6 - left), (0, 0)))


def train(
    net: Callable[[TrainedLayers, Any], Any],
    examples: Examples,
    epochs: int = 60,
    density: Mapping[str, float] | None = None,
    vary: Callable[[Array, np.random.Generator], Array] = jitter,
) -> Weights:
    """Weights of a net that gives shares for the classes, or pairs of shares for the classes and for odd or even."""
    rng = np.random.default_rng(2)
    inputs, labels = examples.training
    layers = TrainedLayers(rng, density or {})
    net(layers, tf.constant(inputs[:2]))
    variables = list(layers.variables.values())
    batch = 32
    steps = epochs * (len(inputs) // batch)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, steps))
    optimizer.build(variables)

    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def learn(given: Any, wanted: Any) -> Any:
        with tf.GradientTape() as tape:
            told = net(layers, given)
            if isinstance(told, tuple):
                loss = _surprise(told[0], wanted) + _surprise(told[1], wanted % 2)
            else:
                loss = _surprise(told, wanted)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    with function_executor_type(IN_ORDER):
        for _ in range(epochs):
            order = rng.permutation(len(inputs))
            for start in range(0, len(order) - batch + 1, batch):
                chosen = order[start : start + batch]
                learn(tf.constant(vary(inputs[chosen], rng)), tf.constant(labels[chosen]))
    return layers.trained()


def _surprise(shares: Any, wanted: Any) -> Any:
    return -tf.reduce_mean(tf.math.log(tf.gather(shares, wanted, batch_dims=1) + 1e-7))


def dag(examples: Examples) -> Any:
    """A Keras classifier of some 20 layers with branches, skip connections and concatenations, trained."""
    layer = keras.layers

    def conv(x: Any, channels: int, size: int = 3, relu: bool = True) -> Any:
        x = layer.BatchNormalization()(layer.Conv2D(channels, size, padding="same", use_bias=False)(x))
        return layer.ReLU()(x) if relu else x

    image = keras.Input((8, 8, 1), batch_size=None, name="image")
    x = conv(image, 10)
    x = layer.ReLU()(layer.Add()([x, conv(conv(x, 10), 10, relu=False)]))
    pooled = conv(layer.MaxPooling2D(3, 1, "same")(x), 6, size=1)
    x = layer.Concatenate()([conv(x, 8, size=1), conv(conv(x, 6, size=1), 10), pooled])
    x = conv(layer.AveragePooling2D(2)(x), 14)
    deep = layer.BatchNormalization()(layer.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
    x = layer.Add()([x, conv(layer.ReLU()(deep), 14, size=1, relu=False)])
    x = layer.Concatenate()([layer.GlobalAveragePooling2D()(x), layer.GlobalMaxPooling2D()(conv(x, 12, size=1))])
    x = layer.Dense(24, activation="relu")(x)
    model = keras.Model(image, layer.Dense(10, activation="softmax", name="scores")(x))
    inputs, labels = examples.training
    rate = keras.optimizers.schedules.CosineDecay(4e-3, 60 * (len(inputs) // 32 + 1))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    with function_executor_type(IN_ORDER):
        model.fit(inputs, labels, batch_size=32, epochs=60, verbose=0)
    return model


def recurrent(examples: Examples, kind: Any) -> Any:
    """A Keras classifier of clips: a layer on each frame, then a GRU or LSTM, then scores; trained."""
    frames = keras.Input((FRAMES, BANDS), batch_size=None, name="frames")
    x = keras.layers.Dense(16, activation="relu", name="frame")(frames)
    x = kind(UNITS, name="memory")(x)
    model = keras.Model(frames, keras.layers.Dense(len(CLASSES), activation="softmax", name="scores")(x))
    inputs, labels = examples.training
    rate = keras.optimizers.schedules.CosineDecay(6e-3, 20 * (len(inputs) // 32 + 1))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    with function_executor_type(IN_ORDER):
        model.fit(inputs, labels, batch_size=32, epochs=20, verbose=0)
    return model


def keras_weights(model: Any) -> Weights:
    """Weights of a recurrent model by layer and name."""
    return {f"{layer.name}/{variable.name}": variable.numpy() for layer in model.layers for variable in layer.weights}


# TFLite


def signature(**shapes: tuple[int | None, ...]) -> list[Any]:
    """What a function takes: float32 of these shapes."""
    return [tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()]


def frozen(function: Callable[..., Any], **shapes: tuple[int | None, ...]) -> Any:
    """A converter of one function without variables; its inputs keep their names."""
    traced = tf.function(function, input_signature=signature(**shapes), autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()])


def frozen_keras(model: Any, **shape: tuple[int, ...]) -> Any:
    """A converter of a Keras model of one input, its variables made constants; the input gets this name and shape."""
    traced = tf.function(lambda x: model(x, training=False), signature(**shape), autograph=False)
    constant = convert_variables_to_constants_v2(traced.get_concrete_function())
    return tf.lite.TFLiteConverter.from_concrete_functions([constant])


def converted(converter: Any, **settings: Any) -> bytes:
    """What the converter makes with these settings; ``types`` and ``operators`` go to its target specification."""
    converter.target_spec.supported_types = settings.pop("types", [])
    converter.target_spec.supported_ops = settings.pop("operators", [tf.lite.OpsSet.TFLITE_BUILTINS])
    for name, value in settings.items():
        setattr(converter, name, value)
    return bytes(converter.convert())


def converted_module(module: Any, signatures: Mapping[str, Any], **settings: Any) -> bytes:
    """The same from a module saved to disk with named signatures."""
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=dict(signatures))
        return converted(tf.lite.TFLiteConverter.from_saved_model(folder), **settings)


def integers(examples: Examples, kind: Any, batches: int = 200) -> dict[str, Any]:
    """Settings for all layers in int8, and this type at both ends."""
    inputs, _ = examples.training
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([inputs[i : i + 1]] for i in range(batches)),
        "operators": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
        "inference_input_type": kind,
        "inference_output_type": kind,
    }


class Centring(tf.Module):  # type: ignore[misc]
    """The centred net with its running mean and a count of inputs in variables."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._layers = TfLayers(weights)
        self.mean = tf.Variable(tf.zeros((1, 16)), name="mean")
        self.seen = tf.Variable(0.0, name="seen")

    @tf.function(input_signature=signature(image=(1, 8, 8, 1)), autograph=False)  # type: ignore[untyped-decorator]
    def classify(self, image: Any) -> dict[str, Any]:
        """Scores, and how many inputs there have been."""
        scores = centred(self._layers, image, self._centre)
        return {"scores": scores, "seen": self.seen.assign_add(1.0)}

    def _centre(self, features: Any) -> Any:
        return features - self.mean.assign_add(_FORGET * (features - self.mean))


class TwoSignatures(tf.Module):  # type: ignore[misc]
    """The plain net, and its first layer alone, as two signatures."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._layers = TfLayers(weights)

    @tf.function(input_signature=signature(image=(1, 8, 8, 1)), autograph=False)  # type: ignore[untyped-decorator]
    def classify(self, image: Any) -> dict[str, Any]:
        """Scores."""
        return {"scores": plain(self._layers, image)}

    @tf.function(input_signature=signature(image=(1, 8, 8, 1)), autograph=False)  # type: ignore[untyped-decorator]
    def stem(self, image: Any) -> dict[str, Any]:
        """What the first layer makes of the picture, and the mean of each of its channels."""
        x = self._layers.conv(image, "stem", 8)
        return {"features": self._layers.pool(x), "means": self._layers.mean(x)}


class Lstm(tf.Module):  # type: ignore[misc]
    """The LSTM classifier over a chunk of frames, its layer marked so that the converter makes one operator of it.

    That operator keeps its state in variable tensors.
    """

    def __init__(self, weights: Weights, chunk: int) -> None:
        super().__init__()
        self._layers = TfLayers(weights)
        self._chunk = chunk
        marks = {"api_implements": f"lstm_{chunk}", "time_major": False, "go_backwards": False}
        self._memory = tf.function(self._steps, experimental_attributes=marks, autograph=False)
        self.classify = tf.function(self._classify, signature(frames=(1, chunk, BANDS)), autograph=False)

    def _classify(self, frames: Any) -> dict[str, Any]:
        weights = [
            tf.constant(self._layers.weights[f"memory/{name}"]) for name in ("kernel", "recurrent_kernel", "bias")
        ]
        start = tf.zeros((1, UNITS))
        x = _each_frame(self._layers, frames)
        last = self._memory(x, start, start, *weights)[0]
        return {"scores": tf.nn.softmax(self._layers.dense(last, "scores", len(CLASSES)))}

    def _steps(self, x: Any, hidden: Any, cell: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, ...]:
        made = []
        for index in range(self._chunk):
            gates = x[:, index] @ kernel + hidden @ recurrent + bias
            admit, keep, new, show = tf.split(gates, 4, axis=1)
            cell = tf.sigmoid(keep) * cell + tf.sigmoid(admit) * tf.tanh(new)
            hidden = tf.sigmoid(show) * tf.tanh(cell)
            made.append(hidden)
        return hidden, tf.stack(made, axis=1), hidden, cell, tf.constant(1.0)


class GruStream(tf.Module):  # type: ignore[misc]
    """The GRU classifier over a few frames at a time, its state in a resource variable."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self._layers = TfLayers(weights)
        self.state = tf.Variable(tf.zeros((1, UNITS)), name="state")

    @tf.function(input_signature=signature(frames=(1, GRU_CHUNK, BANDS)), autograph=False)  # type: ignore[untyped-decorator]
    def classify(self, frames: Any) -> dict[str, Any]:
        """Scores after these frames."""
        weights = self._layers.weights
        kernel, recurrent = (tf.constant(weights[f"memory/{name}"]) for name in ("kernel", "recurrent_kernel"))
        outer, inner = (tf.constant(bias) for bias in weights["memory/bias"])
        x = _each_frame(self._layers, frames)
        hidden = self.state.read_value()
        for index in range(GRU_CHUNK):
            keep, reset, new = tf.split(x[:, index] @ kernel + outer, 3, axis=1)
            keep_h, reset_h, new_h = tf.split(hidden @ recurrent + inner, 3, axis=1)
            keep = tf.sigmoid(keep + keep_h)
            hidden = keep * hidden + (1.0 - keep) * tf.tanh(new + tf.sigmoid(reset + reset_h) * new_h)
        self.state.assign(hidden)
        return {"scores": tf.nn.softmax(self._layers.dense(hidden, "scores", len(CLASSES)))}


def _each_frame(m: TfLayers, frames: Any) -> Any:
    flat = tf.reshape(frames, (-1, BANDS))
    return tf.reshape(m.dense(flat, "frame", 16, relu=True), (1, -1, 16))


# ONNX

IMAGE = tensor("image", 1, 8, 8, 1)
SCORES = tensor("scores", 1, 10)


def classifier(net: Callable[[Any, Any], Any], layers: OnnxLayers, image: Any = IMAGE, scores: Any = SCORES) -> Any:
    """A net of one picture as an ONNX model."""
    return layers.model([image], {"scores": (net(layers, layers.picture("image")), scores)})


def looping(weights: Weights) -> Any:
    """The refined net, with its loop as Loop; the levels after each step are an output of dynamic length."""
    layers = OnnxLayers(weights)
    scores, levels = refined(layers, layers.picture("image"))
    return layers.model([IMAGE], {"scores": (scores, SCORES), "levels": (levels, tensor("levels", "steps"))})


def scanning(weights: Weights) -> Any:
    """A recurrent net over the picture's rows as Scan, whose body captures weights and a value made before it."""
    m = OnnxLayers(weights)
    rows = m.op("Reshape", "image", m.constant("rows", np.array([8, 8])))
    ink = m.dense(m.op("ReduceMean", rows, axes=[0], keepdims=1), "ink", 24)
    with m.subgraph() as nodes:
        row = m.op("Unsqueeze", "row_in", m.constant("first_axis", np.array([0])))
        hidden = m.op("Tanh", m.add(row_cell(m, row, "hidden_in"), ink))
        told = m.op("Identity", hidden)
    body = helper.make_graph(
        nodes,
        "row_step",
        [tensor("hidden_in", 1, 24), tensor("row_in", 8)],
        [tensor(hidden, 1, 24), tensor(told, 1, 24)],
    )
    start = m.constant("start", np.zeros((1, 24), np.float32))
    _, every = m.op("Scan", start, rows, outputs=2, body=body, num_scan_inputs=1)
    flat = m.op("Reshape", every, m.constant("flat", np.array([1, -1])))
    scores = m.softmax(m.dense(m.dense(flat, "hidden", 24, relu=True), "scores", 10))
    return m.model([IMAGE], {"scores": (scores, SCORES)})


def rows_net(m: Any, image: Any) -> Any:
    """What ``scanning`` computes, in TensorFlow."""
    rows = tf.reshape(image, (-1, 8, 8))
    ink = m.dense(tf.reduce_mean(rows, axis=1), "ink", 24)
    hidden = tf.zeros((tf.shape(rows)[0], 24))
    every = []
    for index in range(8):
        hidden = tf.tanh(row_cell(m, rows[:, index], tf.ensure_shape(hidden, (None, 24))) + ink)
        every.append(hidden)
    flat = tf.concat(every, axis=1)
    return m.softmax(m.dense(m.dense(flat, "hidden", 24, relu=True), "scores", 10))


def halves_as_onnx(weights: Weights) -> Any:
    """The net of two inputs and three outputs."""
    m = OnnxLayers(weights)
    digit, odd, features = two_halves(m, m.picture("left"), m.picture("right"))
    outputs = {
        "digit": (digit, tensor("digit", 1, 10)),
        "odd": (odd, tensor("odd", 1, 2)),
        "features": (features, tensor("features", 1, 16)),
    }
    return m.model([tensor("left", 1, 8, 4, 1), tensor("right", 1, 8, 4, 1)], outputs)


def memory_as_onnx(weights: Weights, kind: str, frames: int | str) -> Any:
    """A recurrent classifier whose state is an input and an output; the operator's sequence lengths are left empty."""
    m = OnnxLayers(weights)
    gates = {"GRU": (0, 1, 2), "LSTM": (0, 3, 1, 2)}[kind]

    def by_gate(array: Array) -> Array:
        """Keras' order of gates, side by side, to ONNX' order, one above the other."""
        parts = np.split(array, len(gates), axis=-1)
        return np.concatenate([parts[gate].T for gate in gates])[None]

    bias = weights["memory/bias"]
    biases = bias if kind == "GRU" else np.stack([bias, np.zeros_like(bias)])
    given = [
        m.constant("memory.input", by_gate(weights["memory/kernel"])),
        m.constant("memory.recurrent", by_gate(weights["memory/recurrent_kernel"])),
        m.constant("memory.bias", np.concatenate([by_gate(one) for one in biases], axis=1)),
    ]
    states = ["hidden"] if kind == "GRU" else ["hidden", "cell"]
    options: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    x = m.dense(m.op("Transpose", "frames", perm=[1, 0, 2]), "frame", 16, relu=True)
    after = m.op(kind, x, *given, "", *states, outputs=len(states) + 1, hidden_size=UNITS, **options)[1:]
    last = m.op("Squeeze", after[0], m.constant("first_axis", np.array([0])))
    outputs = {"scores": (m.softmax(m.dense(last, "scores", len(CLASSES))), tensor("scores", 1, len(CLASSES)))}
    outputs |= {
        f"next_{name}": (value, tensor(f"next_{name}", 1, 1, UNITS)) for name, value in zip(states, after, strict=True)
    }
    return m.model([tensor("frames", 1, frames, BANDS), *(tensor(name, 1, 1, UNITS) for name in states)], outputs)


def without_shapes(model: Any) -> Any:
    """No value information, and outputs of unknown shape."""
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def with_listed_initializers(model: Any) -> Any:
    """Every initializer is an input as well: a default that a caller may replace."""
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return model


def from_keras(model: Any, opset: int) -> Any:
    """A Keras model through tf2onnx."""
    traced = tf.function(lambda image: {"scores": model(image, training=False)}, autograph=False)
    made, _ = tf2onnx.convert.from_function(traced, signature(image=(1, 8, 8, 1)), opset=opset)
    return renumbered(made)


def renumbered(model: Any) -> Any:
    """The model with the numbers in names counted anew, by use: tf2onnx counts in the order of memory addresses."""
    graph = model.graph
    numbers: dict[str, int] = {}

    def renamed(name: str) -> str:
        return re.sub(r"__(\d+)", lambda found: f"__{numbers.setdefault(found[1], len(numbers))}", name)

    order: dict[str, int] = {}
    for node in graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        node.name = renamed(node.name)
        for name in node.input:
            order.setdefault(name, len(order))
    for values in (graph.initializer, graph.input):
        for value in values:
            value.name = renamed(value.name)
        values.sort(key=lambda value: order[value.name])
    return model


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Training digits, one by one."""

    def __init__(self, examples: Examples, count: int = 200) -> None:
        inputs, _ = examples.training
        self._feeds = iter([{"image": inputs[i : i + 1]} for i in range(count)])

    def get_next(self) -> dict[str, Array] | None:
        """The next one."""
        return next(self._feeds, None)


def quantised(model: Any, examples: Examples, form: Any, activations: Any) -> Any:
    """A model in int8 after onnxruntime's static quantisation, per channel."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "float.onnx")
        quant_pre_process(folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True)
        quantize_static(
            folder / "ready.onnx",
            folder / "made.onnx",
            Calibration(examples),
            quant_format=form,
            per_channel=True,
            activation_type=activations,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(folder / "made.onnx")


# Judging, on the files as they were written


class Runner:
    """A model file in its engine. Integers and halves at its ends are made from and to float32 here.

    State goes from one call to the next, until ``reset``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: list[Array] | None = None
        self._session: Any = None
        if path.suffix == ".onnx":
            self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        """Start over; resource variables of TFLite live as long as their interpreter."""
        self._state = None
        if self._session is None:
            self._interpreter = Interpreter(str(self._path), num_threads=1)
            self._interpreter.allocate_tensors()

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs in the file's order."""
        return self._run_tflite(inputs) if self._session is None else self._run_onnx(inputs)

    def _run_tflite(self, inputs: Sequence[Array]) -> list[Array]:
        interpreter = self._interpreter
        details = interpreter.get_input_details()
        for detail, value in zip(details, inputs, strict=True):
            if tuple(detail["shape"]) != value.shape:
                interpreter.resize_tensor_input(detail["index"], value.shape)
                interpreter.allocate_tensors()
        for detail, value in zip(details, inputs, strict=True):
            scale, zero = detail["quantization"]
            if scale:
                limits = np.iinfo(detail["dtype"])
                value = np.clip(np.round(value / scale) + zero, limits.min, limits.max)
            interpreter.set_tensor(detail["index"], value.astype(detail["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    def _run_onnx(self, inputs: Sequence[Array]) -> list[Array]:
        declared = self._session.get_inputs()
        states = declared[len(inputs) :]
        if self._state is None:
            self._state = [np.zeros(value.shape, np.float32) for value in states]
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        given = [value.astype(kinds[want.type]) for want, value in zip(declared, inputs, strict=False)]
        names = [value.name for value in declared]
        outputs = self._session.run(None, dict(zip(names, [*given, *self._state], strict=True)))
        self._state = outputs[1 : 1 + len(states)]
        return list(outputs)


@dataclass(frozen=True)
class Unseen:
    """Held-out samples in the form that a kind of model takes; between clips it is reset."""

    samples: Sequence[Sample]
    labels: Array
    classes: int
    clips: bool = False


def unseen_digits(examples: Examples, form: Callable[[int, Array], Sequence[Array]]) -> Unseen:
    """Each digit in one call; ``form`` makes the inputs."""
    inputs, labels = examples.unseen
    return Unseen([[form(i, inputs[i : i + 1])] for i in range(len(inputs))], labels, 10)


def unseen_clips(examples: Examples, chunk: int) -> Unseen:
    """Each clip in calls of so many frames."""
    inputs, labels = examples.unseen
    samples = [[[clip[None, at : at + chunk]] for at in range(0, FRAMES, chunk)] for clip in inputs]
    return Unseen(samples, labels, len(CLASSES), clips=True)


def accuracy(path: Path, unseen: Unseen) -> float:
    """Share of samples whose class the last call of each tells."""
    runner = Runner(path)
    right = 0
    for sample, label in zip(unseen.samples, unseen.labels, strict=True):
        if unseen.clips:
            runner.reset()
        outputs = [runner(inputs) for inputs in sample][-1]
        shares = next(output for output in outputs if output.shape == (1, unseen.classes))
        right += int(np.argmax(shares)) == int(label)
    return right / len(unseen.labels)


def sometimes_larger(index: int, image: Array) -> list[Array]:
    """Every other digit somewhere in a larger empty picture."""
    return [image if index % 2 == 0 else np.pad(image, ((0, 0), (1, 2), (4, 2), (0, 0)))]


# Writing


class Shelf:
    """The folder that models go to, and the page about them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[str] = []
        (folder / "external").mkdir(parents=True, exist_ok=True)

    def put(self, name: str, model: Any, what: str, unseen: Unseen) -> None:
        """Write one model, judge it, and note it."""
        path = self._folder / name
        if isinstance(model, bytes):
            path.write_bytes(model)
        elif path.parent == self._folder:
            path.write_bytes(model.SerializeToString(deterministic=True))
        else:
            data = path.with_suffix(".data")
            data.unlink(missing_ok=True)
            onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=64)
            data.chmod(0o644)
        share = accuracy(path, unseen)
        size = path.stat().st_size + sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.data"))
        print(f"{name:36} {size:7} bytes  {share:.3f}", flush=True)
        assert share > 0.95, f"{name} tells only {share:.3f} of the held-out samples"
        self._rows.append(f"| `{name}` | {what} | {size:,} | {share:.1%} |")

    def put_keras(self, name: str, model: Any) -> None:
        """Write a Keras model without its training, and without the time of day."""
        path = self._folder / name
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / name
            model.save(saved, include_optimizer=False)
            with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as fresh:
                for member in sorted(archive.namelist()):
                    content = archive.read(member)
                    if member == "metadata.json":
                        content = json.dumps(json.loads(content) | {"date_saved": "2026-01-01@00:00:00"}).encode()
                    fresh.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED)

    def put_samples(self, images: Examples, sounds: Examples) -> None:
        """Write a few of the held-out inputs, and their classes."""
        shown, clip = images.unseen[0][:SHOWN_DIGITS], sounds.unseen[0][:SHOWN_CLIPS]
        np.savez_compressed(self._folder / "digits_calibration.npz", image=shown[:, None])
        np.savez_compressed(self._folder / "keyword_calibration.npz", frames=clip[:, None])
        labels: dict[str, Any] = {
            "digits": images.unseen[1][:SHOWN_DIGITS].astype(np.int8),
            "keywords": sounds.unseen[1][:SHOWN_CLIPS].astype(np.int8),
        }
        np.savez_compressed(self._folder / "labels.npz", **labels)

    def put_page(self) -> None:
        """Write README.md."""
        versions = ", ".join(f"{p.__name__} {p.__version__}" for p in (tf, keras, tf2onnx, onnx, ort))
        page = PAGE.format(rows="\n".join(self._rows), versions=versions)
        (self._folder / "README.md").write_text(page, encoding="utf-8", newline="\n")


PAGE = """# Models to test with

Small models of every kind that the converters must handle, each really trained. `benchmarks/make_models.py` makes all
of them, and this page. Accuracy is that of the file as it lies here, in LiteRT or onnxruntime: on 450 held-out digits,
or 600 held-out clips for the `keyword_` models (chance is 10 % and 17 %).

| file | what it is | bytes | held-out accuracy |
| --- | --- | ---: | ---: |
{rows}

- `digits_calibration.npz`: `image`, 48 held-out digits, float32 [48, 1, 8, 8, 1]; `keyword_calibration.npz`: `frames`,
  30 held-out clips, float32 [30, 1, 24, 12]; the first axis counts samples. `labels.npz`: their classes, `digits` and
  `keywords`.
- `digits.keras`: the Keras model that `digits_float32.tflite` and its kin were made of.
- Digits: float32, 0 to 1, channels last, in the ONNX models too (their first layer turns the axes). Clips: six classes
  of tones and chirps in noise (noise, low tone, high tone, rising chirp, falling chirp, warble), 24 frames of 20 ms,
  log energies of 12 bands.
- Models that take several calls a clip (`stream`, and the ONNX recurrent ones) were judged by the last call's scores.
  LiteRT's `reset_all_variables` resets the variable tensors of the `lstm` models, but not the resource variables of
  `keyword_gru_stream.tflite` and `digits_resource_variables.tflite`: these start over with a new interpreter only.

Made with {versions}.

Licence: the project's (Apache-2.0). Data: the digits that come with scikit-learn (UCI Machine Learning Repository,
"Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, CC BY 4.0); the clips are made by the script.
"""


def put_dag(shelf: Shelf, images: Examples) -> None:
    """The classifier of some 20 layers, in every number format."""
    model = dag(images)
    unseen = unseen_digits(images, lambda _, image: [image])
    fresh = partial(frozen_keras, model, image=(1, 8, 8, 1))
    small = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    shelf.put_keras("digits.keras", model)
    made = converted(fresh())
    shelf.put("digits_float32.tflite", made, "TFLite: DAG of branches, skips, concatenations; Keras", unseen)
    made = converted(fresh(), **small, types=[tf.float16])
    shelf.put("digits_float16.tflite", made, "the same, float16 weights", unseen)
    made = converted(fresh(), **small)
    shelf.put("digits_dynamic_range.tflite", made, "the same, dynamic-range int8 weights", unseen)
    for name, kind in (("int8", tf.int8), ("uint8", tf.uint8), ("int8_float_io", tf.float32)):
        made = converted(fresh(), **integers(images, kind))
        what = f"the same, full int8 (weights per channel), {kind.name} input and output"
        shelf.put(f"digits_{name}.tflite", made, what, unseen)

    base = from_keras(model, 17)
    shelf.put("digits_float32.onnx", base, "ONNX: the same model, tf2onnx, opset 17", unseen)
    halved = convert_float_to_float16(from_keras(model, 17), keep_io_types=False)
    shelf.put("digits_float16.onnx", halved, "the same, float16 throughout, input and output too", unseen)
    qdq = quantised(base, images, QuantFormat.QDQ, QuantType.QInt8)
    shelf.put("digits_qdq.onnx", qdq, "the same, int8 as QuantizeLinear/DequantizeLinear pairs", unseen)
    qoperator = quantised(base, images, QuantFormat.QOperator, QuantType.QUInt8)
    shelf.put("digits_qoperator.onnx", qoperator, "the same, uint8 with int8 weights as QLinear operators", unseen)
    old = from_keras(model, 7)
    old.ir_version = 3
    shelf.put("digits_opset7.onnx", old, "the same, opset 7, IR version 3 (initializers are inputs)", unseen)


def put_plain(shelf: Shelf, images: Examples) -> None:
    """The small net of any size, in the forms an ONNX file can take, and as one of two signatures."""
    weights = train(plain, images, epochs=90, vary=enlarge)
    unseen = unseen_digits(images, lambda _, image: [image])
    sizes = unseen_digits(images, sometimes_larger)
    layers = TfLayers(weights)
    free = converted(frozen(lambda image: {"scores": plain(layers, image)}, image=(1, None, None, 1)))
    shelf.put("digits_any_size.tflite", free, "TFLite: fully convolutional, dynamic height and width", sizes)
    module = TwoSignatures(weights)
    two = converted_module(module, {"classify": module.classify, "stem": module.stem})
    shelf.put("digits_two_signatures.tflite", two, "TFLite: signatures `classify` and `stem`, a subgraph each", unseen)

    free_image, free_scores = tensor("image", "batch", "height", "width", 1), tensor("scores", "batch", 10)
    free = classifier(plain, OnnxLayers(weights), free_image, free_scores)
    shelf.put("digits_any_size.onnx", free, "ONNX: fully convolutional, symbolic batch, height and width", sizes)
    forms = {
        "functions": (classifier(plain, CallingLayers(weights)), "local functions, nested, with an attribute"),
        "sequence": (classifier(plain, SequenceLayers(weights)), "SplitToSequence … ConcatFromSequence inside"),
        "optional_values": (classifier(plain, OptionalValueLayers(weights)), "optional values, taken by an If"),
        "empty_inputs": (classifier(plain, EmptyInputLayers(weights)), "optional inputs and outputs left empty"),
        "listed_initializers": (
            with_listed_initializers(classifier(plain, OnnxLayers(weights))),
            "initializers are inputs too, IR version 8",
        ),
        "no_shapes": (
            without_shapes(classifier(plain, ReshapingLayers(weights))),
            "no shape information, computed reshape",
        ),
    }
    for name, (model, what) in forms.items():
        shelf.put(f"digits_{name}.onnx", model, f"ONNX: small residual net, {what}", unseen)
    outside = classifier(plain, OnnxLayers(weights))
    shelf.put("external/digits_external.onnx", outside, "ONNX: the same net, weights in `digits_external.data`", unseen)


def put_control_flow(shelf: Shelf, images: Examples) -> None:
    """Conditions, loops, scans and state."""
    unseen = unseen_digits(images, lambda _, image: [image])
    weights = train(gated, images, epochs=90)
    layers = TfLayers(weights)
    branching = converted(frozen(lambda image: {"scores": gated(layers, image)}, image=(1, 8, 8, 1)))
    shelf.put("digits_if.tflite", branching, "TFLite: IF on the picture's ink, another IF in one branch", unseen)
    branching = classifier(gated, OnnxLayers(weights))
    shelf.put("digits_if.onnx", branching, "ONNX: the same as nested If, capturing outer values", unseen)

    weights = train(lambda m, image: refined(m, image)[0], images)
    _check_steps_vary(weights, images)
    layers = TfLayers(weights)

    def loop(image: Any) -> dict[str, Any]:
        scores, steps = refined(layers, image)
        return {"scores": scores, "steps": steps}

    whiled = converted(frozen(loop, image=(1, 8, 8, 1)))
    shelf.put("digits_while.tflite", whiled, "TFLite: WHILE, up to four steps, by what it sees", unseen)
    shelf.put("digits_loop.onnx", looping(weights), "ONNX: the same as Loop, and an output of dynamic length", unseen)

    scan = scanning(train(rows_net, images))
    shelf.put("digits_scan.onnx", scan, "ONNX: recurrent net over rows as Scan, capturing outer values", unseen)

    rng = np.random.default_rng(3)
    module = Centring(train(partial(centred, centre=partial(_roughly_centred, rng=rng)), images, epochs=90))
    kept = converted_module(module, {"serving_default": module.classify})
    what = "TFLite: CALL_ONCE, running mean and count in variables"
    shelf.put("digits_resource_variables.tflite", kept, what, unseen)


def _roughly_centred(features: Any, rng: np.random.Generator) -> Any:
    return features - tf.random.uniform((), seed=int(rng.integers(1 << 30))) * tf.reduce_mean(features, axis=0)


def _check_steps_vary(weights: Weights, images: Examples) -> None:
    layers = TfLayers(weights)
    counts = {int(refined(layers, tf.constant(image[None]))[1]) for image in images.unseen[0][:SHOWN_DIGITS]}
    assert len(counts) > 1, f"the loop always takes {counts} steps"


def put_others(shelf: Shelf, images: Examples) -> None:
    """Several inputs and outputs, and sparse weights."""
    halves = train(lambda m, image: two_halves(m, image[:, :, :4], image[:, :, 4:])[:2], images)
    unseen = unseen_digits(images, lambda _, image: [image[:, :, :4], image[:, :, 4:]])
    layers = TfLayers(halves)

    def function(left: Any, right: Any) -> dict[str, Any]:
        return dict(zip(("digit", "odd", "features"), two_halves(layers, left, right), strict=True))

    model = converted(frozen(function, left=(1, 8, 4, 1), right=(1, 8, 4, 1)))
    shelf.put("digits_two_halves.tflite", model, "TFLite: two inputs, three outputs", unseen)
    shelf.put("digits_two_halves.onnx", halves_as_onnx(halves), "ONNX: two inputs, three outputs", unseen)

    unseen = unseen_digits(images, lambda _, image: [image])
    weights = train(sparse, images, density={"pointwise/kernel": 0.5, "hidden/kernel": 0.25})
    layers = TfLayers(weights)
    fresh = partial(frozen, partial(sparse, layers), image=(1, 8, 8, 1))
    shrunk = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
    model = converted(fresh(), optimizations=[shrunk])
    shelf.put("digits_sparse.tflite", model, "TFLite: block-sparse weights (one behind DENSIFY), float32", unseen)
    settings = integers(images, tf.int8) | {"optimizations": [tf.lite.Optimize.DEFAULT, shrunk]}
    model = converted(fresh(), **settings)
    shelf.put("digits_sparse_int8.tflite", model, "the same, full int8", unseen)


def put_recurrent(shelf: Shelf, sounds: Examples) -> None:
    """GRU and LSTM: as loops, as operators with state inside, and with state outside."""
    whole = unseen_clips(sounds, FRAMES)
    model = recurrent(sounds, keras.layers.GRU)
    gru = keras_weights(model)
    made = converted(frozen_keras(model, frames=(1, FRAMES, BANDS)))
    shelf.put("keyword_gru.tflite", made, "TFLite: GRU as WHILE, Keras", whole)
    module = GruStream(gru)
    made = converted_module(module, {"serving_default": module.classify})
    what = "TFLite: the same GRU, two frames a call, state in a resource variable"
    shelf.put("keyword_gru_stream.tflite", made, what, unseen_clips(sounds, GRU_CHUNK))
    chunks = unseen_clips(sounds, ONNX_CHUNK)
    made = memory_as_onnx(gru, "GRU", ONNX_CHUNK)
    shelf.put("keyword_gru.onnx", made, "ONNX: the same GRU, four frames a call, state in and out", chunks)

    model = recurrent(sounds, keras.layers.LSTM)
    lstm = keras_weights(model)
    made = converted(frozen_keras(model, frames=(1, FRAMES, BANDS)))
    shelf.put("keyword_lstm_while.tflite", made, "TFLite: LSTM as WHILE, Keras", whole)
    module = Lstm(lstm, FRAMES)
    signatures = {"serving_default": module.classify}
    what = "TFLite: the same LSTM as UNIDIRECTIONAL_SEQUENCE_LSTM, state in variable tensors"
    shelf.put("keyword_lstm.tflite", converted_module(module, signatures), what, whole)
    made = converted_module(module, signatures, **integers(sounds, tf.int8))
    shelf.put("keyword_lstm_int8.tflite", made, "the same in int8 (state in int16 and int8)", whole)
    module = Lstm(lstm, LSTM_CHUNK)
    made = converted_module(module, {"serving_default": module.classify})
    what = "the same LSTM, eight frames a call, state in variable tensors"
    shelf.put("keyword_lstm_stream.tflite", made, f"TFLite: {what}", unseen_clips(sounds, LSTM_CHUNK))
    made = memory_as_onnx(lstm, "LSTM", "frames")
    shelf.put("keyword_lstm.onnx", made, "ONNX: the same LSTM, symbolic number of frames, states in and out", chunks)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(0)
    keras.config.disable_interactive_logging()
    ort.set_default_logger_severity(3)
    images, sounds = digits(), clips()
    shelf = Shelf(folder)
    shelf.put_samples(images, sounds)
    put_dag(shelf, images)
    put_plain(shelf, images)
    put_control_flow(shelf, images)
    put_others(shelf, images)
    put_recurrent(shelf, sounds)
    shelf.put_page()


if __name__ == "__main__":
    main()
