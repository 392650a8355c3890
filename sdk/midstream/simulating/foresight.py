"""The best that could have been done, knowing the link, the queues and the chances to come: a search over all requests.

Requests are taken in the order in which they come, and each way to here is a simulation of its own: what is under way
goes on, step by step in the order of time, until the next request comes. What is left of each choice is when every
core, slice, wire and worker is free again, and what is still under way. Of two ways to the same request, one that is no
worse in any of these and has cost no more so far makes the other superfluous, so that the search finds the best while
no more than ``width`` ways are left. After `MOST_STEPS` of them, as where requests pile up, only the best is followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from midstream.errors import PlanError
from midstream.partitioning import Candidate, LinkState, Objective, SystemState
from midstream.partitioning.table import refusal
from midstream.simulating.draws import Draws
from midstream.simulating.policies import Chosen
from midstream.simulating.scenario import Kind, Scenario
from midstream.simulating.ways import Asked, Store, Way, counted

MOST_STEPS = 250_000
# When everything is up, as far as constraints go.
UP = SystemState(LinkState(1e3, 1e3, 1.0))


class Foresight:
    """The search for the best choices of a scenario."""

    def __init__(self, scenario: Scenario, draws: Sequence[Draws], width: int = 16) -> None:
        self._scenario = scenario
        self._store = Store(scenario, draws)
        self._width = width
        self._order = sorted(
            (arrives_s, device, number)
            for device, drawn in enumerate(draws)
            for number, arrives_s in enumerate(drawn.arrivals_s)
        )

    def best(self) -> list[list[Chosen]]:
        """The best choice for each request of each device. Raises PlanError where nothing is allowed."""
        candidates = [choices(kind, self._scenario.objective) for kind in self._scenario.kinds]
        ways = [Way(self._store)]
        gateways = range(self._scenario.gateways)
        steps = 0
        for place, (arrives_s, device, number) in enumerate(self._order):
            next_s = self._order[place + 1][0] if place + 1 < len(self._order) else math.inf
            found = []
            for way in ways:
                for candidate in candidates[device % len(candidates)]:
                    for gateway in gateways if candidate.offloads else (0,):
                        found.append(after := way.copy())
                        after.begin(Asked(device, number, arrives_s, candidate, gateway))
                        after.until(next_s)
            steps += len(found)
            ways = self._kept(found, next_s, self._width if steps < MOST_STEPS else 1)
        return self._traced(ways[0], self._order)

    def always(self, candidate: Candidate) -> list[Chosen]:
        """What the first device would come to with the same choice for all, as if it were alone."""
        way, alone = Way(self._store), [each for each in self._order if each[1] == 0]
        for arrives_s, device, number in alone:
            way.until(arrives_s)
            way.begin(Asked(device, number, arrives_s, candidate, 0))
        way.until(math.inf)
        return self._traced(way, alone)[0]

    def _traced(self, way: Way, order: Sequence[tuple[float, int, int]]) -> list[list[Chosen]]:
        came: dict[tuple[int, int], tuple[float, float]] = {}
        result, choice = way.results, way.choices
        while result is not None:
            came[result.device, result.number] = result.latency_ms, result.energy_mj
            result = result.before
        found: list[list[Chosen]] = [[] for _ in self._store.draws]
        for _, device, number in reversed(order):
            assert choice is not None
            found[device].append(Chosen(choice.candidate, choice.gateway, *came[device, number]))
            choice = choice.before
        return [each[::-1] for each in found]

    def _kept(self, ways: list[Way], next_s: float, width: int) -> list[Way]:
        """Those that may still be the best, the cheapest first; what is free before the next request comes is free."""
        ranked = sorted(((way.projected(), at) for at, way in enumerate(ways)))
        if width == 1:
            return [ways[ranked[0][1]]]
        kept: list[Way] = []
        lefts: list[dict[object, float]] = []
        for _, at in ranked:
            # Late, as most ways do not come so far.
            if next_s < math.inf:
                ways[at].catch_up(next_s)
            left = ways[at].left(next_s)
            if any(_no_worse(other, left) for other in lefts):
                continue
            kept.append(ways[at])
            lefts.append(left)
            if len(kept) == width:
                break
        return kept


def cost(chosen: Chosen, objective: Objective) -> float:
    """What a request counts as."""
    return counted(chosen.latency_ms, chosen.energy_mj, objective)


def choices(kind: Kind, objective: Objective) -> list[Candidate]:
    """The candidates that an objective allows, without those that are worse than another in everything.

    Raises PlanError where none is left.
    """
    allowed = [each for each in kind.made.table.candidates if refusal(each, UP, objective) is None]
    if not allowed:
        raise PlanError(f"bundle {kind.name!r} has no plan that keeps the constraints; relax one of them")
    figures = {
        id(each): (
            each.device_ms + each.encode_ms,
            each.rest_ms,
            float(each.payload_bytes),
            each.gateway_ms + each.decode_ms,
            float(each.reply_bytes),
        )
        for each in allowed
    }
    found: list[Candidate] = []
    for each in sorted(allowed, key=lambda one: figures[id(one)]):
        if not any(
            other.exit == each.exit
            and other.offloads == each.offloads
            # Another head can run beside the one that this would wait for.
            and (other.cut == each.cut or not other.head)
            and kind.spread(other) == kind.spread(each)
            and all(a <= b for a, b in zip(figures[id(other)], figures[id(each)], strict=True))
            for other in found
        ):
            found.append(each)
    return found


def _no_worse(one: dict[object, float], other: dict[object, float]) -> bool:
    """Whether everything is free at least as early in the one as in the other."""
    return all(free_s <= other.get(name, 0.0) for name, free_s in one.items())
