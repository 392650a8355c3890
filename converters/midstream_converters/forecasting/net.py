"""The network in TensorFlow: trained through time, and written as TFLite. Only the worker's process imports that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.features import FEATURES, QUANTILES, TARGETS, UNITS
from midstream_converters.forecasting.weights import CLIP, MOST_ADDED, Weights, parts
from midstream_converters.forecasting.weights import UNITS as STATE

_FIXED = ("mean", "scale")
_PARTS = parts()
# Beyond this, on the logarithmic scale, there is no gradient: e²⁰ is more than anything is.
_MOST_LOG = 20.0
_LOG_SHARE = 0.3


def start(seed: int) -> None:
    """The same start and the same sums every time, on one thread."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


class Net:
    """Weights as variables."""

    def __init__(self, weights: Weights) -> None:
        import keras
        import tensorflow as tf

        self._tf = tf
        self._of: dict[str, Any] = {
            name: keras.Variable(value, name=name, trainable=name not in _FIXED)
            for name, value in weights.named().items()
        }

    @property
    def trainable(self) -> list[Any]:
        """Its variables."""
        return [each for name, each in self._of.items() if name not in _FIXED]

    def weights(self) -> Weights:
        """As they are now."""
        return Weights.of({name: np.asarray(each) for name, each in self._of.items()})

    def set(self, weights: Weights) -> None:
        """Make them these."""
        for name, value in weights.named().items():
            self._of[name].assign(value)

    def step(self, features: Any, state: Any) -> tuple[Any, Any]:
        """Quantiles (rows × 12, logarithmic) and the next state of rows × features and a state."""
        x = self._seen(features)
        state = self._gru(self._driven(x), state)
        return self._ended(features, x, state), state

    def run(self, features: Any, state: Any) -> tuple[Any, Any]:
        """The same of rows × steps × features, unrolled; quantiles are rows × steps × 12."""
        x = self._seen(features)
        driven = self._tf.unstack(self._driven(x), axis=1)
        states = []
        for each in driven:
            state = self._gru(each, state)
            states.append(state)
        return self._ended(features, x, self._tf.stack(states, axis=1)), state

    def _seen(self, features: Any) -> Any:
        return self._tf.clip_by_value((features - self._of["mean"]) * self._of["scale"], -CLIP, CLIP)

    def _driven(self, x: Any) -> Any:
        return self._tf.tensordot(x, self._of["kernel"], 1) + self._of["bias"]

    def _gru(self, driven: Any, state: Any) -> Any:
        kept = self._tf.matmul(state, self._of["recurrent"]) + self._of["recurrent_bias"]
        update = self._tf.sigmoid(driven[:, :STATE] + kept[:, :STATE])
        reset = self._tf.sigmoid(driven[:, STATE : 2 * STATE] + kept[:, STATE : 2 * STATE])
        fresh = self._tf.tanh(driven[:, 2 * STATE :] + reset * kept[:, 2 * STATE :])
        return fresh + update * (state - fresh)

    def _ended(self, features: Any, x: Any, state: Any) -> Any:
        both = self._tf.concat([state, x], -1)
        dense = self._tf.nn.relu(self._tf.tensordot(both, self._of["dense"], 1) + self._of["dense_bias"])
        y = (
            self._tf.tensordot(both, self._of["skip"], 1)
            + self._tf.tensordot(dense, self._of["out"], 1)
            + self._of["out_bias"]
        )
        quantiles = []
        for part in _PARTS:
            shares = self._tf.nn.softmax(y[..., part.mixture])
            base = self._tf.reduce_sum(shares * features[..., part.bases], -1, keepdims=True)
            added, below, above = (y[..., part.after + at : part.after + at + 1] for at in range(3))
            middle = base + MOST_ADDED * self._tf.tanh(added / MOST_ADDED)
            quantiles += [middle - self._tf.nn.softplus(below), middle, middle + self._tf.nn.softplus(above)]
        return self._tf.concat(quantiles, -1)


