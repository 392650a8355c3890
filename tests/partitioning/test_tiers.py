from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import PlanError
from midstream.partitioning import (
    Candidate,
    LinkState,
    MachineTimes,
    Objective,
    Power,
    SystemState,
    Table,
    Tier,
    decide,
    decide_from,
    with_tiers,
)
from midstream.partitioning.costs import Leg
from midstream.partitioning.tiers import MOST_CUTS

POWER = Power(idle_w=2.0, busy_w=6.0, radio_uj_per_byte=0.5)
CODECS = ("raw", "lossless")
Kind = Literal["latency", "energy", "throughput"]


@dataclass(frozen=True)
class Chain:
    """A model of layers in a row: ms of each by machine, and what a cut after each sends by codec; 0 is the input."""

    times: dict[str, tuple[float, ...]]
    payload_bytes: dict[str, tuple[int, ...]]
    encode_ms: float
    decode_ms: float
    reply_bytes: int

    @property
    def length(self) -> int:
        return len(self.times["device"])

    def of(self, machine: str) -> MachineTimes:
        layers = self.times[machine]
        cuts = range(1, self.length)
        return MachineTimes(
            sum(layers), {f"c{k}": sum(layers[:k]) for k in cuts}, {f"c{k}": sum(layers[k:]) for k in cuts}
        )

    def options(self) -> tuple[Candidate, ...]:
        nodes = tuple(range(self.length))
        found = [Candidate(None, nodes, (), sum(self.times["device"]))]
        found += [
            Candidate(
                f"c{cut}" if cut else None,
                nodes[:cut],
                nodes[cut:],
                sum(self.times["device"][:cut]),
                sum(self.times["gateway"][cut:]),
                self.payload_bytes[codec][cut],
                self.reply_bytes,
                self.encode_ms,
                self.decode_ms,
                codec,
                reveals_input=cut == 0,
            )
            for cut in range(self.length)
            for codec in CODECS
        ]
        return tuple(found)

    def every(self) -> tuple[Candidate, ...]:
        further = {name: self.of(name) for name in self.times if name not in ("device", "gateway")}
        return with_tiers(self.options(), self.of("device"), self.of("gateway"), further)


@st.composite
def chains(draw: st.DrawFn, further: tuple[str, ...] = ("cloud",)) -> Chain:
    length = draw(st.integers(2, 5))
    layers = st.lists(st.integers(1, 50).map(float), min_size=length, max_size=length).map(tuple)
    sizes = st.lists(st.integers(0, 200_000), min_size=length, max_size=length).map(tuple)
    return Chain(
        {machine: draw(layers) for machine in ("device", "gateway", *further)},
        {codec: draw(sizes) for codec in CODECS},
        float(draw(st.integers(0, 5))),
        float(draw(st.integers(0, 5))),
        draw(st.integers(0, 20_000)),
    )


LINKS = st.builds(LinkState, st.integers(500, 100_000), st.integers(500, 100_000), st.integers(0, 50))
LOADS = st.sampled_from([0.0, 0.5, 0.75])
TIERS = st.builds(Tier, LINKS, LOADS, st.integers(0, 50))


def every_way(chain: Chain, state: SystemState) -> Iterator[tuple[float, float, float]]:
    """Latency, energy and period of whatever can be done, followed step by step with a clock."""
    slow = 1 / (1 - state.device_load)
    alone = sum(chain.times["device"])
    yield alone * slow, alone * 6, alone * slow
    if state.link is None:
        return
    up = [name for name in chain.times if name in state.further]
    for first in range(chain.length):
        for codec in CODECS:
            for count in range(1, 2 + len(up)):
                for rest in combinations(range(first + 1, chain.length), count - 1):
                    for names in permutations(["gateway", *up], count):
                        if "gateway" not in names[1:]:
                            yield _follow(chain, state, codec, (first, *rest), names)


