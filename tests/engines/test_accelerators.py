"""What is asked for is there, or an error says what is missing. No accelerator is in the machines that run this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from midstream.bundle import Bundle
from midstream.engines import engine_for
from midstream.engines import onnx as onnx_engine
from midstream.errors import AcceleratorError, BundleError
from midstream.manifest import EDGETPU_SUFFIX
from midstream_converters.convert import convert
from midstream_converters.opening import Options

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accelerated")
    for name in ("digits_float32.onnx", "digits_int8.tflite"):
        convert(MODELS / name, folder / Path(name).stem, Options(max_cuts=2))
    return folder


@pytest.mark.parametrize(
    ("bundle", "accelerator", "said"),
    [
        ("digits_float32", "edgetpu", r"an ONNX bundle runs on cpu, cuda, tensorrt, not on 'edgetpu'"),
        ("digits_int8", "cuda", r"a LiteRT bundle runs on cpu, edgetpu, not on 'cuda'"),
        ("digits_int8", "gpu", r"no accelerator is called 'gpu'; there are cpu, cuda, tensorrt, edgetpu"),
    ],
)
def test_what_an_engine_does_not_know_is_refused(bundles: Path, bundle: str, accelerator: str, said: str) -> None:
    with pytest.raises(AcceleratorError, match=said):
        Bundle.open(bundles / bundle, accelerator=accelerator)  # type: ignore[arg-type]


@pytest.mark.parametrize("accelerator", ["cuda", "tensorrt"])
def test_a_missing_provider_is_named_with_what_is_there(
    bundles: Path, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        AcceleratorError, match=r"has no \w+ExecutionProvider here, only CPUExec.*onnxruntime-gpu.*cpu$"
    ):
        Bundle.open(bundles / "digits_float32", accelerator=accelerator)  # type: ignore[arg-type]


def test_a_provider_that_does_not_start_is_no_silent_fallback(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with onnxruntime-gpu where CUDA's libraries are missing: it is listed, and then the processor does it all."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    created = ort.InferenceSession

    def without_cuda(*arguments: object, providers: list[str], **named: object) -> ort.InferenceSession:
        assert providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]
        assert named.pop("provider_options") == [{"use_tf32": "0"}, {}]
        return created(*arguments, providers=providers[1:], **named)

    monkeypatch.setattr(ort, "InferenceSession", without_cuda)
    bundle = Bundle.open(bundles / "digits_float32", accelerator="cuda")
    with pytest.raises(AcceleratorError, match="knows CUDAExecutionProvider but cannot start it"):
        bundle.prepare(None)


AZURE = "AzureExecutionProvider"


@pytest.mark.skipif(AZURE not in ort.get_available_providers(), reason="this onnxruntime was built without it")
def test_a_provider_that_takes_no_layer_is_no_silent_fallback(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's provider is listed, starts, and takes none: it stands for CUDA with a model that CUDA does not take."""
    monkeypatch.setitem(onnx_engine._PROVIDERS, "cuda", (AZURE, "CPUExecutionProvider"))  # type: ignore[attr-defined]
    bundle = Bundle.open(bundles / "digits_float32", accelerator="cuda")
    with pytest.raises(AcceleratorError, match=rf"{AZURE} takes none of the \d+ layers of slice 'whole.onnx': .*Conv"):
        bundle.prepare(None)


def test_a_provider_that_raises_is_not_the_bundles_fault(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorRT's does where its libraries are missing."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["TensorrtExecutionProvider", "CPUExecutionProvider"])

    def refuse(*_: object, provider_options: list[dict[str, str]], **__: object) -> None:
        assert provider_options == [{}, {"use_tf32": "0"}, {}]
        raise RuntimeError("Please install TensorRT libraries")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    bundle = Bundle.open(bundles / "digits_float32", accelerator="tensorrt")
    with pytest.raises(
        AcceleratorError, match=r"Please install TensorRT libraries; install TensorRT, .*run on the cpu"
    ):
        bundle.prepare(None)


def test_a_missing_edge_tpu_runtime_is_named(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midstream.engines.litert._EDGETPU_LIBRARY", "libedgetpu.not.there")
    with pytest.raises(AcceleratorError, match=r"libedgetpu.not.there does not load .*libedgetpu1-std.*cpu$"):
        Bundle.open(bundles / "digits_int8", accelerator="edgetpu")


def test_without_compiled_slices_there_is_nothing_for_the_edge_tpu(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstream.engines.litert._delegates", lambda _accelerator: [])
    with pytest.raises(AcceleratorError, match=r"has no slice compiled for the Edge TPU; .*--edgetpu"):
        Bundle.open(bundles / "digits_int8", accelerator="edgetpu")
    assert not any(name.endswith(EDGETPU_SUFFIX) for name in Bundle.open(bundles / "digits_int8").manifest.slices)


def test_the_processor_is_always_there() -> None:
    for name in ("onnx", "litert"):
        engine_for(name).require("cpu")  # type: ignore[arg-type]


def test_errors_of_the_bundle_come_first(bundles: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Bundle.open(tmp_path, accelerator="cuda")
    assert np.isfinite(Bundle.open(bundles / "digits_float32").costs.whole_ms)
