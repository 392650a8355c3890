"""What a device has learned, as a file: the same again, and nothing that is damaged."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import BundleError
from midstream.learned_file import MAX_LEARNED_BYTES, Learned, learned_from_bytes, learned_to_bytes
from midstream.partitioning.correction import MAX_GATEWAYS, Corrections
from midstream.partitioning.sizes import Seen
from midstream.seal import seal

DIGEST = bytes(range(32))


def some(gateways: int = 2, cuts: int = 3) -> Learned:
    corrections = Corrections()
    for place in range(cuts):
        corrections.device.observe(f"c{place}", 2.0 + place)
        for name in range(gateways):
            corrections.observe(f"gw{name}", f"c{place}", 0.5, 1.0)
    sizes = (Seen((None, "raw"), 1000.0, (0.1, math.inf, 0.2)), Seen(("c1", "step1"), 120.0, (math.inf, 0.0, 1.0)))
    return Learned(corrections, sizes)


@given(
    st.lists(
        st.tuples(st.sampled_from(["gw1", "gw2", None]), st.sampled_from(["c1", "c2", ""]), st.floats(1e-5, 1e5)),
        max_size=30,
    )
)
def test_what_was_learned_comes_back(samples: list[tuple[str | None, str, float]]) -> None:
    known = Corrections()
    for gateway, cut, ratio in samples:
        if gateway is None:
            known.device.observe(cut, ratio)
        else:
            known.observe(gateway, cut, ratio, 1.0)
    found = learned_from_bytes(learned_to_bytes(Learned(known, ()), DIGEST), "state", DIGEST)
    assert list(found.corrections.gateways) == list(known.gateways)
    for one, other in (
        (found.corrections.device, known.device),
        *((found.corrections.gateways[name], known.gateways[name]) for name in known.gateways),
    ):
        assert one.spread == pytest.approx(other.spread, abs=1e-5)
        for cut in ("c1", "c2", "", None):
            assert one.factor(cut) == pytest.approx(other.factor(cut), rel=1e-4)


def test_sizes_come_back() -> None:
    learned = some()
    assert learned_from_bytes(learned_to_bytes(learned, DIGEST), "state", DIGEST).sizes == learned.sizes


def test_it_stays_small() -> None:
    assert len(learned_to_bytes(some(MAX_GATEWAYS, 200), DIGEST)) < MAX_LEARNED_BYTES / 4


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_damaged_byte_is_seen(at: int, flipped: int) -> None:
    data = bytearray(learned_to_bytes(some(), DIGEST))
    data[at % len(data)] ^= flipped
    with pytest.raises(BundleError, match="state"):
        learned_from_bytes(bytes(data), "state", DIGEST)


def test_it_is_of_one_bundle() -> None:
    with pytest.raises(BundleError, match="of another bundle"):
        learned_from_bytes(learned_to_bytes(some(), DIGEST), "state", bytes(32))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("device", "machine", "log"), "1"),
        (("device", "machine", "spread"), -0.1),
        (("device", "machine", "samples"), 1.5),
        (("device", "cuts"), []),
        (("device", "cuts", "c" * 65), {"log": 0.0, "spread": 0.0, "samples": 1}),
        (("gateways",), [{"gateway": "g", "machine": {"log": 0, "spread": 0, "samples": 0}, "cuts": {}}] * 9),
        (("sizes", 0, "errors"), [0.1]),
        (("sizes", 0, "payload_bytes"), 1e300),
        (("sizes", 0, "codec"), 5),
        (("sizes",), None),
    ],
)
def test_what_is_none_that_it_can_be_is_refused(path: tuple[Any, ...], value: Any) -> None:
    body = json.loads(learned_to_bytes(some(), DIGEST))["body"]
    *way, last = path
    place = body
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(BundleError, match="state does not read"):
        learned_from_bytes(seal(body), "state", DIGEST)


def test_a_newer_version_is_not_read() -> None:
    body = json.loads(learned_to_bytes(some(), DIGEST))["body"] | {"format": 2}
    with pytest.raises(BundleError, match="version 2"):
        learned_from_bytes(seal(body), "state", DIGEST)
