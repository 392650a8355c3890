"""The product against an encoder that somebody else could have written, from the protocol's page alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.checksum import crc32c
from midstream.communication.chunks import MIN_CHUNK_BYTES, Reassembler, chunk_count, split
from midstream.communication.control import Cancel, Control, Taken, decode_control, encode_control
from midstream.communication.packs import decode_pack, encode_pack
from midstream.communication.versions import VersionNotice, decode_notice, encode_notice
from midstream.communication.wire import (
    DTYPES,
    EncodedTensor,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

from . import golden, independent
from .golden import FOLDER
from .test_chunks import message_of
from .test_control import controls
from .test_packs import messages
from .test_versions import versions
from .test_wire import replies, requests


def tensors_of(tensors: Sequence[EncodedTensor]) -> list[independent.Tensor]:
    return [(DTYPES.index(tensor.dtype), tensor.shape, bytes(tensor.data)) for tensor in tensors]


def request_of(request: Request) -> bytes:
    stages = [(request.cut, 0, ""), *((stage.cut, int(stage.runner), stage.runner_id) for stage in request.onward)]
    return independent.request(
        request_id=request.request_id,
        digest=request.bundle_digest,
        stages=stages,
        codec=request.codec,
        remaining_ms=request.deadline_ms,
        score=request.score,
        features=request.features,
        tensors=tensors_of(request.tensors),
        priority=int(request.priority),
        parity=request.takes_parity,
    )


def reply_of(reply: Reply) -> bytes:
    return independent.reply(
        request_id=reply.request_id,
        status=int(reply.status),
        codec=reply.codec,
        queue_ms=reply.queue_ms,
        compute_ms=reply.compute_ms,
        message=reply.message,
        outputs=reply.outputs,
        tensors=tensors_of(reply.tensors),
        partial=reply.partial,
    )


def control_of(control: Control) -> bytes:
    if isinstance(control, Cancel):
        return independent.cancel(control.message_id)
    if isinstance(control, Taken):
        return independent.taken(control.message_id, control.tag, control.received, control.span)
    return independent.missing(control.message_id, control.tag, control.received, control.span, control.ranges)


@settings(deadline=None)
@given(requests)
def test_requests(request: Request) -> None:
    message = request_of(request)
    assert message == encode_request(request)
    assert decode_request(message) == request


@settings(deadline=None)
@given(replies)
def test_replies(reply: Reply) -> None:
    message = reply_of(reply)
    assert message == encode_reply(reply)
    assert decode_reply(message) == reply


@settings(deadline=None)
@given(controls)
def test_control_messages(control: Control) -> None:
    payload = control_of(control)
    assert payload == encode_control(control)
    assert decode_control(payload) == control


@settings(deadline=None)
@given(messages)
def test_packs(parts: list[bytes]) -> None:
    message = independent.pack(parts)
    assert message == encode_pack(parts)
    assert [bytes(part) for part in decode_pack(message)] == parts


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16), versions)
def test_notices(request_id: bytes, spoken: tuple[int, ...]) -> None:
    payload = independent.notice(request_id, spoken)
    assert payload == encode_notice(VersionNotice(request_id, spoken))
    assert decode_notice(payload).versions == spoken


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_checksums(data: bytes) -> None:
    assert independent.crc32c(data) == crc32c(data)


@pytest.mark.parametrize(("size", "parity"), [(4, 0), (1500, 0), (1500, 2), (3000, 1), (9001, 3), (12_000, 5)])
def test_chunks_and_parity_chunks(size: int, parity: int) -> None:
    message = message_of(size)
    count = chunk_count(size, MIN_CHUNK_BYTES)
    chunks = independent.chunks(message, golden.ID, count, parity)
    assert chunks == split(message, golden.ID, MIN_CHUNK_BYTES, parity)
    # Parity that the product has not made stands for what is lost.
    reassembler = Reassembler()
    kept = chunks[parity:] if parity < count else chunks[-count:]
    assert [reassembler.add("d", chunk) for chunk in kept][-1] == message


def test_the_golden_files_can_be_written_from_the_page() -> None:
    request = request_of(golden.REQUEST)
    made = {
        "request-v1.bin": request,
        "reply-v1.bin": reply_of(golden.REPLY),
        "partial-v1.bin": reply_of(golden.PARTIAL),
        "pack-v1.bin": independent.pack(golden.pack_parts()),
        "chunk-v1.bin": independent.chunks(request, golden.ID, 1)[0],
        "parity-v1.bin": independent.chunks(golden.in_parts(), golden.ID, 2, 1)[2],
        "missing-v1.bin": control_of(golden.MISSING),
        "cancel-v1.bin": control_of(golden.CANCEL),
        "taken-v1.bin": control_of(golden.TAKEN),
        "versions.bin": independent.notice(golden.ID, golden.NOTICE.versions),
    }
    assert made == {path.name: path.read_bytes() for path in FOLDER.iterdir()} == golden.files()


def test_it_shares_no_code_with_the_product() -> None:
    source = (FOLDER.parent / "communication" / "independent.py").read_text(encoding="utf-8")
    imports = [line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert set(imports) == {"__future__", "struct", "collections.abc"}
