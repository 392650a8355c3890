"""Where to cut: what each option costs, the resource map, the link, the decision. All of it is pure."""

from __future__ import annotations

from midstream.partitioning.columns import Inputs
from midstream.partitioning.continuing import continued
from midstream.partitioning.costs import (
    DEFAULT_RUNGS,
    Candidate,
    Leg,
    MachineTimes,
    Power,
    Rung,
    candidates,
    layers_from_profile,
    times_from_costs,
    times_from_profile,
    with_exit,
)
from midstream.partitioning.device_state import DeviceLoad, slowdown
from midstream.partitioning.link import LinkEstimate, LinkState
from midstream.partitioning.plan import DEVICE, GATEWAY, LOCAL_CODEC, Plan, RunnerUp, Stage, in_stages
from midstream.partitioning.planner import Prediction, decide, decide_from, plan_for, predict
from midstream.partitioning.resource_map import critical_path, device_memory, resource_map
from midstream.partitioning.sizes import SizeEstimates, size_features
from midstream.partitioning.state import Objective, SystemState, Tariff, Tier
from midstream.partitioning.table import Table
from midstream.partitioning.tiers import with_tiers

__all__ = [
    "DEFAULT_RUNGS",
    "DEVICE",
    "GATEWAY",
    "LOCAL_CODEC",
    "Candidate",
    "DeviceLoad",
    "Inputs",
    "Leg",
    "LinkEstimate",
    "LinkState",
    "MachineTimes",
    "Objective",
    "Plan",
    "Power",
    "Prediction",
    "Rung",
    "RunnerUp",
    "SizeEstimates",
    "Stage",
    "SystemState",
    "Table",
    "Tariff",
    "Tier",
    "candidates",
    "continued",
    "critical_path",
    "decide",
    "decide_from",
    "device_memory",
    "in_stages",
    "layers_from_profile",
    "plan_for",
    "predict",
    "resource_map",
    "size_features",
    "slowdown",
    "times_from_costs",
    "times_from_profile",
    "with_exit",
    "with_tiers",
]
