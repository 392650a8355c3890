"""A gateway's status as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from midstream.allocation.intervals import Quantiles
from midstream.gateway.status import Condition, GatewayStatus, PredictorStatus, Target


def test_the_status_is_json(status: GatewayStatus) -> None:
    told = json.loads(json.dumps(status.to_json(), allow_nan=False))
    assert (told["gateway"], told["condition"], told["connected"], told["peak_bytes"]) == (
        "attic",
        "serving",
        True,
        None,
    )
    assert told["bundles"] == [{"name": "faces", "digest": "ab" * 32, "cuts": ["c5", "c9"]}]
    tail, whole = told["partitions"]
    assert (tail["cut"], tail["next_cut"], whole["cut"]) == ("c5", "output", "input")
    assert tail["requests"] == {"ok": 1, "failed": 1}
    assert (tail["wait_ms"], tail["run_ms"], tail["latency_ms"], tail["batch"]) == (2.0, 6.0, 9.0, 1.0)
    assert (whole["wait_ms"], whole["warm_slices"]) == (None, None)
    assert tail["predictors"][1] == {
        "name": "rnn", "target": "arrivals", "low": 2.0, "middle": 3.0, "high": 5.0, "error": 0.25, "chosen": True,
    }  # fmt: skip


def test_what_is_no_number_is_null(status: GatewayStatus) -> None:
    wild = PredictorStatus("wild", Target.CPU_MS, Quantiles(float("-inf"), float("nan"), float("inf")), float("nan"))
    partition = replace(status.partitions[0], predictors=(wild,))
    (predictor,) = replace(status, partitions=(partition,)).to_json()["partitions"][0]["predictors"]
    assert [predictor[key] for key in ("low", "middle", "high", "error")] == [None] * 4


def test_every_condition_says_why() -> None:
    assert all(condition.why for condition in Condition)
