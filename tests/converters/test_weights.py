from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.manifest import WEIGHT_ALIGNMENT
from midstream_converters.weights import WeightRange, WeightStore, merge_ranges

WEIGHTS = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"twice", b"again"]), max_size=12)
MIB = 1 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "weights.bin"


@settings(deadline=None)
@given(WEIGHTS)
def test_every_weight_lies_where_the_store_says_and_only_once(place: Path, weights: list[bytes]) -> None:
    with WeightStore(place) as store:
        assert store.path == place
        ranges = [store.add(weight) for weight in weights]
        content = place.read_bytes()
        for weight, at in zip(weights, ranges, strict=True):
            assert content[at.offset : at.offset + at.length] == weight
            assert at.offset % WEIGHT_ALIGNMENT == 0
            assert store.add(weight) == at
    assert place.read_bytes() == content
    assert len(content) == sum(at.padded for at in set(ranges))
    assert len(set(ranges)) == len(set(weights))


def test_a_store_that_was_left_takes_no_more(place: Path) -> None:
    with WeightStore(place) as store:
        store.add(b"in time")
    with pytest.raises(ValueError, match="closed file"):
        store.add(b"too late")


def test_what_lies_between_weights_is_zero(place: Path) -> None:
    with WeightStore(place) as store:
        assert place.read_bytes() == b""
        store.add(b"\xff" * 3)
        store.add(memoryview(b"\xff" * 16))
        store.add(b"\xff" * 17)
        assert place.read_bytes() == b"\xff" * 3 + bytes(13) + b"\xff" * 33 + bytes(15)


def test_weights_that_only_begin_alike_are_kept_apart(place: Path) -> None:
    with WeightStore(place) as store:
        assert store.add(b"ab") != store.add(b"ab\0")
        assert store.add(b"ab").length == 2


@pytest.mark.parametrize(
    "content",
    [b"w" * 100, bytes(3 * MIB), b"w" + bytes(2 * MIB), bytes(2 * MIB) + b"w", bytes(MIB - 1), b""],
    ids=["small", "zeros", "zeros behind", "zeros before", "almost a hole", "nothing"],
)
def test_a_part_of_another_file_is_the_same_weight(place: Path, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "model.data"
    source.write_bytes(b"before" + content + b"after")
    with WeightStore(place) as store:
        first = store.add(b"first")
        at = store.add_range(source, 6, len(content))
        assert store.add(content) == at
        assert store.add(b"first") == first
        last = store.add(b"last")
        stored = place.read_bytes()
    assert stored[at.offset : at.offset + at.length] == content
    assert stored[last.offset : last.offset + 4] == b"last"
    assert len(stored) == last.offset + last.padded


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (10, 1), (99, 1)])
def test_a_part_that_is_not_all_there_is_refused(place: Path, tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "model.data").write_bytes(b"0123456789")
    with WeightStore(place) as store:
        with pytest.raises(EOFError, match=r"model\.data ends early"):
            store.add_range(tmp_path / "model.data", offset, length)
        with pytest.raises(FileNotFoundError):
            store.add_range(tmp_path / "nowhere", 0, 1)
        assert place.read_bytes() == b""


def test_any_thread_may_add(place: Path) -> None:
    start = threading.Barrier(8)
    with WeightStore(place) as store:

        def work(number: int) -> list[WeightRange]:
            start.wait(timeout=30)
            return [store.add(bytes([kind]) * (kind + 1)) for kind in [*range(number, 60), *range(number)]]

        with ThreadPoolExecutor(8) as pool:
            found = [set(ranges) for ranges in pool.map(work, range(8))]
    content = place.read_bytes()
    assert all(ranges == found[0] for ranges in found)
    assert len(content) == sum(at.padded for at in found[0])
    assert {content[at.offset : at.offset + at.length] for at in found[0]} == {bytes([n]) * (n + 1) for n in range(60)}


RANGES = st.lists(st.integers(1, 40), max_size=12).map(
    lambda lengths: [WeightRange(sum(WeightRange(0, n).padded for n in lengths[:k]), n) for k, n in enumerate(lengths)]
)


@settings(deadline=None)
@given(RANGES, st.data())
def test_merged_ranges_hold_the_weights_and_nothing_else(ranges: list[WeightRange], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(ranges), max_size=10)) if ranges else []
    merged = merge_ranges(chosen)
    covered = {byte for offset, length in merged for byte in range(offset, offset + length)}
    assert covered == {byte for at in chosen for byte in range(at.offset, at.offset + at.padded)}
    for (offset, length), (following, _) in pairwise(merged):
        assert offset + length < following, "neighbours are one range"
    assert merge_ranges(reversed(chosen)) == merged
    assert merge_ranges(iter([*chosen, *chosen])) == merged


def test_ranges_by_hand() -> None:
    first, second, fourth = WeightRange(0, 5), WeightRange(16, 16), WeightRange(48, 1)
    assert merge_ranges([]) == ()
    assert merge_ranges([fourth, second, first, second]) == ((0, 32), (48, 16))
