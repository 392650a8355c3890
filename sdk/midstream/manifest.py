"""The bundle's table of contents: which slices there are, where one may cut, and the hash of every byte.

A bundle is a directory of four files, described in ``docs/bundle-format.md``:

- ``manifest.json``: this table, canonical JSON with its own SHA-256;
- ``weights.bin``: every weight once;
- ``slices.tar.xz``: the programs of the whole model and of every cut's head and tail, without weights, and the graph;
- ``costs.json``: what the slices cost on the machine that measured them, under a SHA-256 of its own; not part of the
  identity, nor is ``codecs.json``, which calibration adds (`midstream.ladder`).

These are the values; `midstream.sealed` is how they are written down, and files are touched by `midstream.bundle` and
the converters alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from midstream.errors import BundleError
from midstream.inputs import Semantics
from midstream.tensors import TensorSpec

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.bin"
SLICES_FILE = "slices.tar.xz"
COSTS_FILE = "costs.json"
BUNDLE_FILES = frozenset((MANIFEST_FILE, WEIGHTS_FILE, SLICES_FILE, COSTS_FILE))
GRAPH_MEMBER = "graph.json"
WHOLE = "whole"
EDGETPU_SUFFIX = ".edgetpu"
CARRIERS: Mapping[str, tuple[str, ...]] = {"int8": ("codes", "scale", "zero")}
"""The codecs that a cut may have slices of its own for, and what such slices carry for each tensor that crosses."""

MAX_MANIFEST_BYTES = 64 << 20

EngineName = Literal["litert", "onnx"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One node of the model. ``static`` layers do not depend on any input and run wherever their value is needed.

    ``flops`` are two for each multiply-accumulate, or one for each number that a layer without any writes.
    """

    index: int
    name: str
    op: str
    macs: int
    weight_bytes: int
    output_bytes: int
    static: bool = False
    flops: int = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """Data that one layer hands to another, in bytes."""

    source: int
    target: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The model's layers in an order in which they can run, and what flows between them."""

    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One runnable program: where it lies in the archive and which ranges of the weights it uses.

    ``weights`` are (offset, length) ranges of ``weights.bin`` that follow the program in memory, each padded to
    ``WEIGHT_ALIGNMENT``; empty where the program names its weights itself (ONNX external data). ``without`` names the
    runtime's optimisations that must be off for it to give the whole model's bits. ``batch_sizes`` are how many inputs
    it was proven to answer at once, stacked along the first axis, within the bundle's tolerance.
    """

    member: str
    bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[tuple[int, int], ...] = ()
    without: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = ()


BATCH_SIZES = (2, 4, 8)
WEIGHT_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Cut:
    """A place to split: the head runs ``nodes``, the tail the rest, and ``tensors`` cross.

    ``payload_bytes`` is the size of the crossing tensors as they are, at the sizes the bundle was verified with.
    ``head_outputs`` are outputs of the model that the head already computes; they never cross. ``accelerators`` are
    those that run all of the head's operators, as far as their documentation says. ``share`` is how much of
    the converter's sweep of machines, objectives and link speeds the cut is the best in, 0 to 1. ``reveals_input`` says
    whether an input of the model, or what is linear in one, is among what crosses; None where an earlier release wrote
    the bundle, which did not tell.
    """

    id: str
    tensors: tuple[TensorSpec, ...]
    payload_bytes: int
    nodes: tuple[int, ...]
    head_outputs: tuple[str, ...] = ()
    share: float = 0.0
    accelerators: tuple[str, ...] = ()
    reveals_input: bool | None = None


@dataclass(frozen=True, slots=True)
class RejectedCut:
    """A candidate that was not kept, and why; ``max_abs_error`` is None where no finite difference was seen."""

    id: str
    reason: str
    max_abs_error: float | None = None


@dataclass(frozen=True, slots=True)
class OutputChange:
    """What quantising has changed of one output.

    ``kind`` is how its answer is defined: by the largest of ``scores``, by ``values`` that stay near, or ``exact``.
    Differences are in shares of the output's range; None where there was none to take.
    """

    name: str
    kind: str
    agreement: float
    max_difference: float | None
    mean_difference: float | None


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What quantising has changed: the share of the user's inputs that keep their answer, and the model before it."""

    dtype: str
    model_bytes: int
    model_sha256: str
    samples: int
    agreement: float
    outputs: tuple[OutputChange, ...]


