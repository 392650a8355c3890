"""Calibrated bundles between a device and a gateway: what is planned, and what travels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.calibrating import calibrate, read_inputs, write_ladder
from midstream.communication.codecs import rungs
from midstream.communication.wire import EncodedTensor
from midstream.errors import PlanError
from midstream.ladder import Ladder
from midstream.manifest import SliceCost
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

from .conftest import WAIT_S, device_with_gateway

MODELS = Path(__file__).resolve().parent.parent / "models"
ZSTD_METHOD = 2
# A gateway on a machine without the library.
WITHOUT_ZSTD = (
    "import importlib.util as util; found = util.find_spec; "
    "util.find_spec = lambda name, *rest: None if name == 'zstandard' else found(name, *rest); "
    "from midstream.cli.main import run; run()"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody has calibrated."""
    target = tmp_path_factory.mktemp("ladder") / "digits"
    convert(MODELS / "digits_float32.tflite", target, Options(max_cuts=2))
    return target


def ladder_of(path: Path, codec: str) -> Ladder:
    """The ladder of a bundle with this codec at the first cut."""
    bundle = Bundle.open(path)
    samples = read_inputs(bundle, MODELS / "digits_calibration.npz")
    return calibrate(bundle, samples, codecs=[codec], cuts=[bundle.cuts[0].id], min_agreement=0.0).ladder


@pytest.fixture(scope="module")
def measured(plain: Path) -> Ladder:
    return ladder_of(plain, "step0.25")


def favouring(ladder: Ladder, codec: str) -> Ladder:
    """The same, but that everything else takes a terabyte, and this codec 0.98 of the answers and no time."""
    changes = {"payload_bytes": 64.0, "agreement": 0.98, "encode_ms": 0.0, "decode_ms": 0.0, "size": None}
    return replace(
        ladder,
        places=tuple(
            replace(
                place,
                rungs=tuple(
                    replace(rung, **(changes if rung.codec == codec else {"payload_bytes": 1e12}))  # type: ignore[arg-type]
                    for rung in place.rungs
                ),
            )
            for place in ladder.places
        ),
    )


