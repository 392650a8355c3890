"""TensorFlow's part, in a process of its own: the only module that imports it.

``python -m midstream_converters.keras.worker FOLDER`` answers the request there (`midstream_converters.apart`):

- ``open``: make a SavedModel of what is no such already, choose its signature, and make TFLite or ONNX of it;
- ``int8``: make TFLite in int8 of the SavedModel that ``open`` has answered, with the samples in the folder.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from midstream.errors import ModelError, printable
from midstream_converters.apart import refusing, serve
from midstream_converters.keras.layers import custom_layers, lambda_layers, read_config
from midstream_converters.onnx.numbering import renumber
from midstream_converters.onnx.proto import all_nodes, onnx
from midstream_converters.stored import StoredSamples
from midstream_converters.tflite.ends import name_by_signature

MADE = "made"
_ONNX_OPSET = 17
_DEFAULT = "serving_default"
_MISSING_OP = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")
_EXPORT = "export it where it was trained, model.export(FOLDER), and give that folder"


def main(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; the model goes to the file ``MADE``."""
    if request["action"] == "int8":
        _write_tflite(folder, request, StoredSamples(folder / "samples", tuple(request["inputs"])))
        return {}
    name, path = request["name"], Path(request["model"])
    if request["kind"] == "saved_model":
        answer = {"name": name, "saved": str(path), "signature": _signature(path, name), "outputs": {}}
        model = None
    else:
        model = _load_keras(path, request["kind"], folder, name)
        answer = _export(model, folder / "saved", name)
    if request["to"] == "onnx":
        _write_onnx(folder, answer)
        return {}
    try:
        _write_tflite(folder, answer, None)
    except _FreeBatchError:
        if model is None:
            raise
        # Layers with a memory become operators, or loops, of LiteRT's only where the number of inputs is known.
        answer = _export(model, folder / "saved of one", name, batch=1)
        _write_tflite(folder, answer, None)
        answer["batch"] = 1
    return answer


class _FreeBatchError(ModelError):
    """The model does not convert with a batch of any size."""


def _export(model: Any, saved: Path, name: str, batch: int | None = None) -> dict[str, Any]:
    """Write a SavedModel of a Keras model, for a batch of any size or this one, and say what there is."""
    import keras
    import tensorflow as tf

    def of_size(end: Any) -> Any:
        return tf.TensorSpec((batch, *end.shape[1:]), end.dtype, end.name)

    options = {} if batch is None else {"input_signature": [keras.tree.map_structure(of_size, model.input)]}
    with refusing(lambda error: ModelError(f"{name} cannot be exported from Keras: {_first_line(error)}; {_EXPORT}")):
        model.export(str(saved), format="tf_saved_model", verbose=False, **options)
    outputs = [model.layers[-1].name] if type(model).__name__ == "Sequential" else getattr(model, "output_names", [])
    # The signature counts them; where names are not unique that has to do.
    names = (
        {f"output_{index}": output for index, output in enumerate(outputs)} if len({*outputs}) == len(outputs) else {}
    )
    return {"name": name, "saved": str(saved), "signature": _DEFAULT, "outputs": names}


def _load_keras(path: Path, kind: str, folder: Path, name: str) -> Any:
    import keras

    config = _config(path, kind, name)
    if code := lambda_layers(config):
        raise ModelError(
            f"{name} has Lambda layers ({', '.join(code)}): Python code inside the file, which is never run; {_EXPORT}"
        )
    # Keras goes by the name.
    link = folder / f"model.{kind}"
    link.symlink_to(path)

    def refusal(error: Exception) -> ModelError:
        if own := custom_layers(config):
            return ModelError(
                f"{name} has layers whose code is not in Keras ({', '.join(own)}), and is not here; {_EXPORT}"
            )
        return ModelError(f"Keras cannot load {name}: {_first_line(error)}; {_EXPORT}")

    with refusing(refusal):
        return keras.saving.load_model(link, compile=False, safe_mode=True)