def pinball(quantiles: Any, targets: Any, counts: Any, scales: Any) -> Any:
    """The mean pinball loss (Koenker and Bassett 1978) of rows × steps × 12.

    ``targets`` (rows × steps × 4) are amounts; ``counts`` says which of them count; ``scales`` (rows × 4) is what an
    error is measured by. A share of it is the loss on the logarithmic scale, where what is small counts too.
    """
    import tensorflow as tf

    units = tf.constant([UNITS[target] for target in TARGETS])
    shares = tf.constant(QUANTILES)
    shape = tf.concat([tf.shape(quantiles)[:2], [len(TARGETS), len(QUANTILES)]], 0)
    scaled = tf.reshape(quantiles, shape)
    found = units[:, None] * tf.math.expm1(tf.clip_by_value(scaled, 0.0, _MOST_LOG))
    # Below 0 there is nothing to gain, but a way back.
    found += units[:, None] * tf.minimum(scaled, 0.0)
    over = (targets[..., None] - found) / scales[:, None, :, None]
    logs = tf.math.log1p(targets / units)[..., None] - scaled

    def tilted(error: Any) -> Any:
        return tf.reduce_sum(tf.maximum(shares * error, (shares - 1.0) * error), -1)

    each = (tilted(over) + _LOG_SHARE * tilted(logs)) * counts
    return tf.reduce_sum(each) / tf.maximum(tf.reduce_sum(counts), 1.0)


def trainer(net: Net, rate: float, steps: int) -> Callable[..., tuple[Any, Any]]:
    """One step of training: features, state, targets, counts, scales → loss and the state that follows.

    Adam; the rate falls to nothing as a cosine; gradients are at most 1 long.
    """
    import keras
    import tensorflow as tf

    schedule = keras.optimizers.schedules.CosineDecay(rate, max(1, steps))
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=1.0)
    optimizer.build(net.trainable)

    def step(features: Any, state: Any, targets: Any, counts: Any, scales: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            quantiles, following = net.run(features, state)
            loss = pinball(quantiles, targets, counts, scales)
        optimizer.apply(tape.gradient(loss, [each.value for each in net.trainable]), net.trainable)
        return loss, following

    compiled: Callable[..., tuple[Any, Any]] = tf.function(step, reduce_retracing=True)
    return compiled


def to_tflite(net: Net) -> bytes:
    """Inputs "features" and "state", outputs "quantiles" and "next", float32, for any number of rows."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [
        tf.TensorSpec((None, width), tf.float32, name=name)
        for name, width in (("features", len(FEATURES)), ("state", STATE))
    ]

    def forecast(features: Any, state: Any) -> tuple[Any, Any]:
        quantiles, following = net.step(features, state)
        return tf.identity(quantiles, name="quantiles"), tf.identity(following, name="next")

    compiled = tf.function(forecast, input_signature=signature)
    frozen = convert_variables_to_constants_v2(compiled.get_concrete_function())
    content = bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    interpreter = tf.lite.Interpreter(model_content=content)
    widths = [int(each["shape_signature"][1]) for each in interpreter.get_input_details()]
    results = [int(each["shape_signature"][1]) for each in interpreter.get_output_details()]
    if (widths, results) != ([len(FEATURES), STATE], [3 * len(TARGETS), STATE]):
        raise RuntimeError(f"the converter has put inputs or outputs in another order: {widths}, {results}")
    return content


def forecasts(net: Net, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quantiles (rows × steps × 12) of rows × steps × features, from an empty state on."""
    import tensorflow as tf

    run = tf.function(net.run)
    state = np.zeros((len(features), STATE), np.float32)
    found = []
    for at in range(0, features.shape[1], _WINDOW):
        window = features[:, at : at + _WINDOW]
        missing = _WINDOW - window.shape[1]
        padded = np.pad(window, ((0, 0), (0, missing), (0, 0)), mode="edge")
        quantiles, state = run(tf.constant(padded), tf.constant(state))
        found.append(np.asarray(quantiles)[:, : window.shape[1]])
    return np.concatenate(found, axis=1)


_WINDOW = 64
