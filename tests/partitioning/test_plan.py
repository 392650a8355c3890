from __future__ import annotations

import json

from midstream.partitioning import Plan, RunnerUp, Stage


class Known:
    """Reasons that are known beforehand."""

    def energy_mj(self) -> float:
        return 30.0

    def why(self) -> str:
        return "because"

    def explain(self) -> list[RunnerUp]:
        return []


def test_json_is_exactly_the_contract() -> None:
    plan = Plan((Stage("device", (0, 1)), Stage("gateway", (2,))), "c1", "raw", 12.5, 400, Known(), True)
    assert json.loads(json.dumps(plan.to_json())) == {
        "stages": [{"machine": "device", "nodes": [0, 1]}, {"machine": "gateway", "nodes": [2]}],
        "cut": "c1",
        "codec": "raw",
        "predicted_ms": 12.5,
        "energy_mj": 30.0,
        "payload_bytes": 400,
        "why": "because",
    }


def test_a_plan_offloads_when_any_stage_runs_elsewhere() -> None:
    local = Plan((Stage("device", (0, 1)),), None, "none", 1.0, 0, Known())
    whole = Plan((Stage("gateway", (0, 1)),), None, "raw", 1.0, 9, Known(), keeps_input=False)
    split = Plan((Stage("device", (0,)), Stage("gateway", (1,))), "c0", "raw", 1.0, 9, Known())
    assert [plan.offloads for plan in (local, whole, split)] == [False, True, True]
