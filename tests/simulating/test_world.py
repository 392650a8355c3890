"""What happens to requests in the simulation, against what can be worked out, and laws that hold whatever happens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream import deciding
from midstream.errors import InputError
from midstream.options import Made
from midstream.partitioning import Candidate, Objective, Table
from midstream.simulating import POLICIES, Kind, Scenario, simulate
from midstream.simulating.draws import Draws
from midstream.simulating.gateway import SimulatedGateway
from midstream.simulating.machines import Board, Wire
from midstream.simulating.policies import Always
from midstream.simulating.results import Outcome
from midstream.simulating.world import REPLY_BYTES, REQUEST_BYTES, World
from midstream.trace_making import make_trace
from midstream.traces import Trace

from .conftest import (
    WHOLE_MS,
    KindOf,
    RealKind,
    by_arrival,
    candidates_of,
    draws_of,
    rough_trace,
    scenario_of,
)


def always(scenario: Scenario, candidate: Candidate, draws: list[Draws] | None = None) -> Outcome:
    draws = draws_of(scenario) if draws is None else draws
    return World(scenario, draws, lambda device, kind, world: Always(candidate)).run()


def with_candidates(kind: Kind, *candidates: Candidate) -> Kind:
    rows = {(each.cut, each.codec, each.exit, each.others, each.onward): at for at, each in enumerate(candidates)}
    return replace(kind, made=Made(kind.made.presences, Table(candidates, kind.power), rows, kind.device))


def test_a_lone_request_takes_the_sum_of_its_parts(kind_of: KindOf) -> None:
    kind = kind_of()
    scenario = scenario_of(kind, Trace.steady(8_000, 10, 4_000), 6, rate_hz=0.5, overhead_ms=3.0)
    (drawn,) = draws = draws_of(scenario)
    local, whole, split = candidates_of(kind)
    slower, there = np.array(drawn.device), np.array(drawn.gateway)
    assert by_arrival(always(scenario, local, draws)) == pytest.approx((WHOLE_MS * slower).tolist(), rel=1e-9)
    # 1 byte a µs up, half of that down, and one round trip.
    way_ms = (20_000 + REQUEST_BYTES) / 1e3 + 10 + 3 + (100 + REPLY_BYTES) / 500
    assert by_arrival(always(scenario, whole, draws)) == pytest.approx((way_ms + 16 * there).tolist(), rel=1e-9)
    way_ms = (5_000 + REQUEST_BYTES) / 1e3 + 10 + 3 + (100 + REPLY_BYTES) / 500
    assert by_arrival(always(scenario, split, draws)) == pytest.approx(
        (37 * slower + way_ms + 11 * there).tolist(), rel=1e-9
    )


def test_energy_is_work_waiting_and_bytes(kind_of: KindOf) -> None:
    kind = kind_of()
    scenario = scenario_of(kind, Trace.steady(8_000, 10), 5, rate_hz=0.5)
    (drawn,) = draws = draws_of(scenario)
    outcome = always(scenario, candidates_of(kind)[2], draws)
    power = kind.power
    for latency_ms, energy_mj, slower in zip(outcome.latency_ms, outcome.energy_mj, drawn.device, strict=True):
        busy_ms = 37 * slower
        sent = 5_000 + REQUEST_BYTES + 100 + REPLY_BYTES
        radio_mj = power.radio_uj_per_byte * sent / 1e3
        assert energy_mj == pytest.approx(power.busy_w * busy_ms + power.idle_w * (latency_ms - busy_ms) + radio_mj)


def test_requests_of_one_slice_run_one_after_another(kind_of: KindOf) -> None:
    kind = kind_of()
    scenario = scenario_of(kind, Trace.steady(8_000, 10), 6, rate_hz=1e3)
    (drawn,) = draws = draws_of(scenario)
    outcome = always(scenario, candidates_of(kind)[0], draws)
    done_s = [began + ms / 1e3 for began, ms in zip(outcome.began_s, outcome.latency_ms, strict=True)]
    assert np.diff(done_s) == pytest.approx(np.array(drawn.device[1:]) * WHOLE_MS / 1e3)


def test_each_input_is_answered_once_and_in_no_less_than_its_parts_take(real: RealKind) -> None:
    kind = real()
    for seed in range(4):
        scenario = scenario_of(kind, rough_trace(seed), 60, 15.0, seed=seed, arrivals="poisson", devices=2)
        draws = draws_of(scenario)
        for name, outcome in simulate(scenario, [name for name in POLICIES if "jpeg" not in name]).outcomes.items():
            began = sorted(zip(outcome.devices, outcome.began_s, strict=True))
            assert began == [(device, at) for device, drawn in enumerate(draws) for at in drawn.arrivals_s], name
            fastest_ms = min(kind.device.whole_ms, kind.gateway.whole_ms)
            assert min(outcome.latency_ms) >= fastest_ms * min(min(*each.device, *each.gateway) for each in draws)
            assert outcome.unanswered == 0


@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.floats(0, 0.4), st.floats(1, 200_000), st.booleans()), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_a_wire_carries_no_more_than_its_trace_and_keeps_the_order(
    seed: int, sends: list[tuple[float, float, bool]]
) -> None:
    trace = rough_trace(seed)
    if not trace.uplink_kbps.any():
        return
    wire, now_s, last_s, carried = Wire(trace, 0.3), 0.0, 0.0, 0.0
    first_s: float | None = None
    for pause_s, size, hurried in sends:
        now_s += pause_s
        until_s = now_s + 0.1 if hurried else math.inf
        begins_s, arrives_s = wire.send(now_s, size, until_s)
        first_s = begins_s if first_s is None else first_s
        assert begins_s >= now_s
        if arrives_s == math.inf:
            continue
        assert arrives_s >= last_s
        last_s, carried = arrives_s, carried + size
        # All that has left needs as much of the trace as if it had been sent in one go.
        left_s = wire._free_s
        assert left_s <= min(arrives_s, until_s)
        assert trace.sent_s(first_s + 0.3, carried) - 0.3 <= left_s + 1e-6


def test_what_has_not_left_in_time_is_not_sent() -> None:
    wire = Wire(Trace.steady(8, 10), 0.0)
    assert wire.send(0.0, 1_000, 0.5) == (0.0, math.inf)
    assert wire.send(0.4, 1_000, 2.0) == (0.5, 1.505)
    assert wire.send(0.4, 1_000, 1.2) == (1.5, math.inf)


def test_a_board_gives_each_slice_one_core_at_a_time() -> None:
    board = Board(2)
    assert board.run(0.0, "a", 1.0) == (0.0, 1.0)
    assert board.run(0.0, "a", 1.0) == (1.0, 2.0)
    assert board.encode(0.0, 0.5) == (1.0, 1.5)
    assert board.run(0.0, "b", 1.0) == (1.5, 2.5)


def test_the_same_seed_gives_the_same_figures_whatever_else_is_run(real: RealKind) -> None:
    scenario = scenario_of(real(), rough_trace(1), 40, 10.0, gateway_load=0.5, arrivals="poisson")
    names = [name for name in POLICIES if "jpeg" not in name]
    once, again = simulate(scenario, names), simulate(scenario, names[::-1])
    assert {name: each.latency_ms.tobytes() for name, each in once.outcomes.items()} == {
        name: each.latency_ms.tobytes() for name, each in again.outcomes.items()
    }
    assert once.summaries == again.summaries
    other = simulate(replace(scenario, seed=1), ["local"])
    assert other.outcomes["local"].latency_ms != once.outcomes["local"].latency_ms


def test_during_an_outage_who_sends_waits_and_who_decides_answers_by_itself(real: RealKind) -> None:
    # Down for 5 s of every 10.
    trace = Trace.steady(50_000, 4).with_outages(10, 5)
    scenario = scenario_of(real(), trace, 300, 10.0, objective=Objective(deadline_ms=100.0))
    summaries = simulate(scenario, ("raw", "adaptive", "clairvoyant", "local")).summaries
    assert summaries["raw"].fallback_share == pytest.approx(0.5, abs=0.03)
    assert summaries["adaptive"].fallback_share < 0.1 * summaries["raw"].fallback_share
    assert summaries["clairvoyant"].fallback_share == summaries["clairvoyant"].missed_share == 0
    assert summaries["clairvoyant"].mean_ms < summaries["adaptive"].mean_ms < summaries["raw"].mean_ms
    assert summaries["adaptive"].mean_ms < summaries["local"].mean_ms


def test_a_deadline_that_is_missed_is_counted_and_the_device_finishes_in_time(kind_of: KindOf) -> None:
    kind = kind_of()
    trace = Trace.steady(0.0, 10)
    scenario = scenario_of(kind, trace, 20, 1.0, objective=Objective(deadline_ms=500.0))
    outcome = always(scenario, candidates_of(kind)[1])
    # Given up in time for the whole model here, with a reserve.
    assert (outcome.missed, outcome.fallbacks, outcome.unanswered) == (0, 20, 0)
    assert max(outcome.latency_ms) < 500.0
    late = scenario_of(kind, trace, 200, 1.0, objective=Objective(deadline_ms=WHOLE_MS))
    outcome = always(late, candidates_of(kind)[0])
    assert outcome.missed == sum(ms > WHOLE_MS for ms in outcome.latency_ms)
    assert 0 < outcome.missed < 200
    assert outcome.summary().missed_share == outcome.missed / 200


def test_a_board_without_the_memory_has_no_local(kind_of: KindOf) -> None:
    kind = kind_of()
    objective = Objective(max_device_memory_bytes=kind.options.memory[None] - 1)
    scenario = scenario_of(kind, Trace.steady(0.0, 10), 10, 1.0, objective=objective)
    found = simulate(scenario, ("local", "raw"))
    assert set(found.outcomes) == {"raw"}
    assert found.notes["local"].startswith("left out: the whole model takes ")
    raw = found.summaries["raw"]
    assert (raw.unanswered_share, raw.missed_share, raw.fallback_share) == (1.0, 1.0, 0.0)


def test_exits_answer_their_share_and_cost_only_what_they_take(kind_of: KindOf) -> None:
    kind = kind_of()
    *_, split = candidates_of(kind)
    cut = kind.bundle.cuts[0].id
    early = replace(split, exit=cut, exit_share=0.4, device_ms=20.0)
    kind = with_candidates(kind, early)
    scenario = scenario_of(kind, Trace.steady(80_000, 10), 1_000, 4.0)
    (drawn,) = draws = draws_of(scenario)
    outcome = always(scenario, early, draws)
    share = outcome.summary().exit_share
    assert share == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / 1_000))
    in_order = [outcome.ways[at] for at in np.argsort(outcome.began_s)]
    assert [way == "exit" for way in in_order] == [each < 0.4 for each in drawn.exits]
    at_exit = [ms for ms, way in zip(by_arrival(outcome), in_order, strict=True) if way == "exit"]
    assert max(at_exit) < 20 * 1.2 < 35 < min(ms for ms in outcome.latency_ms if ms not in at_exit)


def test_adaptive_asks_the_engine_for_each_input(real: RealKind, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    decide: Callable[..., object] = deciding.decide_from

    def counting(*arguments: object) -> object:
        asked.append(True)
        return decide(*arguments)

    monkeypatch.setattr(deciding, "decide_from", counting)
    scenario = scenario_of(real(), Trace.steady(80_000, 10), 25, 1.0)
    simulate(scenario, ("local", "raw", "neurosurgeon"))
    assert not asked
    simulate(scenario, ("adaptive",))
    assert len(asked) >= 25


@pytest.mark.parametrize(("workers", "load"), [(1, 0.9), (4, 0.9), (4, 0.6)])
def test_a_loaded_gateway_waits_as_erlang_says(workers: int, load: float) -> None:
    """M/M/c: a mean wait of C(c, a) · s / (c − a), with C by Erlang's formula for waiting (1917)."""
    random = np.random.default_rng(5)
    mean_s, jobs = 0.02, 30_000
    environment = simpy.Environment()
    gateway = SimulatedGateway(environment, "g", workers)
    waits: list[float] = []

    def come() -> object:
        for gap_s, work_s in zip(
            random.exponential(mean_s / (workers * load), jobs), random.exponential(mean_s, jobs), strict=True
        ):
            yield environment.timeout(gap_s)
            gateway.offer(0.0, work_s, 1e6, 0, lambda served: waits.append(served.queue_s))

    environment.process(come())
    environment.run()
    offered = workers * load
    last = offered**workers / math.factorial(workers) / (1 - load)
    erlang = last / (sum(offered**k / math.factorial(k) for k in range(workers)) + last)
    assert len(waits) == jobs
    assert np.mean(waits) == pytest.approx(erlang * mean_s / (workers - offered), rel=0.15)


