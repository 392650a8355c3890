"""Which candidates are worth proving, and in which order: minimum cuts, and narrow places of the running order.

A cut is *dominated* where another has no layer on the device that it has not itself, sends no more bytes, gets no more
back, and reveals an input of the model only if it does so too (`linear`). On a gateway that is at least as fast as the
device on each layer, the other's latency is no higher at any link speed: the layers that it moves cost there no more
than here, and nothing else costs more. The device's energy is no higher either, waiting being no dearer than computing.
Where the gateway is the slower one on each layer, no cut is better than the whole model on the device. In between, and
for throughput, the rule says nothing: there the sweep decides, and what is the best somewhere in it is never left out.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from midstream.manifest import CandidateCounts
from midstream_converters.cuts import Candidate, Cutter
from midstream_converters.graph import ModelGraph
from midstream_converters.linear import revealing
from midstream_converters.sweep import best_heads


@dataclass(frozen=True)
class Selection:
    """``chosen`` are the candidates to prove, most useful first; ``others`` come in where none of these is exact.

    ``dominated`` gives, for each candidate left out for that, the ids of those that are never worse.
    """

    chosen: tuple[Candidate, ...]
    others: tuple[Candidate, ...]
    dominated: dict[Candidate, frozenset[str]]
    counts: CandidateCounts

    def freed(self, last: str, rejected: set[str]) -> list[Candidate]:
        """The dominated candidates that count again when ``last`` is rejected as the last of what dominates them."""
        return [cut for cut, others in self.dominated.items() if last in others <= rejected]

    def all(self) -> tuple[Candidate, ...]:
        """All candidates."""
        return (*self.chosen, *self.others, *self.dominated)


def select(graph: ModelGraph, *, every: bool) -> Selection:
    """The candidates of a model.

    Chosen are those that are the best somewhere in the sweep, by their share of it, then those at which one value
    crosses and that no other dominates, narrow ones far from each other first. With ``every``, all the rest follow.
    """
    cutter = Cutter(graph)
    running = cutter.candidates()
    narrow = [cut for cut in running if len(cut.crossing) == 1]
    optimal, numbered = _optimal(cutter, running, narrow)
    candidates = [optimal.get(cut.id, cut) for cut in running] + numbered
    best = sorted((cut for cut in candidates if cut.share > 0), key=lambda cut: (-cut.share, len(cut.head), cut.head))
    pool = best + [cut for cut in candidates if not cut.share and len(cut.crossing) == 1]
    reveal = revealing(graph)
    dominated = {cut: others for cut in pool if not cut.share and (others := dominating(cut, pool, reveal))}
    counts = CandidateCounts(
        len(candidates), len(best), sum(len(cut.crossing) == 1 for cut in candidates), len(dominated)
    )
    plain = [cut for cut in pool if not cut.share and cut not in dominated]
    wide = [cut for cut in candidates if not cut.share and len(cut.crossing) > 1]
    if every:
        return Selection(_ranked(best, plain, list(dominated), wide), (), {}, counts)
    chosen = _ranked(best, plain)
    return Selection(chosen, _ranked(list(chosen), wide)[len(chosen) :], dominated, counts)


def _optimal(
    cutter: Cutter, running: Sequence[Candidate], narrow: Sequence[Candidate]
) -> tuple[dict[str, Candidate], list[Candidate]]:
    """The best heads: those of the running order by their ids, and the others, numbered from the shortest on."""
    known: dict[tuple[int, ...], Candidate] = {}
    for cut in running:
        known.setdefault(cutter.needed(cut.head), cut)
    shares = best_heads(cutter.graph, cutter.layers, [cutter.needed(cut.head) for cut in narrow])
    optimal: dict[str, Candidate] = {}
    numbered: list[Candidate] = []
    for head, share in sorted(shares.items(), key=lambda item: (len(item[0]), item[0])):
        # A share of less than a millionth is a tie that rounding has decided.
        rounded = round(share, 6)
        if not rounded:
            continue
        if head in known:
            optimal[known[head].id] = replace(known[head], share=rounded)
        elif (made := cutter.candidate(f"m{len(numbered) + 1}", head)) is not None:
            numbered.append(replace(made, share=rounded))
    return optimal, numbered


def dominating(cut: Candidate, pool: Sequence[Candidate], reveal: Set[str]) -> frozenset[str]:
    """The ids of those that are never worse where the rule above holds; ``reveal`` are the values that `revealing`."""
    head, reveals = set(cut.head), not reveal.isdisjoint(cut.crossing)
    return frozenset(
        other.id
        for other in pool
        if other.payload_bytes <= cut.payload_bytes
        and other.reply_bytes <= cut.reply_bytes
        and len(other.head) < len(head)
        and head.issuperset(other.head)
        and (reveals or reveal.isdisjoint(other.crossing))
    )


def _ranked(best: Sequence[Candidate], *groups: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The best as they are, then group by group: the narrow places that lie furthest from those ranked before."""
    ranked = list(best)
    layers = max((len(cut.head) for group in (best, *groups) for cut in group), default=1)
    for group in groups:
        places = np.array([len(cut.head) / layers for cut in group])
        sizes = np.array([cut.payload_bytes for cut in group], dtype=np.float64)
        sizes /= max(sizes.max(initial=1.0), 1.0)
        distances = np.ones(len(group))
        for cut in ranked:
            distances = np.minimum(distances, np.abs(places - len(cut.head) / layers))
        for _ in group:
            chosen = int(np.argmax(distances - sizes))
            ranked.append(group[chosen])
            distances = np.minimum(distances, np.abs(places - places[chosen]))
            distances[chosen] = -np.inf
    return tuple(ranked)
