"""The candidates of one bundle on one kind of device, as its gateways and what was learned of their times make them.

Candidates are made once for the same gateways and corrections: devices of a kind that know the same share them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from midstream.bundle import Bundle
from midstream.communication.codecs import find_codec, optional_libraries
from midstream.communication.directory import WHOLE_KEY
from midstream.communication.presence import Presence
from midstream.partitioning import (
    GATEWAY,
    Candidate,
    MachineTimes,
    Plan,
    Power,
    SizeEstimates,
    Table,
    candidates,
    continued,
    device_memory,
    times_from_costs,
    with_exit,
    with_tiers,
)
from midstream.partitioning.correction import WHOLE, Factors

# So many sets of candidates are kept.
_MOST_MADE = 64

Option = tuple[str | None, str, str | None, tuple[str, ...], tuple[str, ...]]
"""What a candidate is known again by: cut, codec, early exit, the other machines, and where further stages begin."""


@dataclass(frozen=True, slots=True)
class Made:
    """Candidates: their table, where each is in it, and what they take this device.

    ``later`` are the options from where each of them stands once its head has run.
    """

    presences: tuple[Presence, ...]
    table: Table
    rows: Mapping[Option, int]
    device: MachineTimes
    later: dict[int, Table] = field(default_factory=dict)


class Options:
    """Makes candidates of a bundle for devices that draw ``power``. Thread-safe.

    ``sizes`` are what payloads take before any was seen: each device has its own, `fresh`.
    """

    def __init__(self, bundle: Bundle, power: Power) -> None:
        self.bundle = bundle
        self.power = power
        # Read once: the bundle reads its file each time.
        self._graph = bundle.graph
        self.memory = device_memory(bundle.manifest, self._graph)
        self.sizes = SizeEstimates(bundle.ladder)
        self._lock = threading.Lock()
        self._made: dict[tuple[object, ...], Made] = {}

    def made(self, presences: tuple[Presence, ...], mine: Factors, its: Sequence[Factors]) -> Made:
        """What can be done with these gateways, the device's and their times corrected by these factors.

        Without a gateway, at the times of one as fast as the machine that converted.
        """
        # What is kept holds its presences, so that no other takes their ids.
        key = (*map(id, presences), _key(mine), *map(_key, its))
        with self._lock:
            found = self._made.get(key)
        if found is None:
            found = self._make(presences, mine, its)
            with self._lock:
                self._made[key] = found
                if len(self._made) > _MOST_MADE:
                    del self._made[next(iter(self._made))]
        return found

    def later(self, made: Made, row: int) -> Table:
        """The options from where a candidate stands, itself first."""
        with self._lock:
            found = made.later.get(row)
            if found is None:
                options = made.table.candidates
                options = continued(options, options[row], made.device, self.bundle.manifest.has_between)
                found = made.later[row] = Table(options, self.power)
        return found

    def _make(self, presences: tuple[Presence, ...], mine: Factors, its: Sequence[Factors]) -> Made:
        manifest, costs = self.bundle.manifest, self.bundle.costs
        here = MachineTimes(
            costs.whole_ms * mine.of(WHOLE),
            {cut: cost.head_ms * mine.of(cut) for cut, cost in costs.cuts.items()},
            {cut: cost.tail_ms * mine.of(None) for cut, cost in costs.cuts.items()},
        )
        times = [self._times(presence, factors) for presence, factors in zip(presences, its, strict=True)]
        there = times[0] if times else times_from_costs(costs)
        options = candidates(manifest, self._graph, here, there, self.bundle.ladder, memory=self.memory)
        names = [presence.gateway_id for presence in presences[1:]]
        options = with_tiers(options, here, there, dict(zip(names, times[1:], strict=True)), manifest.has_between)
        if self.bundle.early_exit is not None:
            options = with_exit(options, self.bundle.early_exit, here)
        if presences:
            by_name = {GATEWAY: presences[0], **{presence.gateway_id: presence for presence in presences[1:]}}
            wanted = {(machine, option.codec) for option in options for machine in option.others}
            takes = {(machine, codec) for machine, codec in wanted if self._takes(by_name[machine], codec)}
            options = tuple(
                option for option in options if all((machine, option.codec) in takes for machine in option.others)
            )
        rows = {option_of(option): row for row, option in enumerate(options)}
        return Made(presences, Table(options, self.power), rows, here)

    def _takes(self, presence: Presence, codec: str) -> bool:
        """Whether a gateway can decode a codec, with the libraries that both ends have and its bases."""
        found = find_codec(codec)
        if found.family == "klt" and presence.bases.get(self.bundle.digest.hex()) != self.bundle.bases_id:
            return False
        return found.library is None or found.library in set(optional_libraries()).intersection(presence.knows)

    def _times(self, presence: Presence, factors: Factors) -> MachineTimes:
        """What a gateway takes: as it says, and at its speed where it says nothing; corrected by these factors."""
        tails = presence.tail_ms.get(self.bundle.digest.hex(), {})
        guess = times_from_costs(self.bundle.costs, 1.0 / presence.speed_factor)
        return MachineTimes(
            tails.get(WHOLE_KEY, guess.whole_ms) * factors.of(WHOLE),
            {},
            {cut: tail_ms * factors.of(cut) for cut, tail_ms in {**guess.tail_ms, **tails}.items()},
        )


def option_of(option: Candidate | Plan) -> Option:
    """What a candidate, or the plan made of it, is known again by."""
    return option.cut, option.codec, option.exit, option.others, option.onward


def _key(factors: Factors) -> tuple[object, ...]:
    return factors.machine, tuple(sorted(factors.cuts.items()))