def _config(path: Path, kind: str, name: str) -> Any:
    """The model's configuration without that of its training. Raises ModelError where the file holds no whole model."""
    text: str | bytes | None
    if kind == "keras":
        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read("config.json")
        except KeyError:
            raise ModelError(f"{name} is a zip archive without config.json; it is not a Keras model") from None
        except (zipfile.BadZipFile, OSError, RuntimeError, EOFError):
            raise ModelError(f"{name} is not a whole Keras model: its archive is truncated or damaged") from None
    else:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                text = file.attrs.get("model_config")
        except OSError:
            raise ModelError(f"{name} is not a whole HDF5 file: it is truncated or damaged") from None
    if text is None:
        raise ModelError(
            f"{name} holds weights only, no model; save the whole model, model.save('model.keras'), and give that file"
        )
    config = read_config(text)
    if not isinstance(config, dict):
        raise ModelError(f"{name} is damaged: its configuration cannot be read; save the model again")
    config.pop("compile_config", None)
    return config


def _signature(saved: Path, name: str) -> str:
    """The signature to convert: the one for serving, or the only one."""
    names = sorted(_load_saved(saved, name).signatures)
    if _DEFAULT in names or len(names) == 1:
        return _DEFAULT if _DEFAULT in names else str(names[0])
    if not names:
        raise ModelError(f"{name} has no signatures, so what goes in is not said; save it with one named {_DEFAULT!r}")
    raise ModelError(
        f"{name} has the signatures {', '.join(map(printable, names))} and none named {_DEFAULT!r}; "
        f"save it with the one to convert as {_DEFAULT!r}"
    )


def _load_saved(saved: Path, name: str) -> Any:
    import tensorflow as tf

    with refusing(lambda error: ModelError(f"TensorFlow cannot load the SavedModel {name}: {_first_line(error)}")):
        return tf.saved_model.load(str(saved))


def _write_tflite(folder: Path, request: Mapping[str, Any], samples: StoredSamples | None) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(request["saved"], signature_keys=[request["signature"]])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if samples is not None:

        def feed() -> Iterator[tuple[str, dict[str, Any]]]:
            for sample in samples:
                yield request["signature"], sample

        # What has no kernel for int8 stays in float.
        converter.target_spec.supported_ops.insert(0, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = feed
    with refusing(lambda error: _refusal(str(error), request["name"])):
        made = bytes(converter.convert())
    (folder / MADE).write_bytes(name_by_signature(made, request["outputs"]))


def _refusal(text: str, name: str) -> ModelError:
    missing = sorted(set(_MISSING_OP.findall(text)))
    if "element_shape to be static" in text or any(op.startswith("TensorList") for op in missing):
        return _FreeBatchError(
            f"{name} keeps lists of tensors whose sizes are not known (TensorList), for which LiteRT has no operators; "
            "save it for a batch of one input, or try --to onnx"
        )
    if missing:
        return ModelError(
            f"{name} uses the TensorFlow operators {', '.join(missing)}, which LiteRT cannot run by itself; "
            "use others in their place, or try --to onnx"
        )
    return ModelError(f"TensorFlow cannot make TFLite of {name}: {printable(' '.join(text.split()))}; try --to onnx")


def _write_onnx(folder: Path, request: Mapping[str, Any]) -> None:
    import tensorflow as tf
    import tf2onnx

    name, outputs = request["name"], request["outputs"]
    # The functions do not keep the variables they read; this does.
    loaded = _load_saved(Path(request["saved"]), name)
    function = loaded.signatures[request["signature"]]
    given = function.structured_input_signature[1]
    specs = [tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in sorted(given.items())]

    def call(*values: Any) -> Any:
        answer = function(**{spec.name: value for spec, value in zip(specs, values, strict=True)})
        return {outputs.get(key, key): value for key, value in answer.items()}

    with refusing(
        lambda error: ModelError(f"tf2onnx cannot make ONNX of {name}: {_first_line(error)}; try --to tflite")
    ):
        model, _ = tf2onnx.convert.from_function(tf.function(call, autograph=False), specs, opset=_ONNX_OPSET)
    # It hands on what it does not know.
    if unknown := sorted({node.op_type for node in all_nodes(model.graph) if not node.domain and not _known(node)}):
        raise ModelError(
            f"{name} uses the TensorFlow operators {', '.join(unknown)}, which tf2onnx cannot translate; "
            "use others in their place, or try --to tflite"
        )
    renumber(model)
    (folder / MADE).write_bytes(model.SerializeToString(deterministic=True))


def _known(node: onnx.NodeProto) -> bool:
    return bool(onnx.defs.has(node.op_type, max_inclusive_version=_ONNX_OPSET))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0].rstrip(".") if lines else type(error).__name__, 300)


if __name__ == "__main__":
    serve(main)
