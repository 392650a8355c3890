"""Slices kept loaded in workers' copies, and given up for what is more useful."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from midstream.allocation.usage import Partition
from midstream.gateway.served import ServedBundle
from midstream.gateway.warming import Warmth, slice_of
from midstream.manifest import SLICES_FILE, tail_name
from midstream_converters.convert import convert
from midstream_converters.opening import Options


@pytest.fixture(scope="module")
def faces(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("warming") / "faces"
    convert(assets / "models" / "face_detection_short_range.tflite", target, Options(max_cuts=3))
    return target


@pytest.fixture
def served(faces: Path) -> ServedBundle:
    return ServedBundle(faces, workers=2)


def stages(served: ServedBundle) -> list[Partition]:
    digest, bundle = served.digest.hex(), served.bundles[0]
    first, second = bundle.manifest.middles()[0]
    tails = [Partition(digest, cut.id) for cut in bundle.cuts]
    return [Partition(digest, ""), *tails, Partition(digest, first, second), Partition(digest, "", first)]


def test_every_stage_has_its_slice(served: ServedBundle) -> None:
    warmth = Warmth({served.digest.hex(): served})
    for stage in stages(served):
        assert slice_of(stage) in served.bundles[0].manifest.slices
        assert warmth.memory_bytes(stage) > 10_000
        warmth.warm([stage], 2)
        assert warmth.loaded(stage) == 2
        assert 0.0 < warmth.load_s(stage) < 60.0
    assert warmth.all_loaded() == dict.fromkeys(stages(served), 2)


def test_longer_stages_hold_more(served: ServedBundle) -> None:
    warmth, digest = Warmth({served.digest.hex(): served}), served.digest.hex()
    sizes = [warmth.memory_bytes(Partition(digest, cut.id)) for cut in served.bundles[0].cuts]
    assert sizes == sorted(sizes, reverse=True)
    assert warmth.memory_bytes(Partition(digest, "")) >= sizes[0]


def test_only_the_workers_in_use_get_a_copy(served: ServedBundle) -> None:
    warmth, tail = Warmth({served.digest.hex(): served}), stages(served)[1]
    warmth.warm([tail], 1)
    assert [slice_of(tail) in bundle.loaded for bundle in served.bundles] == [True, False]


def test_what_is_to_be_kept_is_given_up_last_and_nothing_while_there_is_room(served: ServedBundle) -> None:
    warmth = Warmth({served.digest.hex(): served})
    whole, first, second = stages(served)[:3]
    warmth.warm([whole, first, second], 2)
    warmth.evict([], 2, math.inf)
    assert warmth.all_loaded() == {whole: 2, first: 2, second: 2}
    room = 2 * warmth.memory_bytes(first) + warmth.memory_bytes(second)
    warmth.evict([first], 2, room)
    held = warmth.all_loaded()
    assert held[first] == 2
    assert sum(warmth.memory_bytes(stage) * count for stage, count in held.items()) <= room
    # Of a worker that takes no jobs, nothing needs to be kept.
    warmth.evict([first], 1, warmth.memory_bytes(first))
    assert warmth.all_loaded() == {first: 1}
    assert slice_of(first) in served.bundles[0].loaded


def test_what_was_given_up_is_loaded_again_by_who_needs_it(served: ServedBundle) -> None:
    warmth, whole = Warmth({served.digest.hex(): served}), stages(served)[0]
    warmth.warm([whole], 1)
    warmth.evict([], 1, 0.0)
    assert warmth.all_loaded() == {}
    assert served.bundles[0].measure_whole_ms(1) > 0.0
    assert warmth.all_loaded() == {whole: 1}


_WIDE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 64, 64, 8] x) => (float[1, 64, 64, 8] y) {
  a = Relu(x)
  b = MatMul(a, w)
  c = Relu(b)
  y = MatMul(c, w)
}
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So much crosses that there are tails that decode by themselves."""
    folder = tmp_path_factory.mktemp("wide")
    model = onnx.parser.parse_model(_WIDE)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(model, folder / "wide.onnx")
    convert(folder / "wide.onnx", folder / "bundle", Options())
    return folder / "bundle"


def test_a_tail_that_decodes_by_itself_takes_memory_too(wide: Path) -> None:
    served = ServedBundle(wide, workers=2)
    warmth, cut = Warmth({served.digest.hex(): served}), served.bundles[0].cuts[0].id
    tail, plain, coding = Partition(served.digest.hex(), cut), tail_name(cut), tail_name(cut, "int8")
    for bundle in served.bundles:
        bundle.load_slice(coding)
    assert warmth.all_loaded() == {tail: 2}
    warmth.warm([tail], 2)
    assert all(bundle.loaded == {coding} for bundle in served.bundles)
    for bundle in served.bundles:
        bundle.load_slice(plain)
    assert warmth.loaded(tail) == 4
    warmth.evict([tail], 2, 2 * warmth.memory_bytes(tail))
    assert all(bundle.loaded == {coding} for bundle in served.bundles)
    warmth.evict([], 2, 0.0)
    assert not any(bundle.loaded for bundle in served.bundles)


def test_a_bundle_whose_folder_is_gone_still_has_its_sizes(faces: Path, tmp_path: Path) -> None:
    served = ServedBundle(Path(shutil.copytree(faces, tmp_path / "copy")), workers=1)
    warmth, stage = Warmth({served.digest.hex(): served}), stages(served)[1]
    (tmp_path / "copy" / SLICES_FILE).unlink()
    assert warmth.memory_bytes(stage) > 10_000
    warmth.warm([stage], 1)
    assert warmth.all_loaded() == {}
