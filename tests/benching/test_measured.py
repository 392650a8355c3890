"""The simulation's kind from what was measured, what policies are told, and what comes of requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from midstream.benching.bench import summary_of
from midstream.benching.choosing import best_static, simulated, trials
from midstream.benching.measured import Coded, Measured
from midstream.bundle import Bundle
from midstream.errors import PlanError
from midstream.partitioning import MachineTimes, Objective, Power
from midstream.partitioning.correction import Factors
from midstream.profiles import load_profile
from midstream.simulating.draws import Draws
from midstream.simulating.scenario import Scenario
from midstream.traces import Trace


def measured(bundle: Bundle) -> Measured:
    cuts = [cut.id for cut in bundle.cuts]
    return Measured(
        MachineTimes(100.0, {cut: 10.0 * n for n, cut in enumerate(cuts, 1)}, dict.fromkeys(cuts, 50.0)),
        MachineTimes(8.0, {}, dict.fromkeys(cuts, 4.0)),
        {(None, "lossless"): Coded(1234.0, 7.0), (cuts[0], "raw"): Coded(777.0, 1.0)},
        {None: 1000.0, **dict.fromkeys(cuts, 900.0)},
        packed_share=0.25,
        packing_ms=0.5,
        own_ms=2.0,
        overhead_ms=3.0,
    )


def scenario(bundle: Bundle, objective: Objective, kbps: float = 2000.0) -> Scenario:
    found = measured(bundle)
    kind = found.kind(bundle, load_profile("pi4"))
    return Scenario((kind,), Trace.steady(kbps, 20.0), 2.0, 5.0, objective, overhead_ms=found.overhead_ms)


def plans(scenario: Scenario, name: Any) -> Sequence[Any]:
    (trial,) = trials(scenario, name)
    found: Sequence[Any] = trial.policy["plans"]
    return found


def test_candidates_cost_what_was_measured(gratings: Bundle) -> None:
    first = gratings.cuts[0].id
    kind = measured(gratings).kind(gratings, load_profile("pi4"))
    known = {(each.cut, each.codec): each for each in kind.made.table.candidates}
    local, packed, split = known[None, "raw"], known[None, "lossless"], known[first, "raw"]
    assert kind.made.table.candidates[0].device_ms == pytest.approx(102.0)
    assert local.tail
    assert packed.payload_bytes == 1234
    assert packed.encode_ms == pytest.approx(9.0)
    assert packed.gateway_ms == pytest.approx(8.0)
    assert packed.reply_bytes == 250
    assert split.device_ms == pytest.approx(12.0)
    assert (split.payload_bytes, split.encode_ms, split.reply_bytes) == (777, pytest.approx(1.0), 900)
    assert split.decode_ms == pytest.approx(0.0)
    # Whoever plans takes replies to be as the bundle says.
    believed = kind.options.made(kind.presences, Factors(), (Factors(),)).table
    assert {each.reply_bytes for each in believed.candidates if each.tail}.isdisjoint((250, 900, 1000))


def test_it_travels_as_json(gratings: Bundle) -> None:
    found = measured(gratings)
    assert Measured.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_policies_are_told(gratings: Bundle) -> None:
    given = scenario(gratings, Objective(min_agreement=0.0))
    assert plans(given, "local") == [None]
    assert plans(given, "raw") == [(None, "raw")]
    assert len(plans(given, "clairvoyant")) == len(Draws(given, 0))
    assert [each.policy for each in trials(given, "bandit")] == [{"kind": "planner", "planner": "bandit"}]
    assert [each.policy["averaged"] for each in trials(given, "neurosurgeon")] == [False]
    best = best_static(given)
    means = [simulated(given, each).summary().mean_ms for each in best]
    assert means == sorted(means)
    assert [each.always for each in trials(given, "best_static")] == best


def test_what_policies_cannot_do(gratings: Bundle) -> None:
    given = scenario(gratings, Objective(keep_input_local=True))
    with pytest.raises(PlanError, match="may not leave"):
        trials(given, "raw")
    with pytest.raises(PlanError, match="cannot be sent as jpeg90"):
        trials(scenario(gratings, Objective()), "jpeg90")


def test_energy_is_modelled_and_probes_are_shared_out() -> None:
    rows = [
        {"latency_ms": 100.0, "way": "split", "answered": True, "computed_ms": 40.0, "sent_bytes": 900,
         "received_bytes": 100, "fallback": True},
        {"latency_ms": 300.0, "way": "input", "answered": False},
    ]  # fmt: skip
    found = summary_of(rows, 200.0, Power(1.0, 2.0, 10.0), deadline_ms=200.0)
    assert found.mean_ms == pytest.approx(200.0)
    assert found.payload_bytes == pytest.approx((900 + 200) / 2)
    assert found.energy_mj == pytest.approx((2 * 40 + 60 + 10 * 1.1 + 300 + 10 * 0.1) / 2)
    assert (found.missed_share, found.fallback_share, found.unanswered_share) == (0.5, 0.5, 0.5)
    assert found.split_share == 0.5
