"""Converting again what is there: the recipe of a bundle, and the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from midstream.bundle import Bundle
from midstream.manifest import BUNDLE_FILES, COSTS_FILE
from midstream_converters.convert import convert
from midstream_converters.opening import Options
from midstream_converters.recipe import BundleCache


def write_model(path: Path, seed: int = 0) -> Path:
    graph = onnx.parser.parse_graph("g (float[1,8] x) => (float[1,8] y) { h = MatMul(x, w)\n y = Relu(h) }")
    weight = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Steps:
    """What a conversion has reported; nothing but reading where it found its work done."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.add(what)

    @property
    def worked(self) -> bool:
        return "cutting" in self.seen


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


@pytest.fixture
def cache(tmp_path: Path) -> BundleCache:
    return BundleCache(tmp_path / "cache")


def convert_once(model: Path, target: Path, options: Options | None = None, cache: BundleCache | None = None) -> bool:
    steps = Steps()
    convert(model, target, options or Options(), steps, cache)
    Bundle.open(target)
    return steps.worked


def test_what_is_there_is_not_converted_again(model: Path, tmp_path: Path) -> None:
    assert convert_once(model, tmp_path / "bundle")
    assert not convert_once(model, tmp_path / "bundle")


@pytest.mark.parametrize("change", ["model", "options", "damage", "calibration"])
def test_another_recipe_is_converted(model: Path, tmp_path: Path, change: str) -> None:
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=np.ones((1, 8), np.float32))
    options = Options(calibration=samples)
    assert convert_once(model, tmp_path / "bundle", options)
    if change == "model":
        write_model(model, seed=1)
    elif change == "options":
        options = Options(calibration=samples, tolerance=1e-6)
    elif change == "calibration":
        np.savez(samples, x=np.zeros((1, 8), np.float32))
    else:
        (tmp_path / "bundle" / COSTS_FILE).write_bytes(b"{}")
    assert convert_once(model, tmp_path / "bundle", options)


def test_external_data_is_part_of_the_recipe(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx")
    proto = onnx.load(model)
    onnx.save(proto, model, save_as_external_data=True, location="weights.data", size_threshold=0)
    assert convert_once(model, tmp_path / "bundle")
    data = bytearray((tmp_path / "weights.data").read_bytes())
    data[3] ^= 1
    (tmp_path / "weights.data").write_bytes(data)
    assert convert_once(model, tmp_path / "bundle")


def test_another_target_is_filled_from_the_cache(model: Path, tmp_path: Path, cache: BundleCache) -> None:
    assert convert_once(model, tmp_path / "one", cache=cache)
    assert not convert_once(model, tmp_path / "two", cache=cache)
    for name in BUNDLE_FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_damaged_entry_is_replaced(model: Path, tmp_path: Path, cache: BundleCache) -> None:
    convert_once(model, tmp_path / "one", cache=cache)
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "weights.bin").write_bytes(b"rubbish")
    assert convert_once(model, tmp_path / "two", cache=cache)
    assert not convert_once(model, tmp_path / "three", cache=cache)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    models = [write_model(tmp_path / f"m{seed}.onnx", seed) for seed in range(3)]
    convert_once(models[0], tmp_path / "sized")
    size = sum(file.stat().st_size for file in (tmp_path / "sized").iterdir())
    cache = BundleCache(tmp_path / "cache", max_bytes=int(2.5 * size))
    for number in (0, 1, 0, 2):
        convert_once(models[number], tmp_path / "bundle", cache=cache)
        shutil.rmtree(tmp_path / "bundle")
    kept = {Bundle.open(entry).name for entry in (tmp_path / "cache").iterdir()}
    assert kept == {"m0", "m2"}


def test_a_cache_that_cannot_be_written_changes_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert convert_once(model, tmp_path / "one", cache=BundleCache(tmp_path / "file" / "cache"))


def test_two_conversions_give_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert convert_once(model, tmp_path / name)
    for name in BUNDLE_FILES - {COSTS_FILE}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