def _follow(
    chain: Chain, state: SystemState, codec: str, starts: tuple[int, ...], names: tuple[str, ...]
) -> tuple[float, float, float]:
    assert state.link is not None
    own = sum(chain.times["device"][: starts[0]])
    stages = [own / (1 - state.device_load) + chain.encode_ms]
    clock = stages[0]
    sent = chain.payload_bytes[codec][starts[0]]
    stages.append(sent * 8 / state.link.uplink_kbps)
    clock += state.link.rtt_ms + stages[-1]
    speed = {name: sum(times) for name, times in chain.times.items()}
    for at, (start, name) in enumerate(zip(starts, names, strict=True)):
        end = starts[at + 1] if at + 1 < len(starts) else chain.length
        work = sum(chain.times[name][start:end])
        codec_ms = chain.decode_ms * speed[name] / speed["gateway"]
        if at:
            codec_ms += chain.encode_ms * speed[names[at - 1]] / speed["device"]
        if name == "gateway":
            work, wait = work / (1 - state.gateway_load), state.gateway_wait_ms
        else:
            tier = state.further[name]
            work, wait = work / (1 - tier.load), tier.wait_ms
            way = chain.payload_bytes[codec][start] * 8 / tier.link.uplink_kbps
            back = chain.reply_bytes * 8 / tier.link.downlink_kbps if end == chain.length else 0.0
            stages += [way, back]
            clock += way + back + tier.link.rtt_ms
        stages.append(work + codec_ms)
        clock += wait + work + codec_ms
    stages.append(chain.reply_bytes * 8 / state.link.downlink_kbps)
    clock += stages[-1]
    computed = 6 * (own + chain.encode_ms)
    waiting = 2 * (clock - own / (1 - state.device_load) - chain.encode_ms)
    return clock, computed + waiting + 0.5 * (sent + chain.reply_bytes) / 1000, max(stages)


STATES = st.builds(
    SystemState,
    LINKS,
    LOADS,
    LOADS,
    st.integers(0, 50),
    further=st.fixed_dictionaries({"cloud": TIERS}),
)


@given(chains(), STATES, st.sampled_from(["latency", "energy", "throughput"]), st.none() | st.integers(5, 300))
def test_with_three_machines_the_plan_is_the_best_of_all_ways(
    chain: Chain, state: SystemState, kind: Kind, deadline_ms: int | None
) -> None:
    ways = list(every_way(chain, state))
    place = {"latency": 0, "energy": 1, "throughput": 2}[kind]
    plan = decide(chain.every(), state, Objective(kind, deadline_ms), POWER)
    found = (
        plan.predicted_ms,
        plan.energy_mj,
        plan.reasons.table.alone(plan.reasons.row).period_ms(  # type: ignore[attr-defined]
            state,
            plan.reasons.inputs,  # type: ignore[attr-defined]
        )[0],
    )
    timely = [way for way in ways if deadline_ms is None or way[0] <= deadline_ms]
    if timely:
        assert found[place] == pytest.approx(min(way[place] for way in timely))
        assert deadline_ms is None or found[0] <= deadline_ms
    else:
        assert found[0] == pytest.approx(min(way[0] for way in ways))


@given(chains(("cloud", "attic")), LINKS, TIERS, TIERS, st.sampled_from(["latency", "throughput"]))
def test_with_four_machines_too(chain: Chain, link: LinkState, cloud: Tier, attic: Tier, kind: Kind) -> None:
    state = SystemState(link, further={"cloud": cloud, "attic": attic})
    plan = decide(chain.every(), state, Objective(kind), POWER)
    best = min(way[0 if kind == "latency" else 2] for way in every_way(chain, state))
    table, row = plan.reasons.table, plan.reasons.row  # type: ignore[attr-defined]
    columns = table.alone(row)
    told = (
        columns.latency_ms(state, plan.reasons.inputs)[0]
        if kind == "latency"
        else columns.period_ms(  # type: ignore[attr-defined]
            state,
            plan.reasons.inputs,  # type: ignore[attr-defined]
        )
    )
    assert told[0] == pytest.approx(best)


