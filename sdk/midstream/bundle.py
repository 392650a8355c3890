"""An opened bundle: its slices, loaded when they are first needed, and the whole model run here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Self

import networkx as nx
import numpy as np

from midstream.archive import Archive
from midstream.bundle_files import Parts, read_parts
from midstream.communication.codecs import decode, encode, find_codec, zstd_available
from midstream.communication.codecs.coding import decode_codes
from midstream.communication.codecs.steps import Stepped
from midstream.communication.wire import EncodedTensor, decoded_bytes
from midstream.engines import ACCELERATORS, Accelerator, Program, Session, engine_for
from midstream.engines.paced import Pace, PacedSession
from midstream.errors import AcceleratorError, BundleError, InputError
from midstream.files import FileIdentity
from midstream.inputs import ImageInput
from midstream.ladder import UNCALIBRATED
from midstream.manifest import (
    CARRIERS,
    EDGETPU_SUFFIX,
    GRAPH_MEMBER,
    MAX_MANIFEST_BYTES,
    SLICES_FILE,
    WEIGHTS_FILE,
    WHOLE,
    Cut,
    Graph,
    Manifest,
    SliceCost,
    SliceRecord,
    carrier_names,
    edgetpu_name,
    head_name,
    middle_name,
    tail_name,
)
from midstream.partitioning.costs import MachineTimes, layers_from_profile
from midstream.partitioning.resource_map import resource_map
from midstream.profiles import Profile
from midstream.sealed import graph_from_bytes
from midstream.tensors import Tensors, TensorSpec, check_tensors, named_tensors, nbytes

# A busy core of a small board; a profile's own figure replaces it in plans.
_NOMINAL_BUSY_W = 1.0
_MEASURE_MS = 500.0


@dataclass(frozen=True, slots=True)
class TailInputs:
    """A slice, and what it takes."""

    slice: str
    tensors: Tensors


class Bundle:
    """A converted model. Open it with `Bundle.open`; methods may be called from any thread.

    ``ladder`` is what `midstream calibrate` has measured, ``early_exit`` what `midstream exits` has learned; None where
    they have not.

    ``accelerator`` runs the slices that it can; for "edgetpu" these are the ones compiled for it, and the others run on
    the processor. ``threads`` are the engine's, per slice. ``slowdown`` stretches every run to this multiple of its
    time, to stand for a slower board; it may be set to another at any time, as where that board throttles.
    """

    def __init__(
        self,
        path: Path,
        parts: Parts,
        threads: int = 1,
        slowdown: float = 1.0,
        accelerator: Accelerator = "cpu",
    ) -> None:
        self.path = path
        self.manifest = parts.manifest
        self.digest = parts.digest
        self.costs = parts.costs
        self.ladder = parts.ladder
        self.early_exit = parts.early_exit
        self._checked = parts.checked
        self._threads = threads
        self._pace = Pace(slowdown)
        self._accelerator = accelerator
        self._lock = threading.Lock()
        self._archive = Archive(path / SLICES_FILE, parts.manifest.unpacked_bytes)
        self._sessions: dict[str, tuple[Session, threading.Lock]] = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int = 1,
        slowdown: float = 1.0,
        accelerator: Accelerator = "cpu",
        calibrated: bool = True,
    ) -> Self:
        """Open a bundle and check every byte of it; without ``calibrated``, codec ladder and early exit are left alone.

        Raises BundleError where it is damaged or tampered with, AcceleratorError where the accelerator is not there or
        the bundle has no slice for it.
        """
        folder = Path(path)
        parts = read_parts(folder, calibrated=calibrated)
        _check_accelerator(parts.manifest, accelerator, folder)
        return cls(folder, parts, threads, slowdown, accelerator)

    @property
    def slowdown(self) -> float:
        """To how many times what it takes every run is stretched."""
        return self._pace.slowdown

    @slowdown.setter
    def slowdown(self, slowdown: float) -> None:
        self._pace.slowdown = slowdown

    @property
    def name(self) -> str:
        """The model file's name without its suffix."""
        return self.manifest.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self.manifest.outputs

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Where the model can be split, shortest head first."""
        return self.manifest.cuts

    @property
    def graph(self) -> Graph:
        """Layers and edges. Raises BundleError where they are damaged, or not those of the bundle's cuts."""
        where = f"{self.path / SLICES_FILE}:{GRAPH_MEMBER}"
        with self._as_checked():
            content = self._archive.read(GRAPH_MEMBER, MAX_MANIFEST_BYTES)
        graph = graph_from_bytes(content, where)
        if any(cut.nodes and cut.nodes[-1] >= len(graph.layers) for cut in self.cuts):
            raise BundleError(
                f"{where} has {len(graph.layers)} layers, and a cut of the bundle more; convert the model again"
            )
        return graph

    def with_times(self, machine: str, times: MachineTimes) -> Bundle:
        """The same bundle as if this machine had measured it: for decisions about boards that are elsewhere."""
        found = copy(self)
        cuts = {cut: SliceCost(head_ms, times.tail_ms[cut]) for cut, head_ms in times.head_ms.items()}
        found.costs = replace(self.costs, machine=machine, whole_ms=times.whole_ms, cuts=cuts)
        return found

    @property
    def resource_map(self) -> nx.DiGraph:
        """The layers with CPU milliseconds, memory in bytes and energy in millijoules; edges with bytes.

        Times are those measured at conversion, with one thread; energy is that of a core which draws one watt.
        """
        return resource_map(self.manifest, self.graph, self.costs.layers_ms, _NOMINAL_BUSY_W)

    def resource_map_on(self, profile: Profile) -> nx.DiGraph:
        """The same with the times that a profile predicts for all cores of its board, and the power it states."""
        layers_ms = layers_from_profile(self.manifest, self.graph, profile, digest=self.digest)
        return resource_map(self.manifest, self.graph, layers_ms, profile.power.busy_w)

    @property
    def bases_id(self) -> str | None:
        """Which calibrated bases are here (`Ladder.bases_id`); None where there are none."""
        ladder = self.ladder
        return ladder.bases_id if ladder is not None and any(place.bases for place in ladder.places) else None

    @property
    def image_inputs(self) -> dict[str, ImageInput]:
        """The inputs that are pictures."""
        return {name: s for name, s in self.manifest.semantics.items() if isinstance(s, ImageInput)}

    @property
    def bundle_bytes(self) -> int:
        """Size of all files on disk."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tensors:
        """The whole model, here, from reset state. Raises InputError on a wrong name, dtype or shape."""
        return self.run_tail(None, self.check_inputs(inputs))

    def run_split(self, inputs: Mapping[str, np.ndarray], cut: str | Sequence[str], codec: str = "raw") -> Tensors:
        """Head, encode, decode, tail, all in this process, from reset state.

        ``cut`` may be several cuts, from the input on: then there is a stage more for each, and every stage's tensors
        are encoded. Raises BundleError on an unknown cut or one of no slice with the cut before it, CodecError on an
        unknown codec, InputError on wrong inputs.
        """
        checked = self.check_inputs(inputs)
        find_codec(codec)
        chain = self.manifest.cut_chain(cut)
        crossing, outputs, codes = self.run_head_for(chain[0].id, codec, checked)
        for first, second in pairwise(chain):
            encoded = self.encode(first.id, codec, crossing, made=codes)
            received = self.decode(first.id, codec, encoded, _size(crossing))
            crossing, made = self.run_middle(first.id, second.id, received)
            outputs, codes = outputs | made, None
        last = chain[-1].id
        encoded = self.encode(last, codec, crossing, made=codes)
        return self.ordered(outputs | self.run_tail_on(self.decode_for_tail(last, codec, encoded, _size(crossing))))

    def check_inputs(self, inputs: Mapping[str, np.ndarray]) -> Tensors:
        """The inputs a slice takes, checked; those bound to a value at conversion may be left out."""
        owner = f"bundle {self.name!r}"
        free = dict(named_tensors(inputs, owner))
        for name, value in self.manifest.fixed.items():
            given = free.pop(name, None)
            if given is not None and not np.array_equal(np.asarray(given), np.asarray(value)):
                raise InputError(
                    f"input {name!r} of {owner} was bound to {value} at conversion, {np.asarray(given).tolist()} was "
                    f"given; convert the model again with another --value {name}=…"
                )
        return check_tensors(self.manifest.free_inputs(), free, owner)

    def run_head(self, cut_id: str, inputs: Tensors) -> tuple[Tensors, Tensors]:
        """The tensors that cross this cut, and the outputs the head already has. ``inputs`` were checked."""
        cut = self.manifest.cut(cut_id)
        made = inputs | self._run(head_name(cut_id), inputs)
        return {spec.name: made[spec.name] for spec in cut.tensors}, {name: made[name] for name in cut.head_outputs}

    def run_head_for(
        self, cut_id: str, codec: str, inputs: Tensors
    ) -> tuple[Tensors, Tensors, Mapping[str, Stepped] | None]:
        """What `run_head` gives, and codes for `encode` where the head codes what crosses by itself and that pays.

        The tensors come as well so that a tail can still run here, on exactly what the head has made.
        """
        cut, name = self.manifest.cut(cut_id), self._coding_slice(head_name, cut_id, codec)
        made = inputs | self._run(name or head_name(cut_id), inputs)
        crossing = {spec.name: made[spec.name] for spec in cut.tensors}
        codes = None
        if name:
            codes = {each: Stepped.of(*(made[key] for key in carrier_names(codec, each))) for each in crossing}
        return crossing, {output: made[output] for output in cut.head_outputs}, codes

    def decode_for_tail(
        self, cut_id: str | None, codec: str, encoded: Sequence[EncodedTensor], max_bytes: int
    ) -> TailInputs:
        """What came, as the tail takes it: decoded, or where the tail decodes by itself and that pays, as codes.

        Raises CodecError as `decode` does.
        """
        if cut_id is not None and (name := self._coding_slice(tail_name, cut_id, codec)):
            codes = decode_codes(codec, encoded, self.crossing_specs(cut_id), max_bytes)
            if codes is not None:
                carried: Tensors = {}
                for (each, stepped), tensor in zip(codes.items(), encoded, strict=True):
                    carried |= zip(carrier_names(codec, each), stepped.carriers(tensor.shape), strict=True)
                return TailInputs(name, carried)
        name = WHOLE if cut_id is None else tail_name(cut_id)
        return TailInputs(name, self.decode(cut_id, codec, encoded, max_bytes))

    def decodes_in_tail(self, cut_id: str | None, codec: str) -> bool:
        """Whether `decode_for_tail` may leave decoding to a slice of the tail's own."""
        return cut_id is not None and self._coding_slice(tail_name, cut_id, codec) is not None

    def run_tail_on(self, inputs: TailInputs) -> Tensors:
        """The outputs that follow from what `decode_for_tail` gave."""
        return self._run(inputs.slice, inputs.tensors)

    def run_tails_on(self, several: Sequence[TailInputs]) -> list[Tensors]:
        """The outputs for each of several inputs of one slice, run at once, stacked along the first axis.

        Raises InputError where the slice was not proven to answer so many, or the runtime refuses them.
        """
        if len(several) == 1:
            return [self.run_tail_on(several[0])]
        name = several[0].slice if several else WHOLE
        if len(several) not in self._record(name).batch_sizes or any(each.slice != name for each in several):
            raise InputError(f"slice {name!r} of bundle {self.name!r} does not answer {len(several)} inputs at once")
        stacked = {key: np.concatenate([each.tensors[key] for each in several]) for key in self._record(name).inputs}
        made = self._run(name, stacked)
        return [{key: value[row : row + 1] for key, value in made.items()} for row in range(len(several))]

    def run_middle(self, first: str, second: str, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """From the tensors at one cut to those at a later one, and the outputs that the layers between them have."""
        made = self._run(middle_name(first, second), tensors)
        crossing = {spec.name: (tensors | made)[spec.name] for spec in self.manifest.cut(second).tensors}
        outputs = {spec.name: made[spec.name] for spec in self.outputs if spec.name in made}
        return crossing, outputs

    def run_slice(self, name: str, tensors: Tensors) -> Tensors:
        """What a slice of this name makes of these tensors, its own inputs among them. Raises BundleError."""
        return self._run(name, tensors)

    def run_tail(self, cut_id: str | None, tensors: Tensors) -> Tensors:
        """The outputs that follow from the tensors at this cut; None stands for the whole model."""
        return self._run(WHOLE if cut_id is None else tail_name(cut_id), tensors)

    def run_exit(self, tensors: Tensors) -> Tensors | None:
        """The outputs from what crosses at the early exit's cut; None where it is not sure enough, or there is none."""
        if self.early_exit is None:
            return None
        return self.early_exit.answer(tensors, self.crossing_specs(self.early_exit.cut), self.outputs[0])

    @property
    def input_bytes(self) -> int:
        """Bytes of the whole input at the sizes the bundle was verified with."""
        return sum(nbytes(spec.dtype, self.manifest.sample_shapes[spec.name]) for spec in self.manifest.free_inputs())

    def batch_sizes(self, cut_id: str | None) -> tuple[int, ...]:
        """How many inputs the tail of this cut (None: the whole model) was proven to answer at once."""
        return self._record(WHOLE if cut_id is None else tail_name(cut_id)).batch_sizes

    def measure_whole_ms(self, repeats: int = 3, batch: int = 1) -> float:
        """Median milliseconds of the whole model here, on an input of zeros, after one run that does not count.

        ``batch`` inputs are run at once, which has to be one of its `batch_sizes`. Slow models and boards are measured
        fewer times, so that it takes about a second.
        """
        shapes = self.manifest.sample_shapes
        one = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in self.manifest.free_inputs()}
        blank = one if batch == 1 else {name: np.concatenate([tensor] * batch) for name, tensor in one.items()}
        self.run_tail(None, blank)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.run_tail(None, blank)
            times.append((time.perf_counter() - start) * 1e3)
            if sum(times) > _MEASURE_MS:
                break
        return median(times)

    def crossing_specs(self, cut_id: str | None) -> tuple[TensorSpec, ...]:
        """What travels at this cut; None stands for the whole input."""
        return self.manifest.free_inputs() if cut_id is None else self.manifest.cut(cut_id).tensors

    def prepare(self, cut_id: str | None, codec: str = "raw") -> None:
        """Load a cut's head and tail, or the whole model, so that the first run need not. Raises BundleError.

        With a codec, those that `run_head_for` and `decode_for_tail` take for it.
        """
        if cut_id is None:
            self._session(WHOLE)
            return
        for plain in (head_name, tail_name):
            self._session(self._coding_slice(plain, cut_id, codec) or plain(cut_id))

    def unload(self, cut_id: str) -> None:
        """Give back the memory of a cut's slices, and of those that begin or end at it. Raises BundleError."""
        self.manifest.cut(cut_id)
        middles = (middle_name(*pair) for pair in self.manifest.middles() if cut_id in pair)
        coding = (name(cut_id, codec) for name in (head_name, tail_name) for codec in CARRIERS)
        for name in (head_name(cut_id), tail_name(cut_id), *middles, *coding):
            self.unload_slice(name)

    def load_slice(self, name: str) -> None:
        """Load a slice, so that the first run need not. Raises BundleError."""
        self._session(name)

    def unload_slice(self, name: str) -> None:
        """Give back a slice's memory, if it was loaded; who runs it next loads it again."""
        with self._lock:
            entry = self._sessions.pop(name, None)
        if entry is not None:
            with entry[1]:
                entry[0].close()

    @property
    def loaded(self) -> frozenset[str]:
        """The slices that are loaded."""
        with self._lock:
            return frozenset(self._sessions)

    def encode(
        self,
        cut_id: str | None,
        codec: str,
        tensors: Tensors,
        zstd: bool = True,
        made: Mapping[str, Stepped] | None = None,
    ) -> tuple[EncodedTensor, ...]:
        """What crosses at a cut (None: the whole input), by a codec as calibrated.

        ``zstd`` says that the receiver knows it; ``made`` are the codes of `run_head_for`. Raises CodecError on an
        unknown codec, MissingExtraError where its library is not installed.
        """
        settings = UNCALIBRATED if self.ladder is None else self.ladder.settings(cut_id, codec)
        if settings.entropy == "zstd" and not (zstd and zstd_available()):
            settings = replace(settings, entropy=UNCALIBRATED.entropy)
        return encode(codec, tensors, self.manifest.semantics, settings, made)

    def decode(self, cut_id: str | None, codec: str, encoded: Sequence[EncodedTensor], max_bytes: int) -> Tensors:
        """The reverse of `encode`, of at most ``max_bytes``. Raises CodecError on damage, or on more."""
        bases = {} if self.ladder is None else self.ladder.bases(cut_id)
        return decode(codec, encoded, self.crossing_specs(cut_id), self.manifest.semantics, max_bytes, bases)

    def _coding_slice(self, slice_name: Callable[[str, str], str], cut_id: str, codec: str) -> str | None:
        """The head or tail that codes, where there is one and it pays; accelerators run the plain ones."""
        name = slice_name(cut_id, codec) if codec in CARRIERS and self._accelerator == "cpu" else ""
        cost = self.costs.coding.get(name)
        return name if cost is not None and cost.pays else None

    def ordered(self, outputs: Tensors) -> Tensors:
        """All outputs, in the manifest's order."""
        return {spec.name: outputs[spec.name] for spec in self.outputs}

    def _run(self, name: str, tensors: Tensors) -> Tensors:
        while True:
            entry = self._session(name)
            session, lock = entry
            with lock:
                # Another thread may have unloaded it before this one had its turn.
                if self._sessions.get(name) is entry:
                    session.reset()
                    return session.run({key: tensors[key] for key in self._record(name).inputs})

    def _session(self, name: str) -> tuple[Session, threading.Lock]:
        # One that is loaded does not wait for others that are being loaded.
        if (loaded := self._sessions.get(name)) is not None:
            return loaded
        with self._lock:
            entry = self._sessions.get(name)
            if entry is None:
                record, accelerator = self._record(name), self._accelerator
                if accelerator == "edgetpu":
                    compiled = self.manifest.slices.get(edgetpu_name(name))
                    record, accelerator = (record, "cpu") if compiled is None else (compiled, accelerator)
                with self._as_checked():
                    content = self._archive.read(record.member, record.bytes)
                    program = Program(record, content, self.path / WEIGHTS_FILE)
                    session = engine_for(self.manifest.engine).load(program, self._threads, accelerator)
                entry = (PacedSession(session, self._pace), threading.Lock())
                self._sessions[name] = entry
            return entry

    def _record(self, name: str) -> SliceRecord:
        record = self.manifest.slices.get(name)
        if record is None:
            known = ", ".join(cut.id for cut in self.cuts) or "none"
            raise BundleError(f"bundle {self.name!r} has no slice {name!r}; its cuts are {known}")
        return record

    @contextmanager
    def _as_checked(self) -> Iterator[None]:
        """What is read from the files within is what `open` checked; raises BundleError where it is not."""
        self.check_unchanged()
        try:
            yield
        finally:
            self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise BundleError where the folder's files are no longer those that were opened."""
        for name, identity in self._checked.items():
            path = self.path / name
            try:
                found = FileIdentity.of(path.lstat())
            except OSError as error:
                raise BundleError(f"cannot read {path}: {error.strerror}; open the bundle again") from None
            if found != identity:
                raise BundleError(f"{path} was replaced or changed since the bundle was opened; open it again")


def _size(tensors: Tensors) -> int:
    return sum(decoded_bytes(tensor.shape, tensor.dtype) for tensor in tensors.values())


def _check_accelerator(manifest: Manifest, accelerator: Accelerator, path: Path) -> None:
    if accelerator == "cpu":
        return
    if accelerator not in ACCELERATORS:
        raise AcceleratorError(f"no accelerator is called {accelerator!r}; there are {', '.join(ACCELERATORS)}")
    engine_for(manifest.engine).require(accelerator)
    if accelerator == "edgetpu" and not any(name.endswith(EDGETPU_SUFFIX) for name in manifest.slices):
        raise AcceleratorError(
            f"bundle {path} has no slice compiled for the Edge TPU; convert a model of 8-bit integers with --edgetpu, "
            "where edgetpu_compiler is installed"
        )
