"""What a device knows of what its bundle costs here and on gateways, and the plans that it makes with that."""

from __future__ import annotations

import itertools
import logging
import operator
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midstream.background_file import BackgroundFile
from midstream.bundle import Bundle
from midstream.communication.choosing import Route
from midstream.communication.codecs import find_codec
from midstream.communication.presence import Presence
from midstream.communication.wire import MAX_STAGES, Reply
from midstream.deciding import Deciding
from midstream.errors import BundleError, PlanError
from midstream.files import read_at_most
from midstream.inputs import ImageInput
from midstream.learned_file import MAX_LEARNED_BYTES, Learned, learned_from_bytes, learned_to_bytes
from midstream.link_watch import PROBE_EVERY_S
from midstream.occupation import Occupied, Pace, Run
from midstream.options import Made, Option, Options, option_of
from midstream.partitioning import (
    GATEWAY,
    Candidate,
    DeviceLoad,
    Inputs,
    Objective,
    Plan,
    Power,
    SystemState,
    Table,
    in_stages,
    plan_for,
    slowdown,
)
from midstream.partitioning.correction import WHOLE, Corrections, Factors
from midstream.partitioning.exploration import Exploration, Place, place_of
from midstream.partitioning.fallback import patience_ms
from midstream.partitioning.link import DEVIATION

_log = logging.getLogger("midstream.planning")

INPUT_CUT = "input"
LOCAL_CUT = "local"
# What takes less says more about the clock than about the machine.
_TELLING_MS = 0.05
_NONE = Factors()
_UNKNOWN_LOAD = DeviceLoad()
# What is worse by less than this share, and of times by less than this, is no reason to decide again.
_NEWS_SHARE, _NEWS_MS = 0.1, 1.0
_LEAST_MJ = 1e-9
# Where nothing hangs on it, and where energy is what counts, the link is probed so many times as seldom.
_SELDOM, _FRUGAL = 60.0, 5.0
# Of so many sets of gateways the candidates, and what decisions have come to, are kept.
_MAX_KNOWN = 32
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Forced:
    """The plan that a caller wants: its first cut, those of further stages, and the gateways by name."""

    cut: str
    onward: tuple[str, ...]
    codec: str | None
    machines: tuple[str, ...] | None