@pytest.fixture
def calibrated(plain: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The bundle with a ladder that favours a codec."""

    def make(codec: str) -> Path:
        target = Path(shutil.copytree(plain, tmp_path / codec))
        write_ladder(Bundle.open(target), favouring(ladder_of(plain, codec), codec))
        return target

    return make


def slow(path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The bundle on a board that finds itself to take half a minute, of which the first head takes a hundredth."""
    bundle = Bundle.open(path)
    first, *others = (cut.id for cut in bundle.cuts)
    costs = {first: SliceCost(0.01, 0.99), **dict.fromkeys(others, SliceCost(1.0, 0.0))}
    bundle.costs = replace(bundle.costs, whole_ms=1.0, cuts=costs)
    monkeypatch.setattr(bundle, "measure_whole_ms", lambda: 30_000.0)
    return bundle


@pytest.fixture
def digit() -> Tensors:
    return {"image": np.load(MODELS / "digits_calibration.npz")["image"][0]}


@pytest.fixture
def image(plain: Path, digit: Tensors) -> Tensors:
    (spec,) = Bundle.open(plain).inputs
    return {spec.name: digit["image"]}


def test_a_lossy_rung_is_planned_where_less_than_all_will_do(
    broker: Broker,
    start_gateway: Any,
    plain: Path,
    calibrated: Callable[[str], Path],
    image: Tensors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Without the ladder, too, a gateway decodes it.
    start_gateway(broker, "ladder-1", bundle=plain)
    device_bundle = slow(calibrated("step0.25"), monkeypatch)
    whole = device_bundle.run(image)
    for agreement, lossy in ((0.97, True), (1.0, False)):
        with device_with_gateway(device_bundle, broker.url, min_agreement=agreement) as device:
            result = device.infer(image)
            if lossy:
                assert (result.plan.codec, result.ran_on[-1]) == ("step0.25", "gateway"), result.fallback
                assert result.sent_bytes < device_bundle.cuts[0].payload_bytes
                assert {name: value.shape for name, value in result.outputs.items()} == {
                    name: value.shape for name, value in whole.items()
                }
            else:
                assert not result.plan.offloads
                assert all(np.array_equal(result.outputs[name], value) for name, value in whole.items())


@pytest.mark.parametrize("gateway_has_bases", [True, False])
def test_klt_is_planned_only_where_the_gateway_has_the_bases(
    broker: Broker,
    start_gateway: Any,
    plain: Path,
    calibrated: Callable[[str], Path],
    image: Tensors,
    monkeypatch: pytest.MonkeyPatch,
    gateway_has_bases: bool,
) -> None:
    with_ladder = calibrated("klt0.25")
    start_gateway(broker, f"ladder-klt-{gateway_has_bases}", bundle=with_ladder if gateway_has_bases else plain)
    bundle = slow(with_ladder, monkeypatch)
    with device_with_gateway(bundle, broker.url, min_agreement=0.9) as device:
        result = device.infer(image)
        assert (result.plan.codec == "klt0.25") == gateway_has_bases, result.plan.why
        forced = device.infer(image, cut=bundle.cuts[0].id, codec="klt0.25")
        assert forced.plan.codec == "klt0.25"
        if gateway_has_bases:
            assert result.ran_on == forced.ran_on == ("device", "gateway"), (result.fallback, forced.fallback)
        else:
            assert forced.ran_on == ("device",)
            assert "a basis that this bundle does not hold" in (forced.fallback or "")


@pytest.mark.parametrize("device_has_it", [True, False])
def test_a_codec_is_planned_only_where_the_device_has_its_library(
    broker: Broker,
    start_gateway: Any,
    plain: Path,
    measured: Ladder,
    tmp_path: Path,
    image: Tensors,
    monkeypatch: pytest.MonkeyPatch,
    device_has_it: bool,
) -> None:
    start_gateway(broker, f"ladder-sound-{device_has_it}", bundle=plain)
    target = Path(shutil.copytree(plain, tmp_path / "digits"))
    places = tuple(
        replace(place, rungs=(*place.rungs, replace(place.rungs[-1], codec="flac", lossless=False)))
        if place.cut is None
        else place
        for place in measured.places
    )
    write_ladder(Bundle.open(target), favouring(replace(measured, places=places), "flac"))
    bundle = slow(target, monkeypatch)
    if not device_has_it:
        found = rungs.find_spec
        monkeypatch.setattr(rungs, "find_spec", lambda name: None if name == "soundfile" else found(name))
    with device_with_gateway(bundle, broker.url, min_agreement=0.9) as device:
        plan = device.infer(image).plan
    assert (plan.codec == "flac") == device_has_it, plan.why


@pytest.fixture
def gateway_without_zstd(broker: Broker, plain: Path) -> Iterator[None]:
    command = [sys.executable, "-c", WITHOUT_ZSTD, "gateway", "--bundles", str(plain), "--broker", broker.url]
    with subprocess.Popen([*command, "--id", "bare", "--workers", "1"], stderr=subprocess.DEVNULL) as process:
        yield
        process.terminate()
        process.wait(WAIT_S)


def sent_methods(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How what this bundle encodes from now on is packed."""
    methods: list[int] = []
    encode = bundle.encode

    def noted(*arguments: Any, **options: Any) -> tuple[EncodedTensor, ...]:
        encoded = encode(*arguments, **options)
        methods.extend(tensor.data[0] & 0x0F for tensor in encoded)
        return encoded

    monkeypatch.setattr(bundle, "encode", noted)
    return methods


def zstd_bundle(plain: Path, measured: Ladder, target: Path) -> Bundle:
    """Calibrated so that everything is packed as zstd."""
    shutil.copytree(plain, target)
    places = tuple(
        replace(place, rungs=tuple(replace(rung, entropy="zstd") for rung in place.rungs)) for place in measured.places
    )
    write_ladder(Bundle.open(target), replace(measured, places=places))
    return Bundle.open(target)


@pytest.mark.usefixtures("gateway_without_zstd")
def test_a_gateway_without_zstd_gets_none(
    broker: Broker, plain: Path, measured: Ladder, tmp_path: Path, image: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = zstd_bundle(plain, measured, tmp_path / "digits")
    methods = sent_methods(bundle, monkeypatch)
    with device_with_gateway(bundle, broker.url) as device:
        for codec in ("lossless", "step0.25"):
            result = device.infer(image, cut=bundle.cuts[0].id, codec=codec)
            assert result.ran_on == ("device", "gateway"), result.fallback
    assert len(methods) == 2
    assert ZSTD_METHOD not in methods


def test_a_gateway_with_zstd_gets_it(
    broker: Broker,
    start_gateway: Any,
    plain: Path,
    measured: Ladder,
    tmp_path: Path,
    image: Tensors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_gateway(broker, "ladder-3", bundle=plain)
    bundle = zstd_bundle(plain, measured, tmp_path / "digits")
    methods = sent_methods(bundle, monkeypatch)
    with device_with_gateway(bundle, broker.url) as device:
        result = device.infer(image, cut=bundle.cuts[0].id, codec="lossless")
        assert result.ran_on == ("device", "gateway"), result.fallback
    assert methods == [ZSTD_METHOD]


def test_sizes_are_learned_by_all_threads_at_once(
    broker: Broker, start_gateway: Any, plain: Path, measured: Ladder, tmp_path: Path, image: Tensors
) -> None:
    start_gateway(broker, "ladder-4", bundle=plain)
    target = Path(shutil.copytree(plain, tmp_path / "digits"))
    write_ladder(Bundle.open(target), measured)
    bundle = Bundle.open(target)
    cut = bundle.cuts[0].id
    with device_with_gateway(bundle, broker.url, min_agreement=0.5) as device, ThreadPoolExecutor(6) as pool:
        # Codecs that were never calibrated grow the tables while others read them.
        codecs = ["step0.25", "int8", "step0.5", "lossless", *(f"step0.{n}" for n in range(31, 49) if n % 10)]
        forced = [pool.submit(device.infer, image, cut=cut, codec=codec) for codec in codecs]
        planned = [pool.submit(device.infer, image) for _ in range(12)]
        for future in forced:
            result = future.result(WAIT_S)
            assert result.ran_on == ("device", "gateway"), result.fallback
        for future in planned:
            future.result(WAIT_S)
        known = device.infer(image, cut=cut, codec="int8")
        again = device.infer(image, cut=cut, codec="int8")
    # What was sent is what is expected next.
    assert known.plan.payload_bytes == again.plan.payload_bytes
    assert 0 < again.plan.payload_bytes < bundle.cuts[0].payload_bytes


def test_an_input_that_is_no_number_is_answered(
    broker: Broker, start_gateway: Any, plain: Path, measured: Ladder, tmp_path: Path, image: Tensors
) -> None:
    start_gateway(broker, "ladder-5", bundle=plain)
    target = Path(shutil.copytree(plain, tmp_path / "digits"))
    write_ladder(Bundle.open(target), measured)
    bundle = Bundle.open(target)
    odd = {name: np.full_like(value, np.nan) for name, value in image.items()}
    with device_with_gateway(bundle, broker.url, min_agreement=0.5) as device:
        for options in ({}, {"cut": bundle.cuts[0].id, "codec": "step0.25"}, {"cut": "input", "codec": "int8"}):
            found = device.infer(odd, **options).outputs
            assert all(np.array_equal(found[name], value, equal_nan=True) for name, value in bundle.run(odd).items())


def test_the_input_of_a_model_with_state_is_said_to_stay(tmp_path: Path) -> None:
    from midstream.device import Device

    convert(MODELS / "keyword_lstm_stream.tflite", tmp_path / "lstm", Options(max_cuts=1))
    with pytest.raises(PlanError, match="the input of bundle 'keyword_lstm_stream' never travels"):
        Device(tmp_path / "lstm", "mqtt://127.0.0.1:9").check_plan("input", "raw")


def test_run_takes_a_calibrated_bundle(
    broker: Broker, start_gateway: Any, plain: Path, calibrated: Callable[[str], Path], image: Tensors, tmp_path: Path
) -> None:
    import json

    bundle = calibrated("klt0.25")
    start_gateway(broker, "ladder-6", bundle=bundle)
    np.savez(tmp_path / "one.npz", **image)  # type: ignore[arg-type]
    cut = Bundle.open(bundle).cuts[0].id
    for options in (["--cut", cut, "--codec", "klt0.25"], ["--min-agreement", "0.97"]):
        command = [sys.executable, "-m", "midstream.cli.main", "run", str(bundle), "--broker", broker.url]
        command += ["--input", str(tmp_path / "one.npz"), *options, "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        (result,) = json.loads(ended.stdout)["results"]
        if "--cut" in options:
            assert (result["plan"]["codec"], result["ran_on"]) == ("klt0.25", ["device", "gateway"]), result["fallback"]
        else:
            assert result["fallback"] is None
