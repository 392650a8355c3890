"""Google's quantiser for finished TFLite models, in a process of its own: the only module that imports it.

``python -m midstream_converters.tflite.quantise FOLDER`` makes int8 of the model in the file ``float``, weights per
channel, with the samples in the folder. Inputs and outputs stay in float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ai_edge_quantizer import quantizer, recipe
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName

from midstream.errors import ModelError, printable
from midstream_converters.apart import refusing, serve
from midstream_converters.stored import StoredSamples
from midstream_converters.tflite.ends import name_by_position, with_signature

_KEY = "main"


def main(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; the model goes to the file ``made``."""
    inputs, outputs = request["inputs"], request["outputs"]
    content = with_signature((folder / "float").read_bytes(), _KEY, inputs, outputs)

    def refusal(error: Exception) -> ModelError:
        reason = printable(" ".join(str(error).split()), 300)
        return ModelError(
            f"{request['name']} cannot be quantised as a finished TFLite file: {reason}; give the Keras model or "
            "SavedModel that it was made of"
        )

    with refusing(refusal):
        made = _int8(content, StoredSamples(folder / "samples", tuple(inputs)))
    (folder / "made").write_bytes(name_by_position(made, inputs, outputs))
    return {}


def _int8(content: bytes, samples: StoredSamples) -> bytes:
    work = quantizer.Quantizer(bytearray(content), recipe.static_wi8_ai8())
    for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        work.update_quantization_recipe(regex=".*", operation_name=end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    seen = work.calibrate({_KEY: samples}, num_threads=1)
    return bytes(work.quantize(seen).quantized_model)


if __name__ == "__main__":
    serve(main)