def test_others_keep_a_gateway_as_busy_as_is_said(kind_of: KindOf) -> None:
    kind = kind_of()
    trace = Trace.steady(80_000, 2)
    idle, busy = (
        always(scenario_of(kind, trace, 400, 4.0, gateway_load=load), candidates_of(kind)[1]) for load in (0.0, 0.8)
    )
    assert np.mean(busy.latency_ms) > np.mean(idle.latency_ms) + 20


def test_gateways_share_what_is_sent_to_them(kind_of: KindOf) -> None:
    trace = Trace.steady(200_000, 2)
    few, many = (
        simulate(scenario_of(kind_of(gateways=gateways), trace, 20, 2.0, devices=60, gateways=gateways), ("raw",))
        for gateways in (1, 4)
    )
    # 120 requests a second of 16 ms are more than one worker can do, and no load for four.
    assert few.summaries["raw"].mean_ms > 5 * many.summaries["raw"].mean_ms


def test_a_fleet_that_decides_leaves_gateways_that_cannot_serve_all_of_it(real: RealKind) -> None:
    # All of it would keep them busy for 1.5 times as long as there is.
    scenario = scenario_of(real(gateways=2), Trace.steady(100_000, 4), 30, 4.0, devices=100, gateways=2)
    summaries = simulate(scenario, ("adaptive", "local", "raw")).summaries
    assert summaries["raw"].mean_ms > 20 * summaries["local"].mean_ms
    # Reports that are up to 0.1 s old make all come at once, and then none: that costs, but by far not so much.
    assert summaries["adaptive"].mean_ms < 2 * summaries["local"].mean_ms
    assert 0.2 < summaries["adaptive"].input_share < 0.68


