"""Chunks, and the parity chunks that stand for lost ones."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication import chunks as chunks_module
from midstream.communication import fec
from midstream.communication.checksum import crc32c, sealed
from midstream.communication.chunks import (
    CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    OVERHEAD_BYTES,
    Peeked,
    Reassembler,
    chunk_count,
    message_id_of,
    peek,
    split,
)
from midstream.errors import MissingExtraError, WireError

from .golden import FOLDER, in_parts

ID = bytes(range(16))


def message_of(size: int, salt: int = 0) -> bytes:
    body = bytes((n * 31 + salt) % 251 for n in range(min(size, 5000)))
    return (body * (size // max(len(body), 1) + 1))[: size - 4] + crc32c(body, salt).to_bytes(4, "little")


def chunk(
    index: int, count: int, total: int, part: bytes, tag: bytes = b"tagg", request_id: bytes = ID, parity: int = 0
) -> bytes:
    return sealed(struct.pack("<2sBB16sHHI4sB", b"MC", 1, 0, request_id, index, count, total, tag, parity) + part)


@pytest.mark.parametrize("size", [4, 1000, CHUNK_BYTES - 37, CHUNK_BYTES - 36, CHUNK_BYTES, 3_000_001])
def test_a_message_survives(size: int) -> None:
    message = message_of(size)
    chunks = split(message, ID)
    assert len(chunks) == -(-size // (CHUNK_BYTES - OVERHEAD_BYTES))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    reassembler = Reassembler()
    assert [reassembler.add("d", part) for part in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert reassembler.add("d", chunks[-1]) == message
    assert (reassembler.pending_messages, reassembler.pending_bytes) == (0, 0)


@settings(deadline=None)
@given(st.integers(4, 20_000), st.integers(MIN_CHUNK_BYTES, 5000), st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(size: int, chunk_bytes: int, random) -> None:  # type: ignore[no-untyped-def]
    message = message_of(size)
    chunks = split(message, ID, chunk_bytes)
    assert all(len(part) <= chunk_bytes for part in chunks)
    random.shuffle(chunks)
    reassembler = Reassembler()
    found = []
    for part in chunks[:-1]:
        found += [reassembler.add("d", part), reassembler.add("d", part)]
    last = reassembler.add("d", chunks[-1])
    assert set(found) <= {None} or len(chunks) == 1
    assert last == message


def test_golden_chunk() -> None:
    message = (FOLDER / "request-v1.bin").read_bytes()
    data = (FOLDER / "chunk-v1.bin").read_bytes()
    assert split(message, ID) == [data]
    assert Reassembler().add("d", data) == message
    assert data == chunk(0, 1, len(message), message, message[-4:])


def test_golden_parity_chunk() -> None:
    message, data = in_parts(), (FOLDER / "parity-v1.bin").read_bytes()
    first, second, parity = split(message, ID, MIN_CHUNK_BYTES, parity=1)
    assert parity == data
    assert data[20:24] == struct.pack("<HH", 2, 2)
    for other in (first, second):
        reassembler = Reassembler()
        assert reassembler.add("d", data) is None
        assert reassembler.add("d", other) == message


@settings(deadline=None)
@given(
    st.integers(1100, 30_000),
    st.integers(MIN_CHUNK_BYTES, 5000),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_any_k_chunks_of_n_give_the_message(size: int, chunk_bytes: int, parity: int, random) -> None:  # type: ignore[no-untyped-def]
    message = message_of(size)
    chunks = split(message, ID, chunk_bytes, parity)
    count = chunk_count(size, chunk_bytes)
    assert len(chunks) == count + parity
    assert chunks[:count] == [
        chunk(at, count, size, plain[33:-4], message[-4:], parity=parity)
        for at, plain in enumerate(split(message, ID, chunk_bytes))
    ]
    kept = random.sample(chunks, count)
    late = [one for one in chunks if one not in kept]
    reassembler = Reassembler()
    for one in kept[:-1]:
        assert reassembler.add("d", one) is None
        assert reassembler.add("d", one) is None
    assert reassembler.add("d", kept[-1]) == message
    # What comes after it was complete begins nothing.
    assert [reassembler.add("d", one) for one in late if count > 1] == [None] * len(late) * (count > 1)
    assert (reassembler.pending_messages, reassembler.pending_bytes) == (0, 0)


def test_a_message_that_was_complete_can_be_sent_again() -> None:
    first, second = split(message_of(4000), ID, MIN_CHUNK_BYTES), split(message_of(4000, 9), ID, MIN_CHUNK_BYTES)
    reassembler = Reassembler()
    assert [reassembler.add("d", one) for one in first] == [None, message_of(4000)]
    assert [reassembler.add("d", one) for one in second] == [None, message_of(4000, 9)]
    assert reassembler.add("d", first[0]) is None
    assert reassembler.pending_messages == 1


def test_no_more_finished_messages_are_remembered_than_are_held() -> None:
    reassembler = Reassembler(max_messages=2)
    for n in range(100):
        for one in split(message_of(4000, n), n.to_bytes(16, "big"), MIN_CHUNK_BYTES):
            reassembler.add("d", one)
    assert len(reassembler._finished) == 2


def test_without_zfec_parity_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    message = message_of(6000)
    chunks = split(message, ID, MIN_CHUNK_BYTES, parity=2)
    monkeypatch.setattr(chunks_module, "fec_available", lambda: False)
    monkeypatch.setattr(fec, "fec_available", lambda: False)
    reassembler = Reassembler()
    assert [reassembler.add("d", one) for one in (chunks[3], chunks[0], chunks[4])] == [None] * 3
    progress = reassembler.progress("d", ID)
    assert progress is not None
    assert (progress.received, progress.span, progress.parity) == (1, 1, 0)
    assert [reassembler.add("d", one) for one in chunks[1:3]] == [None, message]
    with pytest.raises(MissingExtraError, match=r"forward error correction .*midstream\[fec\]"):
        split(message, ID, MIN_CHUNK_BYTES, parity=1)
    assert len(split(message, ID, MIN_CHUNK_BYTES)) == 3


def test_progress_says_what_is_missing() -> None:
    chunks = split(message_of(20_000), ID, MIN_CHUNK_BYTES, parity=3)
    reassembler = Reassembler()
    assert reassembler.progress("d", ID) is None
    for at in (0, 3, 4, 11):
        reassembler.add("d", chunks[at])
    progress = reassembler.progress("d", ID)
    assert progress is not None
    assert (progress.count, progress.parity, progress.received, progress.span) == (10, 3, 4, 12)
    # One parity chunk is there, so one of the nine data chunks need not come.
    assert progress.missing(progress.count) == ((1, 2), (5, 8))
    assert progress.missing(6) == ((1, 2), (5, 5))
    assert (progress.lost_before(5), progress.lost_before(12)) == (2, 8)


def test_missing_chunks_are_named_in_at_most_64_ranges() -> None:
    chunks = split(message_of(400_000), ID, MIN_CHUNK_BYTES)
    reassembler = Reassembler()
    for one in chunks[::2]:
        reassembler.add("d", one)
    progress = reassembler.progress("d", ID)
    assert progress is not None
    assert progress.missing(len(chunks)) == tuple((at, at) for at in range(1, 128, 2))


def test_senders_are_kept_apart() -> None:
    one, other = split(message_of(6000), ID, MIN_CHUNK_BYTES), split(message_of(6000, 9), ID, MIN_CHUNK_BYTES)
    reassembler = Reassembler()
    for a, b in zip(one[:-1], other[:-1], strict=True):
        assert reassembler.add("one", a) is None
        assert reassembler.add("other", b) is None
    assert reassembler.add("one", one[-1]) == message_of(6000)
    assert reassembler.add("other", other[-1]) == message_of(6000, 9)


def test_a_second_attempt_is_not_mixed_with_the_first() -> None:
    first, second = split(message_of(6000), ID, MIN_CHUNK_BYTES), split(message_of(6000, 9), ID, MIN_CHUNK_BYTES)
    reassembler = Reassembler()
    reassembler.add("d", first[0])
    reassembler.add("d", first[1])
    assert [reassembler.add("d", part) for part in second] == [None, None, message_of(6000, 9)]
    assert reassembler.pending_bytes == 0


def test_chunks_that_contradict_each_other_are_refused_and_dropped() -> None:
    reassembler = Reassembler()
    assert reassembler.add("d", chunk(0, 2, 3000, bytes(1500))) is None
    with pytest.raises(WireError, match=r"announces 3 chunks of 4500 bytes .*, those before it 2 chunks of 3000"):
        reassembler.add("d", chunk(1, 3, 4500, bytes(1500)))
    assert reassembler.pending_messages == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "chunk has 0 bytes"),
        (bytes(OVERHEAD_BYTES), "chunk has 37 bytes"),
        (bytes(CHUNK_BYTES + 1), "chunk has 262145 bytes"),
        (bytes(100), "begins with"),
        (b"MC\x05" + bytes(100), "wire version 5; spoken here: 1"),
        (b"MC\x01\x01" + bytes(100), "flags 0x01"),
        (chunk(0, 1, 8, bytes(8))[:-1] + b"!", "CRC-32C"),
        (chunk(0, 1, 8, bytes(7)), "do not belong together"),
        (chunk(1, 1, 8, bytes(8)), "do not belong together"),
        (chunk(0, 0, 8, bytes(8)), "do not belong together"),
        (chunk(0, 4, 8, bytes(2)), "do not belong together"),
        (chunk(2, 3, 2048, bytes(1)), "do not belong together"),
        (chunk(0, 2, 3000, bytes(1499)), "do not belong together"),
        (chunk(0, 1, 3, bytes(3)), "announces a message of 3 bytes"),
        (chunk(2, 2, 3000, bytes(1500)), "do not belong together"),
        (chunk(3, 2, 3000, bytes(1500), parity=1), "do not belong together"),
        (chunk(2, 2, 2999, bytes(1499), parity=1), "do not belong together"),
        (chunk(0, 2, 3000, bytes(1500), parity=65), "do not belong together"),
        (chunk(0, 250, 256_000, bytes(1024), parity=7), "do not belong together"),
        (chunk(0, 400, 2**32 - 1, bytes(1024)), "announces a message of 4294967295 bytes"),
    ],
)
def test_a_damaged_or_hostile_chunk_is_refused(data: bytes, reason: str) -> None:
    reassembler = Reassembler()
    with pytest.raises(WireError, match=reason):
        reassembler.add("d", data)
    assert reassembler.pending_messages == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 70_000), st.integers(0, 70_000), st.integers(0, 2**32 - 1))
def test_random_chunks_raise_wire_errors_only(data: bytes, index: int, count: int, total: int) -> None:
    reassembler = Reassembler(max_message_bytes=10_000, max_messages=2)
    for hostile in (data, b"MC\1\0" + data, chunk(index & 0xFFFF, count & 0xFFFF, total, data)):
        try:
            found = reassembler.add("d", hostile)
        except WireError:
            continue
        assert found is None or found == data
    assert reassembler.pending_bytes <= 40_000


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_flipped_bit_is_refused(place: int, bits: int) -> None:
    damaged = bytearray(split(message_of(6000), ID, MIN_CHUNK_BYTES)[1])
    damaged[place % len(damaged)] ^= bits
    with pytest.raises(WireError):
        Reassembler().add("d", bytes(damaged))


def test_the_oldest_of_too_many_is_dropped() -> None:
    reassembler = Reassembler(max_message_bytes=10_000, max_messages=2)
    ids = [bytes([n]) * 16 for n in range(3)]
    sent = [split(message_of(4000, n), request_id, MIN_CHUNK_BYTES) for n, request_id in enumerate(ids)]
    for first, _ in sent:
        reassembler.add("d", first)
    assert reassembler.pending_messages == 2
    assert reassembler.add("d", sent[2][1]) == message_of(4000, 2)
    assert reassembler.add("d", sent[1][1]) == message_of(4000, 1)
    assert reassembler.add("d", sent[0][1]) is None


@pytest.mark.parametrize("bound", [{"max_messages": 4}, {"max_pending_bytes": 20_000}])
def test_one_sender_does_not_push_out_another(bound: dict[str, int]) -> None:
    reassembler = Reassembler(max_message_bytes=5000, **bound)
    first, last = split(message_of(4000), ID, MIN_CHUNK_BYTES)
    assert reassembler.add("patient", first) is None
    for n in range(20):
        greedy = split(message_of(4000, n), bytes([n]) * 16, MIN_CHUNK_BYTES)
        assert reassembler.add("greedy", greedy[0]) is None
    assert reassembler.add("greedy", greedy[1]) == message_of(4000, 19)
    assert reassembler.add("patient", last) == message_of(4000)


def test_declared_bytes_are_bounded_and_not_taken() -> None:
    reassembler = Reassembler(max_message_bytes=64 << 20, max_messages=100, max_pending_bytes=100 << 20)
    size = -(-(64 << 20) // 300)
    tracemalloc.start()
    for n in range(10):
        reassembler.add("d", chunk(0, 300, 64 << 20, bytes(size), request_id=bytes([n]) * 16))
        assert reassembler.pending_bytes <= 100 << 20
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reassembler.pending_messages == 1
    assert taken < 2 * size


def test_a_message_of_one_chunk_costs_one_copy() -> None:
    message = message_of(200_000)
    (data,) = split(message, ID)
    reassembler = Reassembler()
    tracemalloc.start()
    found = reassembler.add("d", data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == message
    assert peak < 1.1 * len(message)


def test_forget_gives_the_reserve_back() -> None:
    chunks = split(message_of(4000), ID, MIN_CHUNK_BYTES)
    reassembler = Reassembler()
    reassembler.add("d", chunks[0])
    reassembler.forget("someone else", ID)
    assert reassembler.pending_bytes == 4000
    reassembler.forget("d", ID)
    assert (reassembler.pending_messages, reassembler.pending_bytes) == (0, 0)
    assert reassembler.add("d", chunks[1]) is None


@pytest.mark.parametrize(
    ("size", "request_id", "chunk_bytes"),
    [(3, ID, CHUNK_BYTES), (100, b"short", CHUNK_BYTES), (100, ID, MIN_CHUNK_BYTES - 1), (100, ID, CHUNK_BYTES + 1)],
)
def test_what_cannot_be_sent_is_not_split(size: int, request_id: bytes, chunk_bytes: int) -> None:
    with pytest.raises(WireError):
        split(bytes(size), request_id, chunk_bytes)


@pytest.mark.parametrize(("size", "parity"), [(3000, 65), (3000, -1), (500_000, 12)])
def test_too_much_parity_is_not_made(size: int, parity: int) -> None:
    with pytest.raises(WireError, match=f"{parity} parity chunks beside"):
        split(message_of(size), ID, MIN_CHUNK_BYTES, parity)
    assert split(message_of(500_000), ID, MIN_CHUNK_BYTES, 11)


def test_a_message_of_one_chunk_is_known_before_it_is_read() -> None:
    (alone,) = split(b"x" * 100, ID)
    known = peek(alone)
    assert known == Peeked(ID, 0, 1, b"xxxx", 0)
    assert known is not None
    assert known.alone
    assert message_id_of(alone) == ID
    with_parity = peek(sealed(alone[:32], b"\1", alone[33:-4]))
    assert with_parity == Peeked(ID, 0, 1, b"xxxx", 1)
    assert with_parity is not None
    assert not with_parity.alone
    assert [peek(chunk) for chunk in split(b"x" * 9000, ID, 5000)] == [Peeked(ID, i, 2, b"xxxx", 0) for i in range(2)]
    assert not Peeked(ID, 1, 2, b"xxxx", 0).alone
    assert peek(b"MC") is None
    assert peek(alone[:2] + b"\2" + alone[3:]) is None
    assert message_id_of(b"MC") is None