@dataclass(frozen=True, slots=True)
class CandidateCounts:
    """How many places to cut a model has, in ``total``.

    ``optimal`` are the best somewhere in the converter's sweep, ``single_tensor`` those at which one tensor crosses,
    and ``dominated`` those of the latter that another is never worse than.
    """

    total: int
    optimal: int
    single_tensor: int
    dominated: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a bundle.

    ``fixed`` holds inputs that conversion has bound to one value: they may be left out, and only this value is taken.
    ``sample_shapes`` are the input shapes that sizes and proofs refer to. A ``stateful`` model has layers that remember
    the run before; every head holds all of them. ``recipe`` is the converter's hash of all that decided what is here;
    ``found`` counts the candidates that the cuts come from. ``quantisation`` is None where the model was not quantised
    by the converter.
    """

    name: str
    model_format: Literal["tflite", "onnx"]
    model_bytes: int
    model_sha256: str
    engine: EngineName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sample_shapes: dict[str, tuple[int, ...]]
    cuts: tuple[Cut, ...]
    slices: dict[str, SliceRecord]
    files: dict[str, FileRecord]
    semantics: dict[str, Semantics] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    rejected: tuple[RejectedCut, ...] = ()
    tolerance: float = 0.0
    unpacked_bytes: int = 0
    stateful: bool = False
    created_by: str = ""
    recipe: str = ""
    quantisation: Quantisation | None = None
    found: CandidateCounts = CandidateCounts(0, 0, 0, 0)

    def candidates_json(self) -> dict[str, int]:
        """What became of the candidates, as ``convert --json`` and ``inspect --json`` tell it."""
        kept, rejected = len(self.cuts), len(self.rejected)
        untried = self.found.total - kept - rejected
        return asdict(self.found) | {"kept": kept, "rejected": rejected, "untried": untried}

    def cut(self, cut_id: str) -> Cut:
        """The cut of this id; raises BundleError naming those there are."""
        for cut in self.cuts:
            if cut.id == cut_id:
                return cut
        known = ", ".join(cut.id for cut in self.cuts) or "none"
        raise BundleError(f"bundle {self.name!r} has no cut {cut_id!r}; it has {known}")

    def cut_chain(self, cuts: str | Sequence[str]) -> tuple[Cut, ...]:
        """One cut, or several of a plan of three and more stages, from the input on.

        Raises BundleError where a cut is unknown, or the bundle has no slice between two of them.
        """
        chain = tuple(self.cut(cut_id) for cut_id in ([cuts] if isinstance(cuts, str) else cuts))
        if not chain:
            raise BundleError(f"bundle {self.name!r}: a split needs at least one cut")
        for first, second in pairwise(chain):
            if middle_name(first.id, second.id) not in self.slices:
                known = ", ".join(f"{a} with {b}" for a, b in self.middles()) or "none"
                raise BundleError(
                    f"bundle {self.name!r} has no slice from cut {first.id!r} to cut {second.id!r}; it has {known}"
                )
        return chain

    def middles(self) -> tuple[tuple[str, str], ...]:
        """The pairs of cuts between which a slice can run, for plans of three and more stages."""
        ids = [cut.id for cut in self.cuts]
        return tuple((a, b) for a in ids for b in ids if middle_name(a, b) in self.slices)

    def has_between(self, first: str | None, second: str) -> bool:
        """Whether a slice can run from one cut (None: the input) to another."""
        return (head_name(second) if first is None else middle_name(first, second)) in self.slices

    def free_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs a caller has to give."""
        return tuple(spec for spec in self.inputs if spec.name not in self.fixed)


@dataclass(frozen=True, slots=True)
class SliceCost:
    """Median milliseconds of one run of a cut's head and tail on the machine that measured."""

    head_ms: float
    tail_ms: float


@dataclass(frozen=True, slots=True)
class CodingCost:
    """Milliseconds that one end's coding of a cut takes within a slice and beside it."""

    within_ms: float
    beside_ms: float

    @property
    def pays(self) -> bool:
        """Whether the slice is quicker by more than what such times differ from run to run."""
        return self.within_ms < _NOISE * self.beside_ms


_NOISE = 0.9


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured times of a bundle's slices on one machine, with one thread. ``recipe`` is the bundle's.

    ``layers_ms`` are those of each layer by index; they add up to ``whole_ms``. ``float_ms`` is the whole model's time
    before it was quantised, None where it was not. ``coding`` has an entry for each slice that codes, by name.
    """

    machine: str
    whole_ms: float
    cuts: dict[str, SliceCost]
    layers_ms: tuple[float, ...]
    recipe: str = ""
    float_ms: float | None = None
    coding: Mapping[str, CodingCost] = field(default_factory=dict)


def head_name(cut_id: str, codec: str = "") -> str:
    """The name of a cut's head among the slices; with a codec, of the one that encodes as well."""
    return f"{cut_id}.head.{codec}" if codec else f"{cut_id}.head"


def edgetpu_name(slice_name: str) -> str:
    """The name under which a slice compiled for the Edge TPU is kept beside the plain one."""
    return f"{slice_name}{EDGETPU_SUFFIX}"


def middle_name(first: str, second: str) -> str:
    """The name of the slice between two cuts among the slices."""
    return f"{first}-{second}.middle"


def tail_name(cut_id: str, codec: str = "") -> str:
    """The name of a cut's tail among the slices; with a codec, of the one that decodes first."""
    return f"{cut_id}.tail.{codec}" if codec else f"{cut_id}.tail"


def carrier_names(codec: str, tensor: str) -> tuple[str, ...]:
    """What carries a tensor out of a head that encodes, and into a tail that decodes."""
    return tuple(f"{tensor}.{suffix}" for suffix in CARRIERS[codec])
