"""What can still be done once a head has run and what crosses is encoded: the same kind of decision, from there on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from midstream.partitioning.costs import Candidate, MachineTimes


def continued(
    options: Sequence[Candidate], begun: Candidate, device: MachineTimes, can_run: Callable[[str, str], bool]
) -> tuple[Candidate, ...]:
    """The options from where ``begun`` stands, that candidate itself first: what was done costs nothing any more.

    The device can send what is encoded, encode it otherwise, send the whole input, go on by itself, or run to a later
    cut, where it ``can_run`` the layers between the two. Options with an early exit are left out: whoever has come this
    far has asked it.
    """
    place = begun.cut
    found = [replace(begun, device_ms=0.0, encode_ms=0.0, exit=None, exit_share=0.0, rest_ms=0.0)]
    for option in options:
        if option.exit is not None or option == begun:
            continue
        if not option.offloads:
            found.append(replace(option, device_ms=device.whole_ms if place is None else device.tail_ms[place]))
        elif option.cut in (None, place):
            found.append(replace(option, device_ms=0.0))
        elif place is None:
            found.append(option)
        elif option.follows(begun) and option.cut is not None and can_run(place, option.cut):
            more_ms = max(0.0, device.head_ms[option.cut] - device.head_ms[place])
            found.append(replace(option, device_ms=more_ms))
    return tuple(found)
