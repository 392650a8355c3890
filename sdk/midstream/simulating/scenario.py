"""What is simulated: which bundle on which board, over which link, with which gateways, and how often it is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from midstream.bundle import Bundle
from midstream.communication.codecs import optional_libraries
from midstream.communication.directory import WHOLE_KEY
from midstream.communication.presence import Presence
from midstream.errors import InputError
from midstream.options import Made, Option, Options
from midstream.partitioning import (
    DEFAULT_RUNGS,
    Candidate,
    MachineTimes,
    Objective,
    Power,
    Rung,
    candidates,
    times_from_profile,
)
from midstream.partitioning.correction import Factors
from midstream.profiles import Profile
from midstream.traces import Trace

ArrivalKind = Literal["periodic", "poisson"]
MAX_DEVICES = 100_000
MAX_GATEWAYS = 256
MAX_WORKERS = 1024
MAX_REQUESTS = 20_000_000
# What others ask for is no smaller on average: a gateway's load is seldom of thousands of jobs a second.
_LEAST_JOB_S = 0.02
# How far a payload in a rung that nobody has calibrated is off its mean, where it varies with the input at all.
_ASSUMED_SPREAD = 0.2
# What takes as many bytes whatever the input is.
_FIXED = frozenset(("raw", "f16", "bf16", "pcm16"))
# √(π / 2): a standard deviation in mean absolute deviations, of what is spread normally.
_DEVIATION = math.sqrt(math.pi / 2)


@dataclass(frozen=True)
class Kind:
    """One bundle on one kind of board, and the times that its layers take there and on the gateways.

    Boards and gateways take what their profiles predict, so that a profile with times measured on the board
    (`midstream profile BUNDLE`) gives those. One thread runs a slice, as in `Device` and `Gateway`.
    """

    name: str
    bundle: Bundle
    board: Profile
    device: MachineTimes
    gateway: MachineTimes
    power: Power
    presences: tuple[Presence, ...]
    options: Options
    made: Made

    @classmethod
    def of(cls, bundle: Bundle, board: Profile, gateway: Profile, gateways: int = 1) -> Kind:
        """A bundle on a board, with so many gateways of one profile."""
        graph = bundle.graph
        here = times_from_profile(bundle.manifest, graph, board, 1, bundle.digest)
        there = times_from_profile(bundle.manifest, graph, gateway, 1, bundle.digest)
        return cls.measured(bundle, board, here, there, gateways)

    @classmethod
    def measured(
        cls, bundle: Bundle, board: Profile, device: MachineTimes, gateway: MachineTimes, gateways: int = 1
    ) -> Kind:
        """The same with the times that a device and a gateway really take; the board says what it draws."""
        power = board.power_with(1)
        on_board = bundle.with_times(board.name, device)
        digest = bundle.digest.hex()
        presences = tuple(
            Presence(
                f"gateway-{number + 1}",
                (bundle.digest,),
                tail_ms={digest: {WHOLE_KEY: gateway.whole_ms, **gateway.tail_ms}},
                knows=optional_libraries(),
                bases={} if bundle.bases_id is None else {digest: bundle.bases_id},
            )
            for number in range(gateways)
        )
        options = Options(on_board, power)
        made = options.made(presences[:1], Factors(), (Factors(),))
        return cls(bundle.name, on_board, board, device, gateway, power, presences, options, made)

    @cached_property
    def raw(self) -> tuple[Candidate, ...]:
        """The candidates that send tensors as they are, whatever calibration has kept."""
        return self._assumed((Rung("raw", True, 1.0, 0.0, 0.0),))

    def candidate(self, option: Option) -> Candidate | None:
        """The candidate that is known by this, at its true cost."""
        row = self.made.rows.get(option)
        return None if row is None else self.made.table.candidates[row]

    def input_in(self, codec: str) -> Candidate | None:
        """The whole input in this codec: as calibrated, else as assumed where it applies at all."""
        for each in (*self.made.table.candidates, *self._assumed()):
            if each.tail and not each.head and each.exit is None and each.codec == codec:
                return each
        return None

    def rest_ms(self, cut: str | None) -> float:
        """What the board takes for what follows a cut; None: for the whole model."""
        return self.device.whole_ms if cut is None else self.device.tail_ms[cut]

    def payload(self, candidate: Candidate, richness: float) -> float:
        """Bytes that an input takes there: the mean, and how much richer than most it is, in standard deviations."""
        spread = self.spread(candidate)
        if not spread:
            return candidate.payload_bytes
        return candidate.payload_bytes * math.exp(spread * richness - spread**2 / 2)

    def spread(self, candidate: Candidate) -> float:
        """The standard deviation of the logarithm of a candidate's payload over inputs."""
        return self._spreads.get(
            (candidate.cut, candidate.codec), 0.0 if candidate.codec in _FIXED else _ASSUMED_SPREAD
        )

    @cached_property
    def _spreads(self) -> Mapping[tuple[str | None, str], float]:
        ladder = self.bundle.ladder
        return {
            (place.cut, rung.codec): _DEVIATION * min(rung.spread, 1.0)
            for place in (() if ladder is None else ladder.places)
            for rung in place.rungs
        }

    def _assumed(self, rungs: Sequence[Rung] = DEFAULT_RUNGS) -> tuple[Candidate, ...]:
        manifest = self.bundle.manifest
        memory = self.options.memory
        return candidates(manifest, self.bundle.graph, self.device, self.gateway, None, rungs, memory)