EVEN = Chain(
    {"device": (50.0,) * 4, "gateway": (20.0,) * 4, "cloud": (20.0,) * 4},
    {"raw": (1000,) * 4, "lossless": (900,) * 4},
    0.0,
    0.0,
    100,
)
FAST = LinkState(100_000, 100_000, 1.0)


def test_throughput_parts_the_work_and_tells_each_stage() -> None:
    state = SystemState(FAST, further={"cloud": Tier(FAST)})
    plan = decide(EVEN.every(), state, Objective("throughput"), POWER)
    assert [(stage.machine, len(stage.nodes)) for stage in plan.stages] in (
        [("gateway", 2), ("cloud", 2)],
        [("device", 1), ("gateway", 1), ("cloud", 2)],
        [("device", 1), ("gateway", 2), ("cloud", 1)],
    )
    assert plan.onward == ((plan.reasons.table.candidates[plan.reasons.row].legs[0].cut),)  # type: ignore[attr-defined]
    assert plan.to_json()["onward"] == list(plan.onward)
    assert "on to cloud" in plan.why


def test_a_machine_that_is_down_gets_nothing_and_the_explanation_says_so() -> None:
    for further in ({}, {"cloud": Tier(replace(FAST, uplink_kbps=0.0))}):
        plan = decide(EVEN.every(), SystemState(FAST, further=further), Objective("throughput"), POWER)
        assert {stage.machine for stage in plan.stages} <= {"device", "gateway"}
        refused = [each for each in plan.explain() if each.refusal == "no link to cloud is up"]
        assert refused and all(each.latency_ms is None for each in refused)


def test_the_gateway_can_be_left_out() -> None:
    state = SystemState(FAST, gateway_wait_ms=500.0, further={"cloud": Tier(FAST, wait_ms=7.0)})
    plan = decide(EVEN.every(), state, Objective(), POWER)
    assert [stage.machine for stage in plan.stages] == ["cloud"]
    assert plan.onward == ()
    assert plan.reasons.wait_ms == 7.0
    assert "to cloud" in plan.why


@given(chains(), STATES, st.sampled_from(["latency", "energy", "throughput"]), st.integers(0, 100), st.integers(0, 100))
def test_a_higher_score_never_gives_fewer_stages_where_the_device_does_the_same(
    chain: Chain, state: SystemState, kind: Kind, one: int, other: int
) -> None:
    table = Table(chain.every(), POWER)
    easy, hard = (
        decide_from(table, replace(state, complexity=score), Objective(kind)) for score in sorted((one, other))
    )
    if (easy.cut, easy.codec, easy.offloads) == (hard.cut, hard.codec, hard.offloads):
        assert len(hard.stages) >= len(easy.stages)


@given(chains(), STATES, st.sampled_from(["latency", "energy", "throughput"]), st.integers(0, 100), st.integers(0, 100))
def test_a_higher_score_never_moves_work_to_the_device_with_more_machines(
    chain: Chain, state: SystemState, kind: Kind, one: int, other: int
) -> None:
    table = Table(chain.every(), POWER)
    rows = [
        decide_from(table, replace(state, complexity=score), Objective(kind)).reasons.row  # type: ignore[attr-defined]
        for score in sorted((one, other))
    ]
    easy, hard = (table.candidates[row].device_ms for row in rows)
    assert hard <= easy


def test_a_complex_input_is_shared_by_more_machines_where_that_costs_little() -> None:
    # One machine alone takes 80 ms; a second costs a round trip of 2 ms.
    state = SystemState(FAST, further={"cloud": Tier(replace(FAST, rtt_ms=2.0))})
    keep = Objective(keep_input_local=True)
    easy = decide(EVEN.every(), replace(state, complexity=0.0), keep, POWER)
    hard = decide(EVEN.every(), replace(state, complexity=100.0), keep, POWER)
    assert (len(easy.stages), len(hard.stages)) == (2, 3)
    assert "as a complex input is shared by more machines" in hard.why


