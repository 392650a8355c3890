"""A model as the converters see it, whatever file it came from: layers in running order and the values between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from midstream.manifest import EngineName, SliceRecord
from midstream.tensors import Tensors, TensorSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Node:
    """One layer. ``inputs`` are values it reads (captured ones included), constants left out.

    ``static`` nodes depend on no input of the model; ``stateful`` ones keep a hidden state between runs. ``activated``
    ones have a non-linear step within, whatever their operator, before all they write.
    """

    index: int
    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    weight_bytes: int = 0
    static: bool = False
    stateful: bool = False
    activated: bool = False


@dataclass(frozen=True, slots=True)
class Value:
    """A value that a layer makes or an input brings: its specification and its size at the sample shapes.

    ``spec`` is None where the value cannot cross a cut (a sequence, a string, an optional, a resource).
    """

    spec: TensorSpec | None
    bytes: int


@dataclass(frozen=True)
class ModelGraph:
    """Layers in an order in which they can run, every value by its key, and the keys of inputs and outputs."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: dict[str, Value]
    producer: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        producer = {value: node.index for node in self.nodes for value in node.outputs}
        object.__setattr__(self, "producer", producer)
        for position, node in enumerate(self.nodes):
            late = [v for v in node.inputs if producer.get(v, -1) >= position]
            if node.index != position or late:
                raise ValueError(f"layer {position} ({node.op}) is out of order")

    def written_bytes(self, node: Node) -> int:
        """The size of what a layer writes, at the sample shapes; values that nobody knows count for nothing."""
        return sum(self.values[value].bytes for value in node.outputs if value in self.values)

    def with_static(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """These layers and the static ones they need, in running order."""
        wanted = set(nodes)
        pending = list(wanted)
        while pending:
            for value in self.nodes[pending.pop()].inputs:
                source = self.producer.get(value)
                if source is not None and self.nodes[source].static and source not in wanted:
                    wanted.add(source)
                    pending.append(source)
        return tuple(sorted(wanted))

    def crossing(self, tail: Iterable[int]) -> tuple[str, ...]:
        """The values that these layers read and do not make: another layer's, or an input of the model.

        Static values never cross: both sides can make them.
        """
        inside = set(tail)
        crossing: dict[str, None] = {}
        for index in sorted(inside):
            for value in self.nodes[index].inputs:
                source = self.producer.get(value)
                if source is None or (source not in inside and not self.nodes[source].static):
                    crossing[value] = None
        return tuple(crossing)


@dataclass(frozen=True, slots=True)
class Variant:
    """What a slice may need, beside its layers, to give the whole model's bits.

    ``takes_wide`` and ``gives_wide``: a half-precision value crosses into or out of it in single precision, as a
    runtime that computes in single precision holds it between two layers; rounding it would be a step that the whole
    model does not make. ``without`` are the runtime's own names of optimisations that this part of the whole model does
    not get, though alone it would.

    ``takes_coded`` and ``gives_coded``: of these values a slice takes the carriers that ``codec`` has for each, and
    gives them besides what it gives anyway (`midstream.manifest.CARRIERS`).
    """

    takes_wide: bool = False
    gives_wide: bool = False
    without: tuple[str, ...] = ()
    codec: str = ""
    takes_coded: tuple[str, ...] = ()
    gives_coded: tuple[str, ...] = ()


PLAIN = Variant()


@dataclass(frozen=True, slots=True)
class Slice:
    """A runnable program of some layers, without the weights it uses."""

    record: SliceRecord
    content: bytes


@dataclass(frozen=True, slots=True)
class Encoders:
    """A quick layer that makes values from others of their size, called ``NAME.before``: alone, and with encoding."""

    plain: Slice
    coding: Slice


def carried(graph: ModelGraph, value: str, wide: bool) -> TensorSpec:
    """The name, dtype and shape under which a value crosses. Inputs and outputs of the model stay what they are."""
    spec = graph.values[value].spec
    if spec is None:
        raise ValueError(f"value {value!r} cannot cross a cut")
    if not wide or spec.dtype != np.float16 or value in graph.inputs or value in graph.outputs:
        return spec
    return TensorSpec(f"{value}.float32", np.dtype(np.float32), spec.shape)


class Source(Protocol):
    """A model file that was read: its graph, and the power to make a program of any part of it.

    The weights that programs name are in the bundle's weights file by then.
    """

    engine: EngineName
    graph: ModelGraph
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def slice(
        self, member: str, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], variant: Variant
    ) -> Slice:
        """A program that runs these layers from these values to those. Thread-safe."""

    def decodes(self, codec: str) -> bool:
        """Whether slices can decode what they take in this codec themselves."""

    def encoders(self, codec: str, values: Sequence[str]) -> Encoders | None:
        """Programs to time the encoding of these values by; None where slices cannot encode themselves."""

    def operators(self, part: Slice) -> Counter[str]:
        """The operators that the runtime makes of a program, and how many of each; none where it keeps the layers."""

    def profile(self, sample: Tensors) -> Floats | None:
        """Milliseconds of each layer by index, as the runtime's profiler shows them; None where it has none.

        Raises BundleError or InputError where the model cannot be profiled.
        """
