"""What is a Keras model and what is not, told without TensorFlow."""

from __future__ import annotations

import json
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from midstream.errors import InputError, MissingExtraError, ModelError
from midstream_converters.convert import convert
from midstream_converters.keras.layers import custom_layers, lambda_layers, read_config
from midstream_converters.keras.source import find_keras
from midstream_converters.opening import Options
from midstream_converters.preparing import read_given
from midstream_converters.recipe import recipe_of

MODELS = Path(__file__).resolve().parent.parent / "models"


def saved_model(folder: Path, content: bytes = b"graph") -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def layer(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name}} | more


def test_models_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes((MODELS / "digits.keras").read_bytes())
    (tmp_path / "b.keras").write_bytes(b"\x89HDF\r\n\x1a\n and so on")
    found = [
        find_keras(tmp_path / "a.tflite"),
        find_keras(tmp_path / "b.keras"),
        find_keras(saved_model(tmp_path / "c")),
    ]
    assert [model.kind for model in found if model] == ["keras", "h5", "saved_model"]
    assert found[0] is not None
    assert found[0].bytes == (MODELS / "digits.keras").stat().st_size
    assert find_keras(MODELS / "digits_float32.tflite") is None
    assert find_keras(MODELS / "digits_float32.onnx") is None
    assert find_keras(tmp_path) is None


def test_every_file_of_a_folder_counts(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "model")
    recipes = [recipe_of(read_given(folder, Options()), Options())]
    (folder / "variables" / "variables.index").write_bytes(b"INDEX")
    recipes.append(recipe_of(read_given(folder, Options()), Options()))
    (folder / "variables" / "variables.index").rename(folder / "variables" / "other")
    recipes.append(recipe_of(read_given(folder, Options()), Options()))
    recipes.append(recipe_of(read_given(folder, Options(to="onnx")), Options(to="onnx")))
    assert len(set(recipes)) == 4


def test_a_folder_given_as_a_dot_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved_model(tmp_path / "model"))
    found = find_keras(Path())
    assert found is not None
    assert found.path.name == "model"


def test_what_is_missing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read model .*none\.keras: No such file"):
        convert(tmp_path / "none.keras", tmp_path / "b", Options())


@pytest.mark.parametrize(("name", "to"), [("digits_float32.tflite", "onnx"), ("digits_float32.onnx", "tflite")])
def test_a_finished_model_stays_what_it_is(tmp_path: Path, name: str, to: Any) -> None:
    with pytest.raises(InputError, match=rf"--to {to} is for Keras models and SavedModels"):
        convert(MODELS / name, tmp_path / "b", Options(to=to))


@pytest.mark.skipif(bool(find_spec("tensorflow")), reason="TensorFlow is installed")
def test_without_tensorflow_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"'tensorflow'.*pip install 'midstream\[convert-keras\]'"):
        convert(MODELS / "digits.keras", tmp_path / "b", Options())
    assert list(tmp_path.iterdir()) == []


def test_layers_with_code_in_the_file_are_found_wherever_they_are() -> None:
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": [layer("Lambda", "deep")]}}
    wrapped = {"class_name": "TimeDistributed", "config": {"name": "each", "layer": layer("Lambda", "wrapped")}}
    config = {"class_name": "Functional", "config": {"layers": [layer("Dense", "d"), inner, wrapped]}}
    assert lambda_layers(config) == ["deep", "wrapped"]
    with zipfile.ZipFile(MODELS / "digits.keras") as archive:
        assert lambda_layers(json.loads(archive.read("config.json"))) == []
        assert custom_layers(json.loads(archive.read("config.json"))) == []


def test_layers_of_others_are_named() -> None:
    config = {
        "class_name": "Functional",
        "module": "keras",
        "config": {
            "layers": [
                layer("Dense", "d", module="keras.layers", registered_name=None),
                layer("Foo", "f", module="my.layers", registered_name="Foo"),
                layer("Bar", "b", module=None, registered_name="mine>Bar"),
                layer("mine>Old", "o"),
                layer("Conv2D", "c"),
            ]
        },
    }
    assert custom_layers(config) == ["f (Foo)", "b (Bar)", "o (mine>Old)"]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff\xfe\x00"])
def test_what_is_no_configuration_is_none(text: str | bytes) -> None:
    assert read_config(text) is None


@pytest.mark.parametrize("config", [None, 5, [], {"class_name": 3}, {"class_name": "Lambda", "config": [1]}])
def test_odd_configurations_do_no_harm(config: Any) -> None:
    assert lambda_layers(config) == (
        ["Lambda"] if isinstance(config, dict) and config["class_name"] == "Lambda" else []
    )
    assert custom_layers(config) == []