@given(
    chains(),
    STATES,
    st.sampled_from(["latency", "energy", "throughput"]),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 200),
)
def test_beside_a_standing_plan_a_higher_score_moves_no_work_here_and_gives_no_fewer_stages(
    chain: Chain, state: SystemState, kind: Kind, one: int, other: int, standing: int
) -> None:
    table = Table(chain.every(), POWER)
    easy, hard = (
        table.candidates[
            table.choose(
                replace(state, complexity=score), Objective(kind), standing=standing % len(table.candidates)
            ).row
        ]
        for score in sorted((one, other))
    )
    assert hard.device_ms <= easy.device_ms
    if (easy.cut, easy.codec, easy.offloads) == (hard.cut, hard.codec, hard.offloads):
        assert hard.machines >= easy.machines


def test_a_standing_plan_s_margin_is_to_the_best_not_to_what_more_stages_are_worth() -> None:
    # Of 100 ms, and one in two stages of 104; the one that stands has 105, more of it here.
    best = Candidate("a", (0,), (1, 2), 10.0, 90.0, codec="raw")
    staged = replace(best, tail=(1,), gateway_ms=45.0, legs=(Leg("cloud", "b", (2,), 49.0, 0.0, 0),))
    standing = Candidate("c", (0, 1), (2,), 30.0, 75.0, codec="raw")
    table = Table((standing, best, staged), POWER)
    state = SystemState(replace(FAST, rtt_ms=0.0), further={"cloud": Tier(replace(FAST, rtt_ms=0.0))})
    rows = [table.choose(replace(state, complexity=score), Objective(), standing=0).row for score in (0.0, 100.0)]
    assert rows == [1, 2]
    # What stands is given more stages, too.
    assert table.choose(replace(state, complexity=100.0), Objective(), standing=1).row == 2


def test_a_gateway_that_says_it_takes_no_time_is_priced() -> None:
    instant = MachineTimes(0.0, {}, dict.fromkeys(EVEN.of("gateway").tail_ms, 0.0))
    found = with_tiers(EVEN.options(), EVEN.of("device"), instant, {"cloud": EVEN.of("cloud")})
    plan = decide(found, SystemState(FAST, further={"cloud": Tier(FAST)}), Objective(), POWER)
    assert [stage.machine for stage in plan.stages] == ["gateway", "cloud"]


def test_mistakes_of_lossy_stages_add_up() -> None:
    lossy = tuple(
        replace(each, codec="int8", lossless=False, agreement=0.99) if each.codec == "lossless" else each
        for each in EVEN.options()
    )
    found = with_tiers(lossy, EVEN.of("device"), EVEN.of("gateway"), {"cloud": EVEN.of("cloud")})
    told = {(len(each.legs), bool(each.tail)): each.agreement for each in found if each.codec == "int8"}
    assert told == {(0, True): 0.99, (1, False): 0.99, (1, True): pytest.approx(0.98)}


def test_of_many_cuts_some_are_taken_all_over_the_model() -> None:
    length = 60
    long = Chain(
        dict.fromkeys(("device", "gateway", "cloud"), (1.0,) * length),
        dict.fromkeys(CODECS, (1000,) * length),
        0.0,
        0.0,
        0,
    )
    begun = {leg.cut for each in long.every() for leg in each.legs if each.tail}
    assert len(begun) <= MOST_CUTS
    assert {int(str(cut)[1:]) // 20 for cut in begun} == {0, 1, 2}


def test_a_tier_s_figures_are_checked() -> None:
    for broken in (
        Tier(FAST, load=-1.0),
        Tier(FAST, wait_ms=math.nan),
        Tier(FAST, queue=-0.1),
        Tier(replace(FAST, rtt_ms=math.inf)),
    ):
        with pytest.raises(PlanError, match="cloud"):
            decide(EVEN.every(), SystemState(FAST, further={"cloud": broken}), Objective(), POWER)