@dataclass(frozen=True)
class Scenario:
    """One or several kinds of device, dealt in turn to so many ``devices``, each over a link of its own.

    A link is the ``trace``, which each device but the first enters at a time of its own. Each device is asked
    ``rate_hz`` times a second for ``seconds``. Gateways have ``workers`` each; ``gateway_load`` is the share of them
    that others keep busy, with jobs as long as the first kind's whole model on average, 20 ms at least. ``overhead_ms``
    is what a request to a gateway takes beside what is modelled: the way through broker and processes. Raises
    InputError where a figure is none that it can be.
    """

    kinds: tuple[Kind, ...]
    trace: Trace
    rate_hz: float
    seconds: float
    objective: Objective = field(default_factory=Objective)
    devices: int = 1
    gateways: int = 1
    workers: int = 1
    gateway_load: float = 0.0
    overhead_ms: float = 0.0
    arrivals: ArrivalKind = "periodic"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("the rate", self.rate_hz, 1e-6, 1e4),
            ("the time", self.seconds, 1e-3, 1e8),
            ("the number of devices", self.devices, 1, MAX_DEVICES),
            ("the number of gateways", self.gateways, 1, MAX_GATEWAYS),
            ("the number of workers", self.workers, 1, MAX_WORKERS),
            ("the gateways' load", self.gateway_load, 0.0, 0.99),
            ("the overhead", self.overhead_ms, 0.0, 1e6),
            ("the seed", self.seed, 0, (1 << 63) - 1),
        ):
            if not least <= value <= most:
                raise InputError(f"{name} is {value:g}, needed {least:g} to {most:g}")
        if not self.kinds:
            raise InputError("nothing is simulated: give at least one bundle")
        if self.arrivals not in get_args(ArrivalKind):
            raise InputError(f"arrivals are {self.arrivals!r}, needed {' or '.join(get_args(ArrivalKind))}")
        if self.objective.kind not in ("latency", "energy"):
            raise InputError(f"a simulation minimises latency or energy, not {self.objective.kind}")
        if self.requests > MAX_REQUESTS:
            raise InputError(f"some {self.requests:g} requests were asked for; a simulation takes {MAX_REQUESTS:g}")
        if self.other_jobs > MAX_REQUESTS:
            raise InputError(
                f"others send the gateways some {self.other_jobs:g} jobs in {self.seconds:g} s; a simulation takes "
                f"{MAX_REQUESTS:g}: simulate for shorter, or with fewer workers"
            )

    @property
    def requests(self) -> float:
        """How many requests there will be, or about so many."""
        return self.devices * self.rate_hz * self.seconds

    @property
    def other_job_s(self) -> float:
        """How long a job that others send a gateway takes on average, in seconds."""
        return max(_LEAST_JOB_S, self.kinds[0].gateway.whole_ms / 1e3)

    @property
    def other_jobs(self) -> float:
        """How many jobs others send all gateways together, or about so many."""
        return self.gateways * self.gateway_load * self.workers * self.seconds / self.other_job_s

    def kind_of(self, device: int) -> Kind:
        """What this device is."""
        return self.kinds[device % len(self.kinds)]
