"""A bundle as the gateway serves it, without a broker: its copies, what it expects, the largest request it takes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from midstream.bundle import Bundle
from midstream.communication.wire import EncodedTensor, Request, Runner, Stage
from midstream.errors import BundleError
from midstream.gateway.served import WHOLE_KEY, ServedBundle
from midstream.manifest import COSTS_FILE, WEIGHTS_FILE, SliceCost
from midstream.sealed import costs_to_bytes
from midstream_converters.convert import convert
from midstream_converters.opening import Options


@pytest.fixture(scope="module")
def faces(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("served") / "faces"
    convert(assets / "models" / "face_detection_short_range.tflite", target, Options(max_cuts=3))
    return target


def asked(served: ServedBundle, cut: str = "", *onward: str) -> Request:
    stages = tuple(Stage(later, Runner.GATEWAY, "next") for later in onward)
    return Request(bytes(16), served.digest, cut, "raw", 1000, 0.0, (), (), onward=stages)


def test_every_worker_has_its_own_copy(faces: Path) -> None:
    served = ServedBundle(faces, workers=3)
    assert len({id(bundle) for bundle in served.bundles}) == 3
    opened = Bundle.open(faces)
    assert (served.name, served.digest) == (opened.name, opened.digest)


def test_a_damaged_bundle_is_not_served(faces: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        ServedBundle(faces.parent, workers=1)


def test_it_knows_its_cuts_and_the_whole_input(faces: Path) -> None:
    served = ServedBundle(faces, workers=1)
    assert served.unknown_stage(asked(served)) is None
    assert all(served.unknown_stage(asked(served, cut.id)) is None for cut in Bundle.open(faces).cuts)
    for unknown in ("c999", WHOLE_KEY):
        assert f"has no cut '{unknown}'" in (served.unknown_stage(asked(served, unknown)) or "")


def test_a_stage_that_is_not_the_last_needs_a_slice_between_its_cuts(faces: Path) -> None:
    served, manifest = ServedBundle(faces, workers=1), Bundle.open(faces).manifest
    first, second = manifest.middles()[0]
    assert served.unknown_stage(asked(served, first, second)) is None
    assert served.unknown_stage(asked(served, "", first)) is None
    assert "no slice from cut" in (served.unknown_stage(asked(served, second, first)) or "")
    assert "has no cut 'c999'" in (served.unknown_stage(asked(served, first, "c999")) or "")


def test_it_expects_of_a_stage_what_lies_between_its_tails_until_it_has_run(faces: Path) -> None:
    served = ServedBundle(faces, workers=1)
    first, second = served.bundles[0].manifest.middles()[0]
    between = served.expected_ms(first) - served.expected_ms(second)
    assert served.expected_ms(first, second) == max(0.0, between)
    tail_ms = served.expected_ms(first)
    served.ran(first, 2 * between, second)
    assert served.expected_ms(first, second) == pytest.approx(1.2 * between)
    assert served.expected_ms(first) == tail_ms


def test_what_cannot_be_meant_is_told_from_the_table_alone(faces: Path) -> None:
    served = ServedBundle(faces, workers=1)
    cut = served.bundles[0].cuts[-1]
    (spec,) = cut.tensors
    shape = tuple(size or 1 for size in spec.shape)
    right = EncodedTensor(shape, spec.dtype, b"")

    def misfit(*tensors: EncodedTensor, codec: str = "raw", size_bytes: int = 1000) -> str:
        request = replace(asked(served, cut.id), tensors=tensors, codec=codec)
        return served.misfit(request, size_bytes) or ""

    assert not misfit(right)
    assert not misfit(right, size_bytes=2 * cut.payload_bytes)
    assert "bytes; " in misfit(right, size_bytes=2 * cut.payload_bytes + (64 << 10) + 1)
    assert "2 tensors came, needed 1" in misfit(right, right)
    assert "came as float64" in misfit(replace(right, dtype=np.dtype(np.float64)))
    assert "came as float32" in misfit(replace(right, shape=(*shape, 2)))
    assert "zip" in misfit(right, codec="zip")


def test_before_it_has_measured_it_expects_what_the_converter_measured(faces: Path) -> None:
    served, costs = ServedBundle(faces, workers=1), Bundle.open(faces).costs
    assert served.expected_ms("") == costs.whole_ms
    assert {cut: served.expected_ms(cut) for cut in costs.cuts} == {cut: c.tail_ms for cut, c in costs.cuts.items()}
    assert served.expected_ms("c999") == 0.0
    told = served.tail_ms()
    assert set(told) == {WHOLE_KEY, *costs.cuts}
    assert told[WHOLE_KEY] == round(costs.whole_ms, 2)


def test_measuring_scales_every_expectation_alike(faces: Path, tmp_path: Path) -> None:
    slow = Path(shutil.copytree(faces, tmp_path / "slow"))
    costs = Bundle.open(faces).costs
    slower = {cut: SliceCost(cost.head_ms, 1e4 * cost.tail_ms) for cut, cost in costs.cuts.items()}
    (slow / COSTS_FILE).write_bytes(
        costs_to_bytes(replace(costs, machine="slow", whole_ms=1e4 * costs.whole_ms, cuts=slower))
    )
    served = ServedBundle(slow, workers=2)
    assert served.expected_ms("") == 1e4 * costs.whole_ms
    served.measure()
    assert 0.0 < served.expected_ms("") < 1e3 * costs.whole_ms
    factor = served.expected_ms("") / costs.whole_ms
    for cut_id, cost in costs.cuts.items():
        assert served.expected_ms(cut_id) == pytest.approx(factor * cost.tail_ms)


def test_measuring_loads_the_whole_model_in_every_worker(faces: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(faces, tmp_path / "copy"))
    served = ServedBundle(copy, workers=2)
    served.measure()
    (copy / WEIGHTS_FILE).unlink()
    blank = {"input": np.zeros((1, 128, 128, 3), np.float32)}
    for bundle in served.bundles:
        assert set(bundle.run(blank)) == {"regressors", "classificators"}


def test_runs_that_were_slow_once_are_forgotten_where_none_is_let_in_any_more(faces: Path) -> None:
    now = [100.0]
    served = ServedBundle(faces, workers=1, clock=lambda: now[0])
    first, second = served.bundles[0].manifest.middles()[0]
    before = {stage: served.expected_ms(*stage) for stage in ((first, None), (first, second))}
    for _ in range(20):
        served.ran(first, 1e6)
        served.ran(first, 1e6, second)
    slow = served.expected_ms(first)
    assert slow > 100 * before[first, None]
    now[0] += 30.0
    assert served.expected_ms(first) == pytest.approx((before[first, None] + slow) / 2)
    now[0] += 3000.0
    assert {stage: served.expected_ms(*stage) for stage in before} == pytest.approx(before)
    assert served.tail_ms()[first] == round(before[first, None], 2)


@pytest.mark.parametrize("cut", ["", "known"])
def test_expectations_approach_what_runs_take(faces: Path, cut: str) -> None:
    served = ServedBundle(faces, workers=1)
    cut = cut and served.bundles[0].cuts[0].id
    first = served.expected_ms(cut)
    others = {key: value for key, value in served.tail_ms().items() if key != (cut or WHOLE_KEY)}
    served.ran(cut, first / 2)
    assert served.expected_ms(cut) == pytest.approx(0.9 * first)
    for _ in range(40):
        served.ran(cut, 3 * first)
    assert served.expected_ms(cut) == pytest.approx(3 * first, rel=0.01)
    assert others == {key: value for key, value in served.tail_ms().items() if key != (cut or WHOLE_KEY)}


def test_one_run_that_hung_does_not_frighten_requests_away(faces: Path) -> None:
    served = ServedBundle(faces, workers=1)
    first = served.expected_ms("")
    served.ran("", 1e9)
    assert served.expected_ms("") == pytest.approx(1.6 * first)


def test_the_largest_request_is_twice_what_crosses_and_room_for_the_frame(faces: Path) -> None:
    bundle = Bundle.open(faces)
    largest = max(bundle.input_bytes, *(cut.payload_bytes for cut in bundle.cuts))
    assert 2 * largest < ServedBundle(faces, workers=1).max_request_bytes < 2 * largest + (1 << 17)


def test_a_dynamic_size_may_grow_but_not_without_end(tmp_path: Path) -> None:
    bounds = []
    for rows, columns in (("3", 4000), ("N", 4000), ("N", 400_000)):
        parsed = onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["" : 17]>
            g (float[{rows},{columns}] x) => (float[{rows},{columns}] y) {{ a = Tanh(x)\n y = Tanh(a) }}"""
        )
        onnx.save(parsed, tmp_path / "model.onnx")
        target = tmp_path / f"{rows}-{columns}"
        convert(tmp_path / "model.onnx", target, Options(max_cuts=1, shapes={"x": (3, columns)}))
        bounds.append(ServedBundle(target, workers=1).max_request_bytes)
    fixed, free, large = bounds
    assert 4 * fixed < free < 16 * fixed
    assert 16 * 3 * 400_000 * 4 > large == 64 << 20
