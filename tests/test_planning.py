"""What a device learns of its costs, and how its plans follow; what of it outlasts a run."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from midstream.bundle import Bundle
from midstream.communication.choosing import Route
from midstream.communication.presence import Presence
from midstream.communication.wire import Reply, Status
from midstream.deciding import Deciding
from midstream.decision_log import replay_file
from midstream.manifest import SliceCost
from midstream.partitioning import DeviceLoad, LinkState, Objective, Plan, Power, SystemState
from midstream.partitioning.correction import TOLERANCE
from midstream.planning import INPUT_CUT, Forced, Planning

POWER = Power(1.0, 2.5, 0.1)
STATE = SystemState(LinkState(1e6, 1e6, 0.1))


def adaptive(log: Path | None = None) -> Deciding:
    return Deciding("adaptive", Objective(), "ab", POWER, log)


@pytest.fixture
def bundle(gratings: Bundle) -> Bundle:
    """Four cuts, of which each has 2 ms more on the device than the one before."""
    opened = Bundle.open(gratings.path)
    slices = {cut.id: SliceCost(2.0 + 2 * place, 8.0 - 2 * place) for place, cut in enumerate(opened.cuts)}
    opened.costs = replace(opened.costs, whole_ms=10.0, cuts=slices)
    return opened


def presence(bundle: Bundle, gateway_id: str = "gw", speed: float = 1.0) -> Presence:
    tails = {cut: cost.tail_ms / speed for cut, cost in bundle.costs.cuts.items()}
    tails["whole"] = bundle.costs.whole_ms / speed
    return Presence(gateway_id, (bundle.digest,), speed, tail_ms={bundle.digest.hex(): tails})


def reply(compute_ms: float, queue_ms: float = 0.0) -> Reply:
    return Reply(bytes(16), Status.OK, (), "raw", queue_ms, compute_ms)


def planned(planning: Planning, route: Route, forced: Forced | None = None, state: SystemState = STATE) -> Plan:
    state = SystemState(None) if route.first is None else state
    return planning.plan(route, state, Objective(), None, forced)


def forced(cut: str) -> Forced:
    return Forced(cut, (), "raw", None)


def answered(planning: Planning, route: Route, cut: str, slower: float, times: int, queue_ms: float = 0.0) -> None:
    """Replies of a plan whose gateway takes so many times as long as it says."""
    for _ in range(times):
        plan = planned(planning, route, forced(cut))
        costs = planning._bundle.costs
        alone = costs.whole_ms if cut == INPUT_CUT else costs.cuts[cut].tail_ms
        planning.answered(plan, route, {"gw"}, reply(slower * alone, queue_ms))


def explained(plan: Plan, cut: str | None, codec: str = "raw") -> float:
    """What an option was predicted to take."""
    return next(
        each.latency_ms or math.nan
        for each in plan.explain()
        if (each.cut, each.codec, each.exit) == (cut, codec, None)
    )


def test_a_device_that_is_throttled_is_seen_within_five_runs(bundle: Bundle) -> None:
    planning, route = Planning(bundle, POWER, adaptive()), Route(())
    whole_ms = bundle.costs.whole_ms
    before = planned(planning, route)
    assert before.predicted_ms == pytest.approx(whole_ms)
    planning.ran_rest(None, 20 * whole_ms)
    assert planned(planning, route).reasons.table is before.reasons.table  # type: ignore[attr-defined]
    for _ in range(5):
        planning.ran_rest(None, 2 * whole_ms)
    assert planned(planning, route).predicted_ms == pytest.approx(2 * whole_ms, rel=0.1)
    assert planning.rest_ms(None) == pytest.approx(2 * whole_ms, rel=0.1)
    cut, cost = next(iter(bundle.costs.cuts.items()))
    assert planning.rest_ms(cut) == pytest.approx(2 * cost.tail_ms, rel=0.15)


def test_a_cut_whose_head_takes_longer_than_the_others_is_priced_so(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, adaptive())
    route = Route((presence(bundle),))
    first, second = bundle.cuts[0].id, bundle.cuts[1].id
    before = planned(planning, route)
    for _ in range(40):
        planning.ran_head(first, 1.6 * bundle.costs.cuts[first].head_ms)
        planning.ran_head(second, bundle.costs.cuts[second].head_ms)
    after = planned(planning, route)
    longer = explained(after, first) - explained(before, first)
    assert longer == pytest.approx(0.6 * bundle.costs.cuts[first].head_ms, rel=0.35)
    other = abs(explained(after, second) - explained(before, second))
    assert other < 0.2 * bundle.costs.cuts[second].head_ms


def test_a_gateway_that_takes_longer_than_it_says_is_left(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, adaptive())
    quick = presence(bundle, speed=10.0)
    route = Route((quick,))
    assert planned(planning, route).cut is None and planned(planning, route).offloads
    alone = bundle.costs.whole_ms
    before = explained(planned(planning, route), None)
    answered(planning, route, INPUT_CUT, slower=3.0, times=6)
    after = planned(planning, route)
    assert explained(after, None) - before == pytest.approx((3.0 - 0.1) * alone, rel=0.15)
    assert not after.offloads
    # Nothing of it is held against another gateway.
    assert planned(planning, Route((presence(bundle, "other", 10.0),))).offloads


def test_a_gateway_that_was_slow_is_tried_again_after_some_minutes(bundle: Bundle) -> None:
    now_s = 100.0
    planning = Planning(bundle, POWER, adaptive(), clock=lambda: now_s)
    route = Route((presence(bundle, speed=10.0),))
    for cut in (INPUT_CUT, bundle.cuts[0].id):
        answered(planning, route, cut, slower=20.0, times=10)
    assert not planned(planning, route).offloads
    while not planned(planning, route).offloads:
        now_s += 1.0
        assert now_s < 100.0 + 900.0
    # Not at once.
    assert now_s > 160.0
    # And not for long where it still is.
    answered(planning, route, INPUT_CUT, slower=20.0, times=3)
    assert not planned(planning, route).offloads


def test_a_device_that_was_slow_is_tried_again_after_some_minutes(bundle: Bundle) -> None:
    now_s, whole_ms = 100.0, bundle.costs.whole_ms
    planning = Planning(bundle, POWER, adaptive(), clock=lambda: now_s)
    bundle.measure_whole_ms = lambda: 2 * whole_ms  # type: ignore[method-assign]
    planning.measure(Objective())
    # A gateway that takes twice as long as the device does, as it is.
    route = Route((presence(bundle, speed=0.25),))
    assert not planned(planning, route).offloads
    for _ in range(20):
        planning.ran_rest(None, 20 * whole_ms)
    assert planned(planning, route).offloads
    while planned(planning, route).offloads:
        now_s += 1.0
        assert now_s < 1000.0
    assert now_s > 160.0
    # It is not taken to be faster than it was at entry.
    now_s += 1e4
    planned(planning, route)
    assert planning.rest_ms(None) == pytest.approx(2 * whole_ms, rel=0.1)


def test_a_gateway_that_is_asked_is_not_taken_for_quicker_than_it_is(bundle: Bundle) -> None:
    now_s = 100.0
    planning = Planning(bundle, POWER, adaptive(), clock=lambda: now_s)
    route = Route((presence(bundle, speed=10.0),))
    answered(planning, route, INPUT_CUT, slower=0.3, times=20)
    before = planned(planning, route, forced(INPUT_CUT)).predicted_ms
    for _ in range(20):
        now_s += 59.0
        answered(planning, route, INPUT_CUT, slower=0.3, times=1)
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms == pytest.approx(before, rel=TOLERANCE)


def test_a_gateway_that_announces_other_times_is_held_against_these(bundle: Bundle) -> None:
    planning, other = Planning(bundle, POWER, adaptive()), presence(bundle, "other")
    planned(planning, Route((presence(bundle, speed=4.0),), further=(other,)))
    # The further one goes, and this one has become slower, as it says itself.
    route = Route((presence(bundle, speed=2.0),))
    before = planned(planning, route, forced(INPUT_CUT)).predicted_ms
    answered(planning, route, INPUT_CUT, slower=0.5, times=10)
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms == pytest.approx(before)


def test_of_several_who_may_have_answered_nothing_is_learned(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, adaptive())
    route = Route((presence(bundle),))
    before = planned(planning, route, forced(INPUT_CUT))
    for _ in range(6):
        planning.answered(before, route, {"gw", "other"}, reply(50 * bundle.costs.whole_ms, 40.0))
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms == before.predicted_ms


def test_what_another_of_the_pool_has_answered_counts_for_that_one(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, adaptive())
    route, other = Route((presence(bundle),)), Route((presence(bundle, "other"),))
    before = planned(planning, other, forced(INPUT_CUT)).predicted_ms
    for _ in range(6):
        plan = planned(planning, route, forced(INPUT_CUT))
        planning.answered(plan, route, {"other"}, reply(3 * bundle.costs.whole_ms, 40.0))
    # How long it waited there is held against nobody: the plan counted with another queue.
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms == before
    later = planned(planning, other, forced(INPUT_CUT)).predicted_ms
    assert later - before == pytest.approx(2 * bundle.costs.whole_ms, rel=0.1)


def test_waits_beyond_the_reports_are_planned_with_for_a_while(bundle: Bundle) -> None:
    now = [100.0]
    planning = Planning(bundle, POWER, adaptive(), clock=lambda: now[0])
    route = Route((presence(bundle),))
    before = planned(planning, route, forced(INPUT_CUT)).predicted_ms
    answered(planning, route, INPUT_CUT, slower=1.0, times=12, queue_ms=30.0)
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms == pytest.approx(before + 30.0, rel=0.05)
    now[0] += 60.0
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms == pytest.approx(before, rel=0.01)
    # Shorter waits than reported count too, but none is shorter than none.
    waiting = SystemState(STATE.link, gateway_wait_ms=20.0, gateway_waits_ms={None: 20.0})
    for _ in range(12):
        plan = planned(planning, route, forced(INPUT_CUT), waiting)
        planning.answered(plan, route, {"gw"}, reply(bundle.costs.whole_ms, 0.0))
    assert planned(planning, route, forced(INPUT_CUT), waiting).predicted_ms < before + 5.0
    assert planned(planning, route, forced(INPUT_CUT)).predicted_ms >= before - 1e-6


def test_a_plan_stands_while_another_is_hardly_better(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, adaptive())
    whole_ms = bundle.costs.whole_ms
    route = Route((presence(bundle, speed=1e3),))

    def at(rtt_ms: float) -> Plan:
        return planned(planning, route, state=SystemState(LinkState(1e9, 1e9, rtt_ms)))

    assert at(0.0).offloads
    assert at(1.015 * whole_ms).why.count("stays the plan") == 1
    assert not at(1.1 * whole_ms).offloads
    assert at(0.985 * whole_ms).why.startswith("local")
    assert at(0.5 * whole_ms).offloads


def test_what_was_not_measured_for_long_is_tried_at_a_gateway(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, adaptive())
    route = Route((presence(bundle, speed=1e3),))
    # Local and the whole input cost about the same.
    state = SystemState(LinkState(1e9, 1e9, 0.95 * bundle.costs.whole_ms))
    made = []
    for _ in range(450):
        plan = planned(planning, route, state=state)
        made.append(plan)
        if plan.offloads:
            planning.answered(plan, route, {"gw"}, reply(bundle.costs.whole_ms / 1e3))
        else:
            planning.ran_rest(None, bundle.costs.whole_ms)
    tried = [place for place, plan in enumerate(made) if plan.reasons.explores]
    assert tried
    assert not set(tried).intersection(range(199))
    best = made[0]
    excess = sum(max(0.0, plan.predicted_ms - best.predicted_ms) for plan in made)
    assert excess <= 0.011 * len(made) * best.predicted_ms
    # What is tried does not become the plan that stands.
    assert all((made[place + 1].cut, made[place + 1].codec) == (best.cut, best.codec) for place in tried)


def test_what_was_learned_outlasts_a_run(bundle: Bundle, tmp_path: Path) -> None:
    file, route = tmp_path / "state.json", Route((presence(bundle),))
    planning = Planning(bundle, POWER, adaptive(), file)
    cut = bundle.cuts[0].id
    for _ in range(20):
        planning.ran_rest(None, 3 * bundle.costs.whole_ms)
    answered(planning, route, cut, slower=4.0, times=10)
    plan = planned(planning, route, forced(cut))
    for size in (400, 401, 402):
        planning.sent(plan, None, size)
    planning.save()
    known, again = planned(planning, route), planned(Planning(bundle, POWER, adaptive(), file), route)
    assert [each.latency_ms for each in again.explain()] == pytest.approx(
        # A table is not made again for less than this.
        [each.latency_ms for each in known.explain()],
        rel=TOLERANCE,
    )
    assert planned(Planning(bundle, POWER, adaptive(), file), route, forced(cut)).payload_bytes == 402
    fresh = planned(Planning(bundle, POWER, adaptive()), route)
    assert explained(fresh, cut) < 0.7 * explained(again, cut)


def test_what_was_learned_is_held_against_the_measurement_at_entry(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    planning = Planning(bundle, POWER, adaptive(), file)
    for _ in range(20):
        planning.ran_rest(None, 500 * bundle.costs.whole_ms)
    planning.save()
    again = Planning(bundle, POWER, adaptive(), file)
    assert again.rest_ms(None) == pytest.approx(500 * bundle.costs.whole_ms, rel=0.05)
    again.measure(Objective())
    assert again.rest_ms(None) < 250 * bundle.costs.whole_ms


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b"x" * (2 << 20)])
def test_a_damaged_file_is_said_and_left_aside(
    bundle: Bundle, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        planning = Planning(bundle, POWER, adaptive(), file)
    assert "what was learned before is not used" in caplog.text
    assert planned(planning, Route(())).predicted_ms == pytest.approx(bundle.costs.whole_ms)
    planning.ran_rest(None, bundle.costs.whole_ms)
    planning.save()
    assert file.read_bytes().startswith(b'{"body":')


def test_without_a_file_nothing_is_written(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planning = Planning(bundle, POWER, adaptive())
    planning.ran_rest(None, bundle.costs.whole_ms)
    planning.save()
    assert not list(tmp_path.iterdir())


IDLE = DeviceLoad(cores=4, others_share=0.0, others_threads=0.0, clock_limit_share=1.0)
HALF_CLOCK = replace(IDLE, clock_limit_share=0.5)


def test_throttling_counts_at_once_and_is_not_counted_twice(bundle: Bundle) -> None:
    load = IDLE
    planning, route, whole_ms = Planning(bundle, POWER, adaptive(), load=lambda: load), Route(()), bundle.costs.whole_ms
    planning.ran_rest(None, whole_ms)
    table = planned(planning, route).reasons.table  # type: ignore[attr-defined]
    load = HALF_CLOCK
    # Before anything ran at half the clock, and after each run there.
    for _ in range(10):
        plan = planned(planning, route)
        assert plan.predicted_ms == pytest.approx(2 * whole_ms)
        assert plan.reasons.table is table  # type: ignore[attr-defined]
        planning.ran_rest(None, 2 * whole_ms)
    # And when it is over, without a run here; but a deadline does not rely on that before it is seen.
    load = IDLE
    assert planned(planning, route).predicted_ms == pytest.approx(whole_ms)
    assert planning.rest_ms(None) == pytest.approx(2 * whole_ms)
    planning.ran_rest(None, whole_ms)
    assert planning.rest_ms(None) == pytest.approx(whole_ms)


def test_a_false_alarm_fades_with_what_is_measured(bundle: Bundle) -> None:
    planning, route, whole_ms = (
        Planning(bundle, POWER, adaptive(), load=lambda: HALF_CLOCK),
        Route(()),
        bundle.costs.whole_ms,
    )
    assert planned(planning, route).predicted_ms == pytest.approx(2 * whole_ms)
    for _ in range(8):
        planning.ran_rest(None, whole_ms)
    assert planned(planning, route).predicted_ms == pytest.approx(whole_ms, rel=0.1)


def test_the_first_load_that_is_known_stands_for_the_measurement_at_entry(bundle: Bundle) -> None:
    load = DeviceLoad()
    planning, route = Planning(bundle, POWER, adaptive(), load=lambda: load), Route(())
    planning.measure(Objective())
    measured_ms = planned(planning, route).predicted_ms
    load = HALF_CLOCK
    assert planned(planning, route).predicted_ms == pytest.approx(measured_ms)
    load = IDLE
    assert planned(planning, route).predicted_ms == pytest.approx(measured_ms / 2)


def test_so_it_does_where_the_clock_is_known_before(bundle: Bundle) -> None:
    load = DeviceLoad(cores=1, clock_limit_share=1.0)
    planning, route = Planning(bundle, POWER, adaptive(), load=lambda: load), Route(())
    planning.measure(Objective())
    measured_ms = planned(planning, route).predicted_ms
    # Another process has had half of the one core all the time.
    load = replace(load, others_share=1.0, others_threads=1.0)
    assert planned(planning, route).predicted_ms == pytest.approx(measured_ms)


def test_what_was_learned_before_is_not_of_the_load_at_entry(bundle: Bundle, tmp_path: Path) -> None:
    file, load = tmp_path / "state.json", DeviceLoad()
    planning = Planning(bundle, POWER, adaptive(), file)
    planning.measure(Objective())
    # So much as any measurement agrees with.
    for place in range(40):
        planning.ran_rest(None, planning.rest_ms(None) * (1.4 if place % 2 else 0.7))
    planning.save()
    planning = Planning(bundle, POWER, adaptive(), file, load=lambda: load)
    before_ms = planning.rest_ms(None)
    planning.measure(Objective())
    assert planning.rest_ms(None) == before_ms
    load = HALF_CLOCK
    assert planning.rest_ms(None) == pytest.approx(2 * before_ms)


def again(planning: Planning, plan: Plan, route: Route, payload_bytes: int, **options: float) -> Plan:
    state = SystemState(LinkState(options.pop("kbps", 1e6), 1e6, 0.1))
    objective = Objective(deadline_ms=options.pop("deadline_ms", None))
    return planning.again(plan, route, state, objective, None, payload_bytes, options.pop("elapsed_ms", 0.0))


def test_once_the_payload_is_known_the_plan_may_change(bundle: Bundle) -> None:
    planning, route = Planning(bundle, POWER, adaptive()), Route((presence(bundle, speed=10.0),))
    plan = planned(planning, route)
    assert (plan.cut, plan.offloads) == (None, True)
    assert again(planning, plan, route, plan.payload_bytes) is plan
    # A payload of 10 MB takes 80 ms; the device needs ten.
    other = again(planning, plan, route, 10_000_000)
    assert other is not plan
    assert other.predicted_ms < 80
    # So it does where the link has become as slow.
    slow = again(planning, plan, route, plan.payload_bytes, kbps=1.0)
    assert not slow.offloads
    assert slow.predicted_ms == pytest.approx(bundle.costs.whole_ms, rel=0.01)


def test_what_is_over_of_a_deadline_counts(bundle: Bundle) -> None:
    bundle.costs = replace(bundle.costs, cuts={cut: SliceCost(9.9, 0.1) for cut in bundle.costs.cuts})
    hungry = Power(idle_w=1.0, busy_w=2.5, radio_uj_per_byte=0.0)
    planning, route = Planning(bundle, hungry, adaptive()), Route((presence(bundle, speed=10.0),))
    plan = planned(planning, route, Forced(INPUT_CUT, (), "lossless", None))
    # 1.5 MB take 12 ms to send, and draw less meanwhile than work here; once 28 of 40 ms are over, that is too late.
    objective = Objective("energy", deadline_ms=40.0)
    early, late, over = (
        planning.again(plan, route, STATE, objective, None, 1_500_000, elapsed_ms) for elapsed_ms in (0.0, 28.0, 45.0)
    )
    assert early is plan
    assert over is plan
    assert late is not plan
    assert late.predicted_ms < 12


def test_what_is_left_of_the_energy_budget_counts(bundle: Bundle) -> None:
    hungry = Power(idle_w=1.0, busy_w=10.0, radio_uj_per_byte=0.0)
    planning, route = Planning(bundle, hungry, adaptive()), Route((presence(bundle, speed=10.0),))
    plan = planned(planning, route, forced(bundle.cuts[-1].id))
    # The rest here takes 2 ms and 20 mJ; the whole input a little longer, and less.
    state = SystemState(LinkState(40_000.0, 1e6, 0.1))

    def decided(budget_mj: float | None) -> Plan:
        return planning.again(plan, route, state, Objective(energy_budget_mj=budget_mj), None, 10_000_000, 0.0)

    assert not decided(None).offloads
    assert not decided(101.0).offloads
    # The head has drawn 80 mJ of these.
    frugal = decided(99.0)
    assert (frugal.cut, frugal.offloads) == (None, True)
    # Nothing is left: what draws least.
    assert decided(1.0).offloads


def test_for_throughput_what_is_done_still_counts(bundle: Bundle) -> None:
    planning, route = Planning(bundle, POWER, adaptive()), Route((presence(bundle, speed=10.0),))
    state = SystemState(LinkState(10_000.0, 1e6, 0.1))
    plan = planned(planning, route, forced(bundle.cuts[0].id))
    # The rest here takes less than sending does; but the device would work for longer than that on each input.
    assert planning.again(plan, route, state, Objective("throughput"), None, 11_000, 0.0) is plan


def test_forced_further_stages_are_not_decided_again(bundle: Bundle) -> None:
    planning, route = Planning(bundle, POWER, adaptive()), Route((presence(bundle), presence(bundle, "other")))
    first, second = bundle.cuts[0].id, bundle.cuts[-1].id
    plan = planned(planning, route, Forced(first, (second,), "raw", None))
    assert again(planning, plan, route, 10_000_000) is plan


def test_a_forced_plan_says_who_does_the_rest_and_by_when(bundle: Bundle) -> None:
    planning, route = Planning(bundle, POWER, adaptive()), Route((presence(bundle),))
    cut = forced(bundle.cuts[0].id)
    plan = planning.plan(route, STATE, Objective(deadline_ms=50.0), None, cut)
    assert (plan.deadline_ms, plan.fallback) == (50.0, "device")
    small = Objective(max_device_memory_bytes=1.0)
    assert planning.plan(route, STATE, small, None, cut).fallback is None


def test_trials_and_plans_that_stand_are_repeated_from_a_log(bundle: Bundle, tmp_path: Path) -> None:
    planning = Planning(bundle, POWER, adaptive(tmp_path / "log"))
    routes, whole_ms = [Route((presence(bundle, f"gw{n}", 1e3),)) for n in range(2)], bundle.costs.whole_ms
    said, changed = [], 0
    for number in range(900):
        # Local and the whole input cost about the same, now this one more and now that.
        state = SystemState(LinkState(1e9, 1e9, whole_ms * (0.95 + 0.01 * (number % 11))))
        route = routes[number // 10 % 2]
        plan = planned(planning, route, state=state)
        if plan.offloads:
            planning.answered(plan, route, {f"gw{number // 10 % 2}"}, reply(whole_ms / 1e3))
        else:
            planning.ran_rest(None, whole_ms)
        said.append(plan.reasons)
        changed += again(planning, plan, route, 10_000_000 if number % 3 else plan.payload_bytes) is not plan
    planning.save()
    assert {"stands", "explores", "best"} <= {each.chosen.because for each in said}  # type: ignore[attr-defined]
    found = replay_file(tmp_path / "log")
    assert found.replay.decisions > 900 + changed > 900
    assert found.replay.differences == []


def test_what_the_bandit_has_decided_stays(bundle: Bundle) -> None:
    planning = Planning(bundle, POWER, Deciding("bandit", Objective(), "ab", POWER, None))
    route = Route((presence(bundle, speed=10.0),))
    plan = planned(planning, route)
    assert plan.offloads
    assert again(planning, plan, route, 10_000_000) is plan


def test_what_runs_here_is_waited_for(bundle: Bundle) -> None:
    now_s = 100.0
    planning, route = Planning(bundle, POWER, adaptive(), clock=lambda: now_s), Route(())
    alone_ms = planned(planning, route).predicted_ms
    with planning.running(None), planning.running(None):
        assert planned(planning, route).predicted_ms == pytest.approx(3 * alone_ms)
        now_s += alone_ms / 2e3
        assert planned(planning, route).predicted_ms == pytest.approx(2.5 * alone_ms)
    assert planned(planning, route).predicted_ms == pytest.approx(alone_ms)
    # Another slice is free.
    cut = bundle.cuts[0].id
    with planning.running(cut):
        assert planned(planning, route).predicted_ms == pytest.approx(alone_ms)


def test_for_throughput_some_inputs_are_answered_here(bundle: Bundle) -> None:
    bundle.costs = replace(bundle.costs, cuts={cut: SliceCost(9.9, 0.1) for cut in bundle.costs.cuts})
    planning, route = Planning(bundle, POWER, adaptive()), Route((presence(bundle, speed=2.0),))
    # 16 kB a 13 ms on the way, and ten here.
    state = SystemState(LinkState(10_000.0, 1e6, 0.1))
    plans = [planning.plan(route, state, Objective("throughput"), None) for _ in range(100)]
    here = sum(not plan.offloads for plan in plans)
    assert 40 < here < 75


def test_without_news_nothing_is_decided_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    planning, route = Planning(bundle, POWER, adaptive()), Route((presence(bundle, speed=10.0),))
    plan, asked = planned(planning, route), []
    later = planning._options.later
    monkeypatch.setattr(planning._options, "later", lambda *given: asked.append(given) or later(*given))
    assert planning.again(plan, route, STATE, Objective(), None, round(1.05 * plan.payload_bytes), 1.0) is plan
    assert not asked
    for state, payload_bytes in (
        (replace(STATE, gateway_wait_ms=20.0), plan.payload_bytes),
        (replace(STATE, link=LinkState(1e5, 1e6, 0.1)), plan.payload_bytes),
        (STATE, 2 * plan.payload_bytes),
    ):
        planning.again(plan, route, state, Objective(), None, payload_bytes, 1.0)
    assert len(asked) == 3
