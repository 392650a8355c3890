"""Counting what stages have used, under no more names than the gateway has itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

from midstream.allocation.usage import Outcome, Partition, Usage
from midstream.gateway.tallying import Histogram, Known, StageName, StageNames, Tally, added

MakeUsage = Callable[..., Usage]
TAIL = StageName("faces", "c5", "output")


def test_what_was_used_is_added_up_by_stage(names: StageNames, used: MakeUsage) -> None:
    tally = Tally(names)
    tally(used())
    tally(used(outcome=Outcome.EXPIRED, priority=0, timings_ms={"queue": 700.0}, cpu_ms={}, sent_bytes=0))
    tally(used(cut="", next_cut="c5"))
    counts = tally.counts()
    assert list(counts) == [TAIL, StageName("faces", "input", "c5")]
    tail = counts[TAIL]
    assert tail.requests == {Outcome.OK: 1, Outcome.EXPIRED: 1}
    assert tail.priorities == {"normal": 1, "critical": 1}
    assert (tail.received_bytes, tail.sent_bytes) == (2000, 100)
    assert tail.cpu_ms == {"decode": 0.5, "run": 4.0}
    assert (tail.wait_ms.count, tail.wait_ms.mean) == (2, 351.0)
    assert (tail.run_ms.count, tail.batch.count) == (1, 1)
    # The latency of what was refused says nothing of how long answers take.
    assert (tail.latency_ms.count, tail.latency_ms.mean) == (1, 9.0)


def test_a_value_counts_at_the_first_bound_that_it_does_not_exceed(names: StageNames, used: MakeUsage) -> None:
    tally = Tally(names)
    for latency_ms in (0.0, 0.5, 0.51, 10_000.0, 10_001.0):
        tally(used(latency_ms=latency_ms))
    counts = tally.counts()[TAIL].latency_ms.counts
    assert (counts[0], counts[1], counts[-2], counts[-1]) == (2, 1, 1, 1)


def test_what_a_peer_has_named_makes_no_names(names: StageNames, used: MakeUsage) -> None:
    tally = Tally(names)
    for number in range(1000):
        tally(used(bundle=f"{number:064x}"))
        tally(used(cut=f'evil"}} {number}'))
        tally(used(next_cut=f"c{number + 10}"))
        # Cuts that are there, without a slice between them.
        tally(used(cut="c9", next_cut="c5"))
    assert {name: sum(each.requests.values()) for name, each in tally.counts().items()} == {
        StageName("faces", "other", "other"): 3000,
        StageName("other", "other", "other"): 1000,
    }


def test_bundles_of_one_name_are_told_apart_and_strange_names_are_made_harmless() -> None:
    digests = [f"{number:x}" * 64 for number in (1, 2, 3, 4)]
    named = StageNames(map(Known, ("twin", "twin", "other", "a\x1b[2J\n" + "x" * 100), digests))
    assert named.bundles[digests[0]] == "twin 111111111111"
    assert named.bundles[digests[1]] == "twin 222222222222"
    assert named.bundles[digests[2]] == "other 333333333333"
    strange = named.of(Partition(digests[3], ""))
    assert strange.bundle.startswith("a?[2J?xxx")
    assert len(strange.bundle) == 64
    assert StageNames([]).of(Partition("", "")) == StageName("other", "other", "other")


def test_histograms_are_added() -> None:
    both = added([Histogram((1.0,), (1, 2), 5.0), Histogram((1.0,), (3, 0), 1.0)])
    assert both == Histogram((1.0,), (4, 2), 6.0)
    assert both.mean == 1.0
    assert Histogram((1.0,), (0, 0), 0.0).mean is None


def test_threads_count_together(names: StageNames, used: MakeUsage) -> None:
    tally, usage = Tally(names), used()
    threads = [threading.Thread(target=lambda: [tally(usage) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for counts in tally.counts().values():
            assert counts.run_ms.count == counts.requests[Outcome.OK]
    assert tally.counts()[TAIL].requests == {Outcome.OK: 8000}
