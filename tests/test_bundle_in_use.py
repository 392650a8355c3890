"""A bundle whose files are replaced while it is open never computes with what was not checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.errors import BundleError
from midstream.manifest import WEIGHTS_FILE
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODELS = ["face_detection_short_range.tflite", "ch_ppocr_mobile_v2.0_cls_infer.onnx"]


def convert_again(model: Path, folder: Path) -> None:
    convert(model, folder, Options(max_cuts=1))


def put_a_copy_in_its_place(_model: Path, folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("other"))
    shutil.rmtree(folder)
    folder.with_name("other").rename(folder)


def change_a_weight(_model: Path, folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[len(content) // 2] ^= 0x80
    (folder / WEIGHTS_FILE).write_bytes(content)


@pytest.mark.parametrize("change", [convert_again, put_a_copy_in_its_place, change_a_weight])
@pytest.mark.parametrize("name", MODELS)
def test_what_was_loaded_stays_and_nothing_else_is_loaded(
    assets: Path, tmp_path: Path, name: str, change: Callable[[Path, Path], None]
) -> None:
    model, folder = assets / "models" / name, tmp_path / "bundle"
    convert(model, folder, Options(max_cuts=2))
    bundle = Bundle.open(folder)
    shapes = bundle.manifest.sample_shapes
    inputs = {spec.name: np.ones(shapes[spec.name], spec.dtype) for spec in bundle.inputs}
    wanted = bundle.run(inputs)
    change(model, folder)
    for _ in range(2):
        with pytest.raises(BundleError, match="since the bundle was opened; open it again"):
            bundle.run_split(inputs, cut=bundle.cuts[0].id)
    with pytest.raises(BundleError, match="open it again"):
        _ = bundle.graph
    assert all(np.array_equal(wanted[output], value) for output, value in bundle.run(inputs).items())
    if change is not change_a_weight:
        again = Bundle.open(folder)
        assert all(
            np.array_equal(wanted[output], value)
            for output, value in again.run_split(inputs, cut=again.cuts[0].id).items()
        )


def test_a_path_that_can_be_none_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="no file can have this name"):
        Bundle.open("a\0b")
