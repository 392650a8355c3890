"""Devices, their links and gateways, simulated: what each way of deciding would have come to, on the same inputs."""

from __future__ import annotations

from importlib.util import find_spec

from midstream.errors import MissingExtraError

if find_spec("simpy") is None:
    raise MissingExtraError("simpy", "simulate", "A simulation")

from midstream.simulating.policies import POLICIES, PolicyName
from midstream.simulating.results import Outcome, Summary
from midstream.simulating.running import Simulation, simulate
from midstream.simulating.scenario import Kind, Scenario

__all__ = ["POLICIES", "Kind", "Outcome", "PolicyName", "Scenario", "Simulation", "Summary", "simulate"]