Names = tuple[str, ...]
"""Gateways by id: the one that is asked first, then those that stages can be given to."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The candidates as they were last made, and from what.

    ``here`` and ``there`` correct the costs of the device and of the gateways; ``places`` are those of the sizes of
    the ``made`` candidates, ``later`` those of the options from where each of them stands once its head has run.
    """

    presences: tuple[Presence, ...]
    here: Factors
    there: tuple[Factors, ...]
    made: Made
    places: NDArray[np.intp]
    sizes: int
    later: dict[int, NDArray[np.intp]] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The candidates themselves."""
        return self.made.table

    def holds(self, presences: tuple[Presence, ...], here: Factors, there: tuple[Factors, ...], sizes: int) -> bool:
        """Whether they still describe these gateways, corrections, and as many sizes as are known."""
        return (
            self.here is here
            and self.sizes == sizes
            and all(map(operator.is_, self.presences, presences))
            and all(map(operator.is_, self.there, there))
        )


def _turns() -> Iterator[float]:
    """0 to 1, spread evenly however many are taken: multiples of the golden ratio, without their whole parts."""
    for number in itertools.count(1):
        yield number * _GOLDEN % 1.0


@dataclass(slots=True)
class _Course:
    """What decisions with the same gateways have come to: the plan that stands, and what was tried."""

    exploration: Exploration
    standing: Option | None = None


class Planning:
    """The candidates of one bundle on one device, what was learned of them, and decisions. Thread-safe.

    ``power`` is what the device draws, ``deciding`` who decides, ``load`` tells what its machine is doing. What is
    learned goes to ``state_file`` and is taken from there; ``clock`` gives seconds. Devices of a kind may share their
    ``options``, which are this bundle's.
    """

    def __init__(
        self,
        bundle: Bundle,
        power: Power,
        deciding: Deciding,
        state_file: Path | None = None,
        load: Callable[[], DeviceLoad] = lambda: _UNKNOWN_LOAD,
        clock: Callable[[], float] = time.monotonic,
        options: Options | None = None,
    ) -> None:
        self._bundle = bundle
        self._power = power
        self._deciding = deciding
        self._load = load
        self._clock = clock
        # The slowdown that was known of when the device was measured, while what others took is still to be told; and
        # that of what it ran last.
        self._measured_under: float | None = None
        # What the whole model took over what was expected, when it was measured.
        self._whole_ratio: float | None = None
        self._slowdown_then = 1.0
        self._lock = threading.Lock()
        self._occupied: dict[str | None, Occupied] = {}
        self._turns = _turns()
        self._pace = Pace()
        self._corrections = Corrections()
        self._known: dict[Names, _Known] = {}
        self._courses: dict[Names, _Course] = {}
        self._options = Options(bundle, power) if options is None else options
        self._sizes = self._options.sizes.fresh()
        self._fixed_reply = all(None not in spec.shape for spec in bundle.outputs)
        self._file: BackgroundFile | None = None
        if state_file is not None:
            self._restore(state_file)
            self._file = BackgroundFile(state_file, self._to_bytes, clock)

    def measure(self, objective: Objective) -> None:
        """Run the model to see how much slower this device is than the machine that measured the bundle.

        Where the whole model is more than the device shall take, that is left to the heads that will run.
        """
        if not self.fits(None, objective):
            return
        ratio = self._bundle.measure_whole_ms() / self._bundle.costs.whole_ms
        load = self._load()
        slower = slowdown(load) or 1.0
        with self._lock:
            self._whole_ratio = ratio / slower
            counts = self._corrections.device.check(self._whole_ratio)
            self._measured_under = slower if counts and load.others_share is None else None

    def finished(self, plan: Plan, latency_ms: float) -> None:
        """Learn what came of a plan: ms from the decision to the result, which is no early exit's."""
        self._deciding.finished(plan, latency_ms)

    def save(self) -> None:
        """Write down what was learned and decided since that was last done, where there are files for it."""
        self._deciding.flush()
        if self._file is not None:
            self._file.flush()

    def check(self, cut: str | Sequence[str] | None, codec: str | None) -> None:
        """Raise what `forced` and `plan` raise where no such plan can be forced, whatever gateways are there."""
        self._candidate(self._known_with(()).table.candidates, self.forced(cut, codec, None))

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
        with self._lock:
            self._pace.came(self._clock())
        state = self._corrected(state, route.first)
        known = self._known_with((*route.gateways[:1], *route.further))
        if forced is None:
            return self._decided(known, state, objective, features)
        chosen = self._sized(self._candidate(known.table.candidates, forced), features)
        plan = plan_for(chosen, state, self._power, "forced by the caller")
        fallback = plan.fallback if self.fits(None, objective) else None
        plan = replace(plan, deadline_ms=objective.deadline_ms, fallback=fallback)
        if not forced.onward:
            return plan
        names = [gateway.gateway_id for gateway in route.gateways[1:]]
        further = names or [f"{GATEWAY}-{place + 2}" for place in range(len(forced.onward))]
        heads = [(cut_id, self._bundle.manifest.cut(cut_id).nodes) for cut_id in forced.onward]
        return in_stages(plan, heads, [GATEWAY, *further])

    def again(
        self,
        plan: Plan,
        route: Route,
        state: SystemState,
        objective: Objective,
        features: Mapping[str, float] | None,
        payload_bytes: int,
        elapsed_ms: float,
    ) -> Plan:
        """The plan once its head has run and its payload is encoded: the same one, or another from there on.

        ``elapsed_ms`` of the deadline are over, and the head's share of the energy budget is drawn. What another plan
        predicts is what is left. A plan behind an early exit, one of several gateways, one that is tried to be
        measured, one of the bandit's, and for throughput, where the head counts as the device's time still, stay. So
        does every plan whose payload, link and wait are hardly worse than it was made for.
        """
        left_ms = None if objective.deadline_ms is None else objective.deadline_ms - elapsed_ms
        if plan.exit is not None or plan.others != (GATEWAY,) or plan.reasons.explores:
            return plan
        if objective.kind == "throughput" or (left_ms is not None and left_ms <= 0):
            return plan
        if not self._deciding.again:
            return plan
        state = self._corrected(state, route.first)
        if not _is_worse(plan, state, payload_bytes):
            return plan
        known = self._known_with((*route.gateways[:1], *route.further))
        row = known.made.rows.get(option_of(plan))
        if row is None:
            return plan
        table = self._options.later(known.made, row)
        with self._lock:
            if row not in known.later:
                known.later[row] = self._places(table)
            places = known.later[row]
        inputs = self._inputs(table, places, features)
        payloads = table.payload_bytes.copy() if inputs.payload_bytes is None else inputs.payload_bytes.copy()
        # What was wrong by so much in this codec is taken to be so in the others.
        there = [at for at, option in enumerate(table.candidates) if option.offloads and option.cut == plan.cut]
        payloads[there] *= payload_bytes / max(1.0, payloads[0])
        payloads[0] = payload_bytes
        begun, budget_mj = known.table.candidates[row], objective.energy_budget_mj
        if budget_mj is not None:
            # Where nothing is left of it, that which draws least is taken.
            budget_mj = max(_LEAST_MJ, budget_mj - self._power.busy_w * (begun.device_ms + begun.encode_ms))
        left = replace(objective, deadline_ms=left_ms, energy_budget_mj=budget_mj)
        other = self._deciding.decide(table, state, left, replace(inputs, payload_bytes=payloads), standing=0)
        return plan if other.reasons.row == 0 else other

    def sent(self, plan: Plan, features: Mapping[str, float] | None, payload_bytes: int) -> None:
        """Learn what the payload of a plan took, of an input with these features."""
        with self._lock:
            self._sizes.observe((plan.cut, plan.codec), features, payload_bytes)
        self._learned()

    def answered(self, plan: Plan, route: Route, bearers: Set[str], reply: Reply) -> None:
        """Learn how long the gateway took for its part of a plan, and let it wait, as its reply says.

        ``bearers`` are those of whom the reply may be. Nothing is learned where they are several, nor of a plan of
        several gateways.
        """
        if len(bearers) != 1 or plan.onward or route.first is None:
            return
        (gateway_id,) = bearers
        cut = plan.cut or WHOLE
        now_s = self._clock()
        with self._lock:
            if gateway_id == route.first.gateway_id:
                self._corrections.waited(gateway_id, reply.queue_ms, plan.reasons.wait_ms, now_s)
            known = next((known for names, known in self._known.items() if names[:1] == (gateway_id,)), None)
            row = None if known is None else known.made.rows.get(option_of(plan))
            if known is None or row is None or not known.table.candidates[row].tail:
                return
            option = known.table.candidates[row]
            expected_ms = option.gateway_ms + option.decode_ms
            if expected_ms >= _TELLING_MS and reply.compute_ms > 0:
                ratio = known.there[0].of(cut) * reply.compute_ms / expected_ms
                self._corrections.observe(gateway_id, cut, ratio, now_s)
            self._measured(place_of(option), gateway_id)
        self._learned()

    def running(self, cut: str | None) -> Run:
        """What a cut's head is run in, or the whole model (None)."""
        costs = self._bundle.costs
        with self._lock:
            alone_ms = costs.whole_ms if cut is None else costs.cuts[cut].head_ms
            expected_ms = self._corrections.device.factor(WHOLE if cut is None else cut) * alone_ms
            occupied = self._occupied.setdefault(cut, Occupied())
        return Run(occupied, expected_ms, self._lock, self._clock)

    def ran_head(self, cut: str, took_ms: float) -> None:
        """Learn how long this device took for the head of a cut."""
        self._learn(cut, self._bundle.costs.cuts[cut].head_ms, took_ms)

    def ran_rest(self, cut: str | None, took_ms: float) -> None:
        """Learn how long this device took for what follows a cut; None: for the whole model."""
        self._learn(_rest(cut), self._measured_rest_ms(cut), took_ms)
        if cut is None:
            with self._lock:
                self._measured((None, False))

    def fits(self, cut: str | None, objective: Objective) -> bool:
        """Whether what the device needs for a cut's head, or for the whole model, is within the objective's bound."""
        limit = objective.max_device_memory_bytes
        return limit is None or self._options.memory[cut] <= limit

    def rest_ms(self, cut: str | None) -> float:
        """What this device is expected to take for what follows a cut; None: for the whole model."""
        with self._lock:
            # Careful: a device counts as faster than it was only once that was measured.
            slower = max(self._slowdown(), self._slowdown_then)
            return slower * self._corrections.device.factor(_rest(cut)) * self._measured_rest_ms(cut)

    def patience_ms(self, plan: Plan, begun: str | None, objective: Objective) -> float:
        """How long to wait for what a plan, without a deadline, is expected to bring once its head has run."""
        worth_ms = self.rest_ms(begun)
        if begun is None:
            with self._lock:
                occupied = self._occupied.get(None)
                worth_ms += 0.0 if occupied is None or not occupied.inside else occupied.wait_ms(self._clock())
        if objective.kind == "energy" and self._power.idle_w:
            worth_ms *= self._power.busy_w / self._power.idle_w
        return patience_ms(plan.predicted_ms, worth_ms)

    def probe_every_s(self, plan: Plan, objective: Objective) -> float:
        """How often to look at the link: seldom where no link, however good, would give another plan.

        Probes are sent for nothing then, and draw more than a small model does.
        """
        if plan.offloads or plan.reasons.offloading_could_pay:
            return PROBE_EVERY_S * (_FRUGAL if objective.kind == "energy" else 1.0)
        return PROBE_EVERY_S * _SELDOM

    def _slowdown(self) -> float:
        """How much slower than idle the device is now.

        Times are learned as those of an idle device. What was measured before anything was known of what others take
        is taken to have been under the first load that is.
        """
        load = self._load()
        slower = slowdown(load)
        if slower is None:
            return 1.0
        # A board tells its clock at once, but what others take only after a second.
        if self._measured_under is not None and load.others_share is not None:
            faster = self._measured_under / slower
            self._corrections.device.rescale(faster)
            self._whole_ratio = None if self._whole_ratio is None else self._whole_ratio * faster
            self._measured_under = None
        return slower

    def _measured_rest_ms(self, cut: str | None) -> float:
        costs = self._bundle.costs
        return costs.whole_ms if cut is None else costs.cuts[cut].tail_ms

    def _known_with(self, presences: tuple[Presence, ...]) -> _Known:
        """What can be done with these gateways, at the costs known now.

        Made again only when a gateway has reported, or a cost has changed by more than a little.
        """
        key = tuple(presence.gateway_id for presence in presences)
        with self._lock:
            known = self._known.get(key)
            mine, its = self._corrections.device.factors, tuple(self._factors(name) for name in key)
            if known is not None and known.holds(presences, mine, its, len(self._sizes)):
                return known
        made = self._options.made(presences, mine, its)
        with self._lock:
            known = _Known(presences, mine, its, made, self._places(made.table), len(self._sizes))
            self._forget(presences)
            self._known[key] = known
            if len(self._known) > _MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known

    def _places(self, table: Table) -> NDArray[np.intp]:
        """Where the sizes of a table's candidates are found."""
        return self._sizes.places([(option.cut, option.codec) for option in table.candidates])

    def _forget(self, presences: tuple[Presence, ...]) -> None:
        """What was known of these gateways as they were announced before: nothing is to be held against that."""
        now = {presence.gateway_id: presence for presence in presences}
        self._known = {
            names: known
            for names, known in self._known.items()
            if all(now.get(each.gateway_id, each) is each for each in known.presences)
        }

    def _factors(self, gateway_id: str) -> Factors:
        correction = self._corrections.gateway(gateway_id)
        return _NONE if correction is None else correction.factors

    def _decided(
        self, known: _Known, state: SystemState, objective: Objective, features: Mapping[str, float] | None
    ) -> Plan:
        inputs = self._inputs(known.table, known.places, features)
        if objective.kind == "throughput":
            inputs = replace(inputs, turn=next(self._turns))
        with self._lock:
            course = self._course(known)
            standing = None if course.standing is None else known.made.rows.get(course.standing)
            plan = self._deciding.decide(known.table, state, objective, inputs, standing, course.exploration)
            if plan.reasons.stands:
                course.standing = option_of(plan)
        return plan

    def _course(self, known: _Known) -> _Course:
        names = tuple(presence.gateway_id for presence in known.presences)
        course = self._courses.get(names)
        if course is None:
            course = self._courses[names] = _Course(Exploration())
            if len(self._courses) > _MAX_KNOWN:
                del self._courses[next(iter(self._courses))]
        return course

    def _measured(self, place: Place, gateway_id: str | None = None) -> None:
        """This was measured with a gateway; None: with all."""
        for names, course in self._courses.items():
            if gateway_id is None or names[:1] == (gateway_id,):
                self._deciding.measured(course.exploration, place)

    def _corrected(self, state: SystemState, presence: Presence | None) -> SystemState:
        """The state with what the device and what was learned say: its load, how times spread, and the gateway's waits
        as they have lately been beside its reports.
        """
        now_s = self._clock()
        with self._lock:
            period_ms = self._pace.period_ms
            waits_ms = {cut: occupied.wait_ms(now_s) for cut, occupied in self._occupied.items() if occupied.inside}
            device_load = 1.0 - 1.0 / self._slowdown()
            if self._whole_ratio is not None:
                self._corrections.passed_here(self._whole_ratio, now_s)
            spread = DEVIATION * self._corrections.device.spread
            gateway_spread = bias_ms = 0.0
            if presence is not None:
                self._corrections.passed(presence.gateway_id, now_s)
                bias_ms = self._corrections.wait_bias_ms(presence.gateway_id, now_s)
                known = self._corrections.gateway(presence.gateway_id)
                gateway_spread = 0.0 if known is None else DEVIATION * known.spread
        # Not by `replace`, which takes as long as all else here.
        return SystemState(
            state.link,
            device_load,
            state.gateway_load,
            max(0.0, state.gateway_wait_ms + bias_ms),
            {cut: max(0.0, ms + bias_ms) for cut, ms in state.gateway_waits_ms.items()},
            state.complexity,
            state.gateway_queue,
            spread,
            gateway_spread,
            state.further,
            waits_ms,
            state.uplink_wait_ms,
            state.downlink_wait_ms,
            period_ms,
        )

    def _inputs(self, table: Table, places: NDArray[np.intp], features: Mapping[str, float] | None) -> Inputs:
        """The sizes and the chance of an early exit that this input is expected to have."""
        early = self._bundle.early_exit
        with self._lock:
            payloads = self._sizes.sizes_of(places, table.payload_bytes, features)
            reply = self._sizes.reply_bytes(features)
        return Inputs(
            payloads, None if self._fixed_reply else reply, None if early is None else early.share_of(features)
        )

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
        places = [option for option in options if option.tail and option.exit is None and option.cut == wanted]
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

    def _learn(self, cut: str | None, expected_ms: float, took_ms: float) -> None:
        """Correct how much slower this device is than the machine that measured the bundle."""
        if expected_ms < _TELLING_MS or took_ms <= 0:
            return
        with self._lock:
            self._slowdown_then = self._slowdown()
            self._corrections.ran(cut, took_ms / expected_ms / self._slowdown_then, self._clock())
        self._learned()

    def _learned(self) -> None:
        if self._file is not None:
            self._file.changed()

    def _to_bytes(self) -> bytes:
        with self._lock:
            learned = Learned(self._corrections.copy(), self._sizes.learned())
        return learned_to_bytes(learned, self._bundle.digest)

    def _restore(self, path: Path) -> None:
        """Take what an earlier run has learned; a file that is damaged, or of another bundle, is left aside."""
        try:
            learned = learned_from_bytes(read_at_most(path, MAX_LEARNED_BYTES), str(path), self._bundle.digest)
        except FileNotFoundError:
            return
        except (OSError, BundleError) as error:
            _log.warning("what was learned before is not used: %s", error)
            return
        self._corrections = learned.corrections
        self._sizes.restore(learned.sizes)


def _is_worse(plan: Plan, state: SystemState, payload_bytes: int) -> bool:
    """Whether the payload, the link or the wait at the plan's gateway is worse than the plan was made for.

    What is better speaks for the plan that has begun.
    """
    before = plan.reasons.state
    link, then = state.link, before.link
    if link is None or then is None:
        return True
    wait_ms, wait_then_ms = (each.wait_at(plan.cut) for each in (state, before))
    return (
        _is_more(payload_bytes, plan.payload_bytes)
        or _is_more(then.uplink_kbps, link.uplink_kbps)
        or _is_more(then.downlink_kbps, link.downlink_kbps)
        or _is_more(link.rtt_ms, then.rtt_ms, _NEWS_MS)
        or _is_more(wait_ms, wait_then_ms, _NEWS_MS)
    )


def _is_more(one: float, other: float, least: float = 0.0) -> bool:
    return one - other > max(least, _NEWS_SHARE * other)


def _rest(cut: str | None) -> str | None:
    """What the device's time for what follows a cut is learned under: only heads have entries of their own."""
    return WHOLE if cut is None else None
