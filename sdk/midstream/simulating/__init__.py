"""Devices, their links and gateways, simulated: what each way of deciding would have come to, on the same inputs."""

from __future__ import annotations

from midstream.simulating.policies import POLICIES, PolicyName
from midstream.simulating.results import Outcome, Summary
from midstream.simulating.running import Simulation, simulate
from midstream.simulating.scenario import Kind, Scenario

__all__ = ["POLICIES", "Kind", "Outcome", "PolicyName", "Scenario", "Simulation", "Summary", "simulate"]
