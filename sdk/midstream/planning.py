"""What a device knows of what its bundle costs here and on gateways, and the plans that it makes with that."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from midstream.bundle import Bundle
from midstream.communication.choosing import Route
from midstream.communication.codecs import find_codec, optional_libraries
from midstream.communication.presence import Presence
from midstream.communication.wire import MAX_STAGES
from midstream.deciding import Deciding
from midstream.errors import PlanError
from midstream.inputs import ImageInput
from midstream.partitioning import (
    GATEWAY,
    Candidate,
    Inputs,
    MachineTimes,
    Objective,
    Plan,
    Power,
    SizeEstimates,
    SystemState,
    Table,
    candidates,
    in_stages,
    plan_for,
    times_from_costs,
    with_exit,
)

INPUT_CUT = "input"
LOCAL_CUT = "local"
_SMOOTHING = 0.2
# Costs are taken as unchanged within this share.
_TOLERANCE = 0.05
# Of so many gateways the candidates are kept.
_MAX_KNOWN = 8
# What takes less says more about the clock than about the machine.
_TELLING_MS = 0.05


@dataclass(frozen=True, slots=True)
class Forced:
    """The plan that a caller wants: its first cut, those of further stages, and the gateways by name."""

    cut: str
    onward: tuple[str, ...]
    codec: str | None
    machines: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class _Known:
    """The candidates as they were last made, and from what; ``places`` are those of their sizes."""

    presence: Presence | None
    factor: float
    table: Table
    places: NDArray[np.intp]
    sizes: int

    def holds(self, presence: Presence | None, factor: float, sizes: int) -> bool:
        """Whether they still describe this gateway, a device so many times slower than the one that measured, and
        as many sizes as are known.
        """
        return (
            self.presence is presence and self.sizes == sizes and abs(factor - self.factor) <= _TOLERANCE * self.factor
        )


class Planning:
    """The candidates of one bundle on one device, what was learned of them, and decisions. Thread-safe.

    ``power`` is what the device draws, ``deciding`` who decides.
    """

    def __init__(self, bundle: Bundle, power: Power, deciding: Deciding) -> None:
        self._bundle = bundle
        self._power = power
        self._deciding = deciding
        self._lock = threading.Lock()
        self._factor = 1.0
        self._sizes = SizeEstimates(bundle.ladder)
        self._known: dict[str, _Known] = {}

    def measure(self) -> None:
        """Run the model to see how much slower this device is than the machine that measured the bundle."""
        factor = self._bundle.measure_whole_ms() / self._bundle.costs.whole_ms
        with self._lock:
            self._factor = factor

    def check(self, cut: str | Sequence[str] | None, codec: str | None) -> None:
        """Raise what `forced` and `plan` raise where no such plan can be forced, whatever gateways are there."""
        self._candidate(self._options(None).table.candidates, self.forced(cut, codec, None))

    def forced(self, cut: str | Sequence[str] | None, codec: str | None, machines: Sequence[str] | None) -> Forced:
        """What a caller forces, checked as far as it can be without a gateway.

        Raises BundleError on an unknown cut or two without a slice between them, PlanError on machines that are not one
        for each cut, or too many cuts.
        """
        cuts = [INPUT_CUT] if cut is None else [cut] if isinstance(cut, str) else list(cut)
        between = cuts[1:] if cuts[:1] == [INPUT_CUT] else cuts
        if between and cuts != [LOCAL_CUT]:
            self._bundle.manifest.cut_chain(between)
        if not cuts or len(cuts) > MAX_STAGES:
            raise PlanError(f"{len(cuts)} cuts were given; a plan has 1 to {MAX_STAGES}")
        if machines is not None and (isinstance(machines, str) or len(machines) != len(cuts) or cuts == [LOCAL_CUT]):
            raise PlanError(
                f"machines={machines!r} beside cut={cut!r}: name as many gateways as there are cuts, the one that runs "
                "what follows the first cut first"
            )
        return Forced(cuts[0], tuple(cuts[1:]), codec, None if machines is None else tuple(machines))

    def plan(
        self,
        route: Route,
        state: SystemState,
        objective: Objective,
        features: Mapping[str, float] | None,
        forced: Forced | None = None,
    ) -> Plan:
        """The best plan for an input with these features, or the forced one.

        Raises CodecError on a forced codec that is unknown, PlanError on one that cannot carry what crosses.
        """
        known = self._options(route.first)
        if forced is None:
            return self._decided(known, state, objective, features)
        chosen = self._sized(self._candidate(known.table.candidates, forced), features)
        plan = plan_for(chosen, state, self._power, "forced by the caller")
        if not forced.onward:
            return plan
        names = [gateway.gateway_id for gateway in route.gateways[1:]]
        further = names or [f"{GATEWAY}-{place + 2}" for place in range(len(forced.onward))]
        heads = [(cut_id, self._bundle.manifest.cut(cut_id).nodes) for cut_id in forced.onward]
        return in_stages(plan, heads, [GATEWAY, *further])

    def sent(self, plan: Plan, features: Mapping[str, float] | None, payload_bytes: int) -> None:
        """Learn what the payload of a plan took, of an input with these features."""
        with self._lock:
            self._sizes.observe((plan.cut, plan.codec), features, payload_bytes)

    def finished(self, plan: Plan, latency_ms: float) -> None:
        """Learn what came of a plan: ms from the decision to the result, which is no early exit's."""
        self._deciding.finished(plan, latency_ms)

    def flush(self) -> None:
        """Write what is left of the log of decisions."""
        self._deciding.flush()

    def ran_head(self, cut: str, took_ms: float) -> None:
        """Learn how long this device took for the head of a cut."""
        self._learn(self._bundle.costs.cuts[cut].head_ms, took_ms)

    def ran_rest(self, cut: str | None, took_ms: float) -> None:
        """Learn how long this device took for what follows a cut; None: for the whole model."""
        self._learn(self._measured_rest_ms(cut), took_ms)

    def rest_ms(self, cut: str | None) -> float:
        """What this device is expected to take for what follows a cut; None: for the whole model."""
        with self._lock:
            return self._factor * self._measured_rest_ms(cut)

    def _measured_rest_ms(self, cut: str | None) -> float:
        costs = self._bundle.costs
        return costs.whole_ms if cut is None else costs.cuts[cut].tail_ms

    def _options(self, presence: Presence | None) -> _Known:
        """What can be done, at the costs known now; without a gateway, at those of one as fast as the converter's.

        Made again only when a gateway has reported, or a cost has changed by more than a little.
        """
        with self._lock:
            known = self._known.get("" if presence is None else presence.gateway_id)
            factor, sizes = self._factor, len(self._sizes)
            if known is not None and known.holds(presence, factor, sizes):
                return known
        there = times_from_costs(self._bundle.costs)
        if presence is not None:
            tails = presence.tail_ms.get(self._bundle.digest.hex(), {})
            guess = times_from_costs(self._bundle.costs, 1.0 / presence.speed_factor)
            there = MachineTimes(tails.get("whole", guess.whole_ms), {}, {**guess.tail_ms, **tails})
        here = times_from_costs(self._bundle.costs, factor)
        options = candidates(self._bundle.manifest, self._bundle.graph, here, there, self._bundle.ladder)
        if self._bundle.early_exit is not None:
            options = with_exit(options, self._bundle.early_exit, here)
        if presence is not None:
            libraries = frozenset(presence.knows).intersection(optional_libraries())
            same_bases = presence.bases.get(self._bundle.digest.hex()) == self._bundle.bases_id
            options = tuple(option for option in options if _travels(option, libraries, same_bases))
        with self._lock:
            places = self._sizes.places([(option.cut, option.codec) for option in options])
            known = _Known(presence, factor, Table(options, self._power), places, len(self._sizes))
            self._known["" if presence is None else presence.gateway_id] = known
            if len(self._known) > _MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known

    def _decided(
        self, known: _Known, state: SystemState, objective: Objective, features: Mapping[str, float] | None
    ) -> Plan:
        return self._deciding.decide(known.table, state, objective, self._inputs(known, features))

    def _inputs(self, known: _Known, features: Mapping[str, float] | None) -> Inputs:
        """The sizes and the chance of an early exit that this input is expected to have."""
        table, early = known.table, self._bundle.early_exit
        with self._lock:
            payloads = self._sizes.sizes_of(known.places, table.payload_bytes, features)
            reply = self._sizes.reply_bytes(features)
        fixed = all(None not in spec.shape for spec in self._bundle.outputs)
        return Inputs(payloads, None if fixed else reply, None if early is None else early.share_of(features))

    def _sized(self, option: Candidate, features: Mapping[str, float] | None) -> Candidate:
        """A candidate with the payload that this input is expected to have."""
        with self._lock:
            places = self._sizes.places([(option.cut, option.codec)])
            (size,) = self._sizes.sizes_of(places, np.array([float(option.payload_bytes)]), features)
        return replace(option, payload_bytes=int(size)) if option.offloads else option

    def _candidate(self, options: tuple[Candidate, ...], forced: Forced) -> Candidate:
        codec = find_codec("raw" if forced.codec is None else forced.codec)
        if forced.cut == LOCAL_CUT:
            return options[0]
        wanted = None if forced.cut == INPUT_CUT else forced.cut
        places = [option for option in options if option.offloads and option.exit is None and option.cut == wanted]
        for option in places:
            if option.codec == codec.name:
                return option
        where = "the input" if wanted is None else f"cut {wanted!r}"
        if not places:
            raise PlanError(f"{where} of bundle {self._bundle.name!r} never travels: the model's state stays with it")
        semantics = self._bundle.manifest.semantics.values()
        described = {"image" if isinstance(each, ImageInput) else "audio" for each in semantics}
        needed = {"pictures": "image", "sounds": "audio"}.get(codec.takes)
        if needed is not None and (wanted is not None or needed not in described):
            raise PlanError(
                f"codec {codec.name!r} cannot carry {where} of bundle {self._bundle.name!r}: it is for {codec.takes} "
                "as whole input"
            )
        # Not calibrated, so its size is not known: that of the elements is the most it can be.
        return replace(places[0], codec=codec.name, lossless=codec.lossless, agreement=None)

    def _learn(self, expected_ms: float, took_ms: float) -> None:
        """Correct how much slower this device is than the machine that measured the bundle."""
        if expected_ms < _TELLING_MS:
            return
        with self._lock:
            factor = min(took_ms / expected_ms, 4 * self._factor)
            self._factor += _SMOOTHING * (factor - self._factor)


def _travels(option: Candidate, libraries: Set[str], same_bases: bool) -> bool:
    """Whether a gateway can decode an option's payload, with the libraries that both ends have and its bases."""
    if not option.offloads:
        return True
    codec = find_codec(option.codec)
    if codec.family == "klt" and not same_bases:
        return False
    return codec.library is None or codec.library in libraries
