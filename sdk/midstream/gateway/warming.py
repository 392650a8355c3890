"""The slices that a gateway's workers keep loaded: what each takes, and loading and unloading them beside the work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Set

import numpy as np

from midstream.allocation.usage import Partition
from midstream.bundle import Bundle
from midstream.errors import MidstreamError
from midstream.gateway.served import ServedBundle
from midstream.manifest import CARRIERS, WHOLE, Graph, head_name, middle_name, tail_name
from midstream.tensors import Tensors, TensorSpec

_log = logging.getLogger("midstream.gateway")

# Until a slice was loaded here: what reading it, and what the runtime makes of it, take.
_LOAD_S_PER_BYTE = 1 / 200e6
_LOAD_S = 0.01
_SMOOTHING = 0.3


class Warmth:
    """Which slices are loaded in which workers' copies of bundles. Belongs to one thread, beside those of the workers.

    ``served`` are bundles by their digest in hexadecimal. Raises BundleError where one's layers cannot be read.
    """

    def __init__(self, served: Mapping[str, ServedBundle], clock: Callable[[], float] = time.perf_counter) -> None:
        self._served = served
        self._clock = clock
        # Read now: the folder may be gone by the time that a stage is asked for.
        self._graphs = {digest: each.bundles[0].graph for digest, each in served.items()}
        self._stages = {digest: _stages(each.bundles[0], digest) for digest, each in served.items()}
        self._bytes: dict[Partition, float] = {}
        self._load_s: dict[Partition, float] = {}

    def memory_bytes(self, partition: Partition) -> float:
        """What one worker's copy holds, by the weights of its layers and the largest of what flows between them."""
        if partition not in self._bytes:
            bundle, graph = self._served[partition.bundle].bundles[0], self._graphs[partition.bundle]
            self._bytes[partition] = _memory_bytes(bundle, graph, partition)
        return self._bytes[partition]

    def load_s(self, partition: Partition) -> float:
        """How long loading one takes, as it took here, or from its size."""
        return self._load_s.get(partition, _LOAD_S + self.memory_bytes(partition) * _LOAD_S_PER_BYTE)

    def loaded(self, partition: Partition) -> int:
        """How many copies are loaded in all workers together: as `all_loaded`."""
        return self.all_loaded().get(partition, 0)

    def all_loaded(self) -> dict[Partition, int]:
        """Of every stage how many copies are loaded; a worker has two of a tail that it has with and without decoding.

        Stages that are not loaded are not in it.
        """
        found: dict[Partition, int] = {}
        for digest, served in self._served.items():
            stages = self._stages[digest]
            for bundle in served.bundles:
                for name in bundle.loaded & stages.keys():
                    found[stages[name]] = found.get(stages[name], 0) + 1
        return found

    def warm(self, partitions: Iterable[Partition], workers: int) -> None:
        """Load these, the first ones first, in so many workers; one that cannot be loaded is logged and left."""
        for partition in partitions:
            name = slice_of(partition)
            for bundle in self._served[partition.bundle].bundles[:workers]:
                if self._names(partition, bundle.loaded):
                    continue
                began = self._clock()
                try:
                    bundle.load_slice(name)
                    _run_blank(bundle, partition, name)
                except MidstreamError as error:
                    _log.warning("%s of bundle %r was not made ready: %s", name, bundle.name, error)
                    break
                took = self._clock() - began
                known = self._load_s.get(partition, took)
                self._load_s[partition] = known + _SMOOTHING * (took - known)

    def evict(self, keep: Iterable[Partition], workers: int, budget_bytes: float) -> None:
        """Unload what more is loaded than memory has room for: all but the ones to ``keep``, in so many workers."""
        kept, held = set(keep), self.all_loaded()
        excess = sum(self.memory_bytes(partition) * count for partition, count in held.items()) - budget_bytes
        for partition in sorted(held, key=lambda each: (each in kept, -self.memory_bytes(each))):
            bundles = self._served[partition.bundle].bundles
            for place in reversed(range(len(bundles))):
                spared = 1 if partition in kept and place < workers else 0
                for name in self._names(partition, bundles[place].loaded)[spared:]:
                    if excess <= 0:
                        return
                    bundles[place].unload_slice(name)
                    excess -= self.memory_bytes(partition)

    def _names(self, partition: Partition, loaded: Set[str]) -> list[str]:
        """The slices of a stage that are loaded, one that decodes first: who asks has loaded it."""
        stages = self._stages[partition.bundle]
        return sorted((name for name in loaded if stages.get(name) == partition), reverse=True)


def slice_of(partition: Partition) -> str:
    """The name of a stage's slice among its bundle's."""
    if partition.next_cut:
        return middle_name(partition.cut, partition.next_cut) if partition.cut else head_name(partition.next_cut)
    return tail_name(partition.cut) if partition.cut else WHOLE


def _stages(bundle: Bundle, digest: str) -> dict[str, Partition]:
    """By the name of its slice, every stage that a gateway may run."""
    cuts = [cut.id for cut in bundle.cuts]
    stages = [Partition(digest, ""), *(Partition(digest, cut) for cut in cuts)]
    stages += [Partition(digest, "", cut) for cut in cuts]
    stages += [Partition(digest, first, second) for first, second in bundle.manifest.middles()]
    coding = {tail_name(cut, codec): Partition(digest, cut) for cut in cuts for codec in CARRIERS}
    return {slice_of(partition): partition for partition in stages} | coding


def _memory_bytes(bundle: Bundle, graph: Graph, partition: Partition) -> float:
    manifest = bundle.manifest
    before = set(manifest.cut(partition.cut).nodes) if partition.cut else set()
    until = set(manifest.cut(partition.next_cut).nodes) if partition.next_cut else {each.index for each in graph.layers}
    layers = [layer for layer in graph.layers if layer.index in until - before]
    record = manifest.slices[slice_of(partition)]
    largest = max((layer.output_bytes for layer in layers), default=0)
    return float(record.bytes + sum(layer.weight_bytes for layer in layers) + 2 * largest)


def _run_blank(bundle: Bundle, partition: Partition, name: str) -> None:
    """One run on zeros, in which runtimes do what they put off until the first; none where sizes are not known."""
    specs = bundle.crossing_specs(partition.cut or None)
    shapes = {spec.name: _shape(bundle, spec, whole=not partition.cut) for spec in specs}
    if all(shape is not None for shape in shapes.values()):
        blank: Tensors = {spec.name: np.zeros(shapes[spec.name] or (), spec.dtype) for spec in specs}
        bundle.run_slice(name, blank)


def _shape(bundle: Bundle, spec: TensorSpec, *, whole: bool) -> tuple[int, ...] | None:
    if whole:
        return bundle.manifest.sample_shapes[spec.name]
    shape = (1, *spec.shape[1:]) if spec.shape[:1] == (None,) else spec.shape
    return None if None in shape else tuple(size for size in shape if size is not None)