def test_devices_enter_the_trace_at_times_of_their_own_and_keep_their_chances(kind_of: KindOf) -> None:
    kind, trace = kind_of(), make_trace("lte", 300)
    few, many = (draws_of(scenario_of(kind, trace, 5, 1.0, devices=count)) for count in (3, 9))
    assert [each.offset_s for each in many[:3]] == [each.offset_s for each in few]
    assert len({each.offset_s for each in many}) == 9
    assert many[0].offset_s == 0.0
    assert all(0 <= each.offset_s < 300 for each in many)
    assert [each.arrivals_s for each in many[:3]] == [each.arrivals_s for each in few]


def test_payloads_vary_around_their_mean(kind_of: KindOf) -> None:
    kind = kind_of()
    _, whole, _ = candidates_of(kind)
    packed = replace(whole, codec="png")
    kind = with_candidates(kind, packed)
    scenario = scenario_of(kind, Trace.steady(80_000, 2), 2_000, 10.0)
    sent = np.array(always(scenario, packed).sent_bytes) - REQUEST_BYTES
    assert kind.spread(packed) == 0.2
    assert sent.mean() == pytest.approx(20_000, rel=0.04)
    assert np.log(sent).std() == pytest.approx(0.2, rel=0.15)
    assert set(np.array(always(scenario, whole).sent_bytes)) == {20_000 + REQUEST_BYTES}


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"rate_hz": 0.0}, "the rate is 0"),
        ({"devices": 0}, "the number of devices is 0"),
        ({"gateway_load": 1.0}, "the gateways' load is 1, needed 0 to 0.99"),
        ({"seed": -1}, "the seed is -1"),
        ({"devices": 100_000, "rate_hz": 1e3}, "a simulation takes 2e"),
        ({"objective": Objective("throughput")}, "latency or energy, not throughput"),
        ({"arrivals": "daily"}, "arrivals are 'daily'"),
        ({"kinds": ()}, "give at least one bundle"),
    ],
)
def test_what_cannot_be_simulated_is_refused(kind_of: KindOf, figures: dict[str, object], told: str) -> None:
    scenario = Scenario((kind_of(),), Trace.steady(1e3, 5), 1.0, 60.0)
    with pytest.raises(InputError, match=told):
        replace(scenario, **figures)  # type: ignore[arg-type]


