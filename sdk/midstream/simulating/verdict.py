"""What a simulation comes to, in one sentence: whether it pays to decide for each input, and to leave the device."""

from __future__ import annotations

from collections.abc import Mapping

from midstream.partitioning.table import refusal
from midstream.simulating.foresight import UP
from midstream.simulating.policies import SENDING
from midstream.simulating.results import Summary
from midstream.simulating.running import Simulation
from midstream.simulating.scenario import Scenario

# What differs by less is no difference.
_SAME = 0.01
_SAME_MISSED = 0.001


def verdict(simulation: Simulation) -> str:
    """One sentence on `adaptive` against the best of the simple ways: local, or always sending the input.

    Codecs that the objective does not allow are no rivals: their answers are others. `best_static` is none either, as
    it is known only afterwards; where it is better than the simple ways, that is told.
    """
    scenario, summaries = simulation.scenario, simulation.summaries
    adaptive = summaries.get("adaptive")
    rivals = {
        name: summary
        for name, summary in summaries.items()
        if name == "local" or (name in SENDING and _allowed(scenario, SENDING[name]))
    }
    if adaptive is None or not rivals:
        needed = "adaptive" if adaptive is None else "local or an input in a codec that is allowed"
        return f"No verdict: {needed} was not simulated."
    best = min(rivals, key=lambda name: (_missed(rivals[name]), _value(rivals[name], scenario)))
    return (
        f"{_judged(adaptive, best, rivals, scenario)}; it splits {adaptive.split_share:.0%} of the inputs, sends "
        f"{adaptive.input_share:.0%} whole, {_kept(adaptive)}{_ideal(summaries, adaptive, scenario)}"
        f"{_hindsight(summaries, rivals[best], scenario)}."
    )


def _judged(adaptive: Summary, best: str, rivals: Mapping[str, Summary], scenario: Scenario) -> str:
    rival = rivals[best]
    mine, its = _value(adaptive, scenario), _value(rival, scenario)
    unit = "mJ" if scenario.objective.kind == "energy" else "ms"
    gain = 1.0 - mine / its if its else 0.0
    others = ", ".join(f"{name} {_value(each, scenario):.1f}" for name, each in rivals.items() if name != best)
    against = f"{best}, {its:.1f} {unit}" + (f", the best of the simple ways ({others})" if others else "")
    fewer = rival.missed_share - adaptive.missed_share
    if abs(fewer) > _SAME_MISSED:
        word = "pays" if fewer > 0 else "does not pay"
        return (
            f"Deciding for each input {word} here: adaptive misses {adaptive.missed_share:.1%} of the deadlines at "
            f"{mine:.1f} {unit}, where {rival.missed_share:.1%} are missed by {against}"
        )
    if abs(gain) <= _SAME:
        return (
            f"Deciding for each input makes no difference here: adaptive takes {mine:.1f} {unit} an input, within "
            f"{_SAME:.0%} of {against}"
        )
    word, more = ("pays", "less") if gain > 0 else ("does not pay", "more")
    return (
        f"Deciding for each input {word} here: adaptive takes {mine:.1f} {unit} an input, {abs(gain):.1%} {more} than "
        f"{against}"
    )


def _kept(adaptive: Summary) -> str:
    exits = f" ({adaptive.exit_share:.0%} at an early exit)" if adaptive.exit_share else ""
    lost = f", {adaptive.unanswered_share:.1%} get no answer" if adaptive.unanswered_share else ""
    return f"answers {adaptive.local_share + adaptive.exit_share:.0%} on the device{exits}{lost}"


def _ideal(summaries: Mapping[str, Summary], adaptive: Summary, scenario: Scenario) -> str:
    ideal = summaries.get("clairvoyant")
    if ideal is None or not _value(ideal, scenario):
        return ""
    if _better(adaptive, ideal, scenario):
        return ", and does better than what the search of clairvoyant has found, which is no bound here"
    return f", and comes to {_value(adaptive, scenario) / _value(ideal, scenario):.2f} × what foresight would reach"


def _hindsight(summaries: Mapping[str, Summary], rival: Summary, scenario: Scenario) -> str:
    static = summaries.get("best_static")
    if static is None or not _better(static, rival, scenario):
        return ""
    unit = "mJ" if scenario.objective.kind == "energy" else "ms"
    missed = f" and misses {static.missed_share:.1%}" if static.missed_share else ""
    return f"; best_static, one choice for all inputs in hindsight, takes {_value(static, scenario):.1f} {unit}{missed}"


def _better(one: Summary, other: Summary, scenario: Scenario) -> bool:
    """Whether one does better, by more than what is no difference; misses count first."""
    fewer = other.missed_share - one.missed_share
    if abs(fewer) > _SAME_MISSED:
        return fewer > 0
    return _value(one, scenario) < _value(other, scenario) * (1.0 - _SAME)


def _allowed(scenario: Scenario, codec: str) -> bool:
    found = [kind.input_in(codec) for kind in scenario.kinds]
    return all(each is not None and refusal(each, UP, scenario.objective) is None for each in found)


def _missed(summary: Summary) -> float:
    return round(summary.missed_share / _SAME_MISSED) * _SAME_MISSED


def _value(summary: Summary, scenario: Scenario) -> float:
    return summary.energy_mj if scenario.objective.kind == "energy" else summary.mean_ms
