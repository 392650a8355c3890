"""Plans of further machines: stages beyond the gateway, or in its stead.

Each of these is a candidate like any other, so that the decision weighs all of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations

from midstream.partitioning.costs import Candidate, Leg, MachineTimes
from midstream.partitioning.plan import GATEWAY

# Of so many cuts stages begin at most, and of so many codecs: the number of plans grows with the product.
MOST_CUTS = 12
MOST_CODECS = 4
# Stages after the device's.
MOST_STAGES = 3


def with_tiers(
    options: Sequence[Candidate],
    device: MachineTimes,
    gateway: MachineTimes,
    tiers: Mapping[str, MachineTimes],
    can_run: Callable[[str | None, str], bool] = lambda first, second: True,
    most_stages: int = MOST_STAGES,
) -> tuple[Candidate, ...]:
    """The options, and behind them those with stages on the machines in ``tiers``, by name.

    What goes to the gateway may go to one of them, and what runs there may be parted between several, each beginning at
    a later cut than the one before, at most ``most_stages`` after the device, where a machine ``can_run`` the layers
    from one cut (None: the input) to the next; the gateway, where it is among them, is the first. Of the cuts the
    options name, at most MOST_CUTS are taken, evenly by the time of their heads; of their codecs the MOST_CODECS that
    send least on average. All stages send in the codec of the first; of lossy ones the mistakes add up, as nobody has
    measured whether they meet the same inputs. Early exits, which come on top of these, are passed over.
    """
    if not tiers:
        return tuple(options)
    machines = {GATEWAY: gateway, **tiers}
    bases = [each for each in options if each.offloads and each.exit is None]
    codecs = _codecs(bases)
    cuts = _cuts(bases, device)
    found = []
    for base in bases:
        if base.codec not in codecs:
            continue
        found += [_placed(base, [(tier, base.cut, base.tail)], machines, gateway, device, {}) for tier in tiers]
        if base.cut is not None and base.cut not in cuts:
            continue
        later: dict[str | None, Candidate] = {
            each.cut: each
            for each in bases
            if each.codec == base.codec and each.cut in cuts and each.cut != base.cut and each.follows(base)
        }
        for count in range(2, most_stages + 1):
            chains = list(_chains(base, later, count - 1, can_run))
            for names in permutations(machines, count):
                if GATEWAY not in names[1:]:
                    parts = [_parts(base, chain, names) for chain in chains]
                    found += [_placed(base, each, machines, gateway, device, later) for each in parts if each]
    return (*options, *found)


def _codecs(bases: Sequence[Candidate]) -> set[str]:
    sizes: dict[str, list[int]] = {}
    for each in bases:
        sizes.setdefault(each.codec, []).append(each.payload_bytes)
    return set(sorted(sizes, key=lambda codec: sum(sizes[codec]) / len(sizes[codec]))[:MOST_CODECS])


def _cuts(bases: Sequence[Candidate], device: MachineTimes) -> set[str]:
    """The cuts that stages may begin at, spread over the model by the device's times."""
    named = sorted({each.cut for each in bases if each.cut is not None}, key=lambda cut: (device.head_ms[cut], cut))
    if len(named) <= MOST_CUTS:
        return set(named)
    wanted = [device.whole_ms * (place + 0.5) / MOST_CUTS for place in range(MOST_CUTS)]
    return {min(named, key=lambda cut: abs(device.head_ms[cut] - ms)) for ms in wanted}


def _chains(
    base: Candidate,
    later: Mapping[str | None, Candidate],
    count: int,
    can_run: Callable[[str | None, str], bool],
) -> Iterator[tuple[Candidate, ...]]:
    """Cuts that follow one another behind the base's, so many."""
    if count == 0:
        yield ()
        return
    for each in later.values():
        if each.cut is not None and each.follows(base) and can_run(base.cut, each.cut):
            for rest in _chains(each, later, count - 1, can_run):
                yield (each, *rest)


def _parts(
    base: Candidate, chain: Sequence[Candidate], names: Sequence[str]
) -> list[tuple[str, str | None, tuple[int, ...]]]:
    """Each machine, where its stage begins, and its layers; nothing where one would have none."""
    starts = [base, *chain]
    parts = []
    for at, (machine, start) in enumerate(zip(names, starts, strict=True)):
        before = set(start.head)
        until = set(starts[at + 1].head) if at + 1 < len(starts) else None
        nodes = tuple(node for node in base.tail if node not in before and (until is None or node in until))
        if not nodes:
            return []
        parts.append((machine, start.cut, nodes))
    return parts


def _placed(
    base: Candidate,
    parts: Sequence[tuple[str, str | None, tuple[int, ...]]],
    machines: Mapping[str, MachineTimes],
    gateway: MachineTimes,
    device: MachineTimes,
    later: Mapping[str | None, Candidate],
) -> Candidate:
    """The base with its gateway's part on these machines."""
    found = replace(base, tail=(), gateway_ms=0.0, decode_ms=0.0)
    legs: list[Leg] = []
    agreement = base.agreement
    for at, (machine, cut, nodes) in enumerate(parts):
        times = machines[machine]
        start = base if at == 0 else later[cut]
        work_ms = _after_ms(times, cut) - (_after_ms(times, parts[at + 1][1]) if at + 1 < len(parts) else 0.0)
        work_ms = max(0.0, work_ms)
        decode_ms = start.decode_ms * _times_as_long(times, gateway)
        if at:
            before = machines[parts[at - 1][0]]
            decode_ms += start.encode_ms * _times_as_long(before, device)
            agreement = None if agreement is None or start.agreement is None else agreement + start.agreement - 1.0
        if machine == GATEWAY and not legs:
            found = replace(found, tail=nodes, gateway_ms=work_ms, decode_ms=decode_ms)
            continue
        reply_bytes = base.reply_bytes if at + 1 == len(parts) else 0
        legs.append(Leg(machine, cut, nodes, work_ms, decode_ms, start.payload_bytes, reply_bytes))
    return replace(found, legs=tuple(legs), agreement=None if agreement is None else max(0.0, agreement))


def _times_as_long(times: MachineTimes, other: MachineTimes) -> float:
    """As the other takes for the same; as long where that one takes no time, of which nothing can be told."""
    return times.whole_ms / other.whole_ms if other.whole_ms else 1.0


def _after_ms(times: MachineTimes, cut: str | None) -> float:
    """What a machine takes for all that follows a cut."""
    return times.whole_ms if cut is None else times.tail_ms[cut]