def test_an_unknown_policy_is_named_with_those_that_are_known(kind_of: KindOf) -> None:
    with pytest.raises(InputError, match="no policy is called 'adapitve'; known are local, raw"):
        simulate(scenario_of(kind_of(), Trace.steady(1e3, 5)), ("adapitve",))


def test_who_may_not_answer_alone_and_finds_no_gateway_is_counted(real: RealKind) -> None:
    kind = real()
    objective = Objective(deadline_ms=200.0, max_device_memory_bytes=kind.options.memory[None] - 1)
    trace = Trace.steady(50_000, 4).with_outages(10, 5)
    scenario = scenario_of(kind, trace, 200, 5.0, objective=objective)
    adaptive = simulate(scenario, ("adaptive",)).summaries["adaptive"]
    assert adaptive.requests == 200
    assert 0.4 < adaptive.unanswered_share == adaptive.missed_share < 0.7
    assert adaptive.mean_ms > 0.4 * 190


def test_policies_that_can_do_nothing_are_left_out_with_the_reason(real: RealKind) -> None:
    objective = Objective(max_device_memory_bytes=1, keep_input_local=True)
    found = simulate(scenario_of(real(), Trace.steady(50_000, 4), objective=objective))
    assert found.outcomes == {}
    assert set(found.notes) == set(POLICIES)
    assert all(note.startswith("left out: ") for note in found.notes.values())


def test_the_best_static_choice_is_never_worse_than_local(real: RealKind, monkeypatch: pytest.MonkeyPatch) -> None:
    # The search's sums, which know of no giving up, rank as badly as can be.
    monkeypatch.setattr("midstream.simulating.fixed.cost", lambda chosen, objective: -chosen.latency_ms)
    found = simulate(scenario_of(real(), Trace.steady(300, 40)), ("local", "best_static"))
    assert found.notes["best_static"] == "local"
    assert found.summaries["best_static"] == found.summaries["local"]


def test_what_others_send_is_bounded(kind_of: KindOf) -> None:
    with pytest.raises(InputError, match=r"others send the gateways some 4\.5e\+07 jobs in 1e\+06 s"):
        Scenario((kind_of(),), Trace.steady(1e3, 5), 1e-3, 1e6, gateway_load=0.9)


def test_a_time_in_which_no_input_comes_is_refused(kind_of: KindOf) -> None:
    with pytest.raises(InputError, match=r"no input comes in 1 s at 0\.001 a second"):
        simulate(Scenario((kind_of(),), Trace.steady(1e3, 5), 0.001, 1.0))
