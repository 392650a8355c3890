"""What a trained network becomes: a TFLite and an ONNX file of the same weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import compose, helper, numpy_helper
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

_OPSET = 17
_OUTPUT = "score"


def to_tflite(model: keras.Model) -> bytes:
    """Float32, batch 1, weights as constants; inputs are "features", then the view."""
    frozen = convert_variables_to_constants_v2(_function(model).get_concrete_function())
    content = bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    shapes = [tuple(each["shape"]) for each in tf.lite.Interpreter(model_content=content).get_input_details()]
    if shapes != [(1, *each.shape[1:]) for each in model.inputs]:
        raise RuntimeError(f"the converter has put the inputs in another order: {shapes}")
    return content


def to_onnx(model: keras.Model) -> bytes:
    """The same as ONNX, opset 17; a layer "gru" becomes the one operator that ONNX has for it."""
    named = {layer.name: layer for layer in model.layers}
    graph = _around(model, named["gru"]) if "gru" in named else _converted(model)
    (output,) = graph.graph.output
    # Whatever the converter calls it.
    for node in graph.graph.node:
        node.output[:] = [_OUTPUT if name == output.name else name for name in node.output]
    graph.graph.output[0].name = _OUTPUT
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString())


def _around(model: keras.Model, gru: keras.layers.GRU) -> onnx.ModelProto:
    """What comes before the GRU, and what comes after, converted, and put together with ONNX's own GRU.

    Unrolled, as for TFLite, which has none, it is 580 nodes, and most of the time goes into starting them.
    """
    features, view = model.inputs
    before = _prefixed(_converted(keras.Model([view], gru.input)), "before/")
    after = _prefixed(_converted(keras.Model([features, gru.output], model.output)), "after/")
    (_, heard), (frames,) = after.graph.input, before.graph.output
    joined = compose.merge_models(before, _gru(gru, before), [(frames.name, "gru/frames")])
    return compose.merge_models(joined, after, [("gru/heard", heard.name)])


def _gru(gru: keras.layers.GRU, like: onnx.ModelProto) -> onnx.ModelProto:
    """Keras keeps weights as inputs × 3 gates, ONNX the other way round; the gates' order and their formulas agree."""
    kernel, recurrent, bias = (np.asarray(each, np.float32) for each in gru.get_weights())
    constants = [
        numpy_helper.from_array(kernel.T[np.newaxis], "gru/kernel"),
        numpy_helper.from_array(recurrent.T[np.newaxis], "gru/recurrent"),
        numpy_helper.from_array(bias.reshape(1, -1), "gru/bias"),
        numpy_helper.from_array(np.array([1]), "gru/direction"),
    ]
    nodes = [
        helper.make_node("Transpose", ["gru/frames"], ["gru/steps"], perm=[1, 0, 2]),
        helper.make_node(
            "GRU",
            ["gru/steps", "gru/kernel", "gru/recurrent", "gru/bias"],
            ["gru/states"],
            hidden_size=gru.units,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["gru/states", "gru/direction"], ["gru/each"]),
        helper.make_node("Transpose", ["gru/each"], ["gru/heard"], perm=[1, 0, 2]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, *tensor.shape[1:]))
        for name, tensor in (("gru/frames", gru.input), ("gru/heard", gru.output))
    ]
    graph = helper.make_graph(nodes, "gru", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=like.opset_import, ir_version=like.ir_version)


def _converted(model: keras.Model) -> onnx.ModelProto:
    function = _function(model)
    return tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=_OPSET)[0]


def _prefixed(graph: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """With names that meet no others; those of its inputs stay."""
    return compose.add_prefix(graph, prefix, rename_inputs=False)


def _function(model: keras.Model) -> Any:
    signature = [tf.TensorSpec((1, *each.shape[1:]), tf.float32, name=each.name) for each in model.inputs]

    @tf.function(input_signature=signature)
    def score(*inputs: Any) -> Any:
        return tf.identity(model(list(inputs), training=False), name=_OUTPUT)

    return score
