"""The two networks, and how they are trained.

Both end alike: what the views give beside the classical features, standardised within the network, then a small dense
part beside a linear one, and a score of 0–1.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from midstream.analysis.views import BANDS, STEPS, THUMBNAIL_SIDE
from midstream_training.linear import Linear
from midstream_training.views import Seen

_FIRST_SHARE = 0.1


def image_net(linear: Linear) -> keras.Model:
    """A CNN over the thumbnail: how strongly its tiles of 4 × 4 answer to each of eight patterns, on average.

    One layer, for bytes go with the logarithm of how far neighbours stray; two more above it, or tiles that overlap,
    gained nothing.
    """
    picture = keras.Input((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 1), name="picture")
    x = layers.Conv2D(8, 4, strides=4, name="patterns")(picture)
    x = LogEnergy(name="log_energy")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return _ended(picture, x, linear)


def audio_net(linear: Linear) -> keras.Model:
    """A GRU over log-mel frames, unrolled, so that no state is kept between runs."""
    frames = keras.Input((STEPS, BANDS), name="frames")
    x = layers.Dense(20, activation="relu", name="bands")(frames)
    x = layers.GRU(24, unroll=True, return_sequences=True, name="gru")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return _ended(frames, x, linear)


class LogEnergy(layers.Layer):
    """log(1 + 100 |x|)."""

    def call(self, inputs: Any) -> Any:
        """Of any shape."""
        return keras.ops.log(1.0 + 100.0 * keras.ops.abs(inputs))


class Standardised(layers.Layer):
    """Features as the linear model takes them, by constants."""

    def __init__(self, linear: Linear, **named: Any) -> None:
        super().__init__(trainable=False, **named)
        self._mean = linear.mean.astype(np.float32)
        self._scale = (1.0 / linear.deviation).astype(np.float32)

    def call(self, inputs: Any) -> Any:
        """Inputs × features."""
        logs = keras.ops.sign(inputs) * keras.ops.log(1.0 + keras.ops.abs(inputs))
        return keras.ops.clip((logs - self._mean) * self._scale, -4.0, 4.0)


def _ended(view: Any, seen: Any, linear: Linear) -> keras.Model:
    """A score that begins as the linear model's; what the view adds is learned."""
    numbers = keras.Input((linear.weights.size,), name="features")
    known = Standardised(linear, name="standardised")(numbers)
    x = layers.Concatenate(name="beside")([seen, known])
    x = layers.Dense(24, activation="relu", name="dense")(x)
    score = layers.Dense(1, name="score")(layers.Concatenate(name="both")([known, seen, x]))
    model = keras.Model([numbers, view], score)
    kernel, bias = model.get_layer("score").get_weights()
    kernel *= _FIRST_SHARE
    kernel[: linear.weights.size, 0] = linear.weights
    bias[:] = linear.intercept
    model.get_layer("score").set_weights([kernel, bias])
    return model


def seed() -> None:
    """The same start and the same sums every time."""
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()


class Trained:
    """A network and its training: Adam with a rate that falls as a cosine; a step is compiled once."""

    def __init__(self, model: keras.Model, rate: float, steps: int, pair_share: float, apart: float) -> None:
        self.net = model
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, max(1, steps)))
        optimizer.build(model.trainable_variables)

        @tf.function(reduce_retracing=True)
        def step(views: Any, features: Any, targets: Any, less_v: Any, less_f: Any, more_v: Any, more_f: Any) -> None:
            with tf.GradientTape() as tape:
                count, couples = tf.shape(views)[0], tf.shape(less_v)[0]
                both = [tf.concat([features, less_f, more_f], 0), tf.concat([views, less_v, more_v], 0)]
                scores = model(both, training=True)[:, 0]
                error = tf.reduce_mean(tf.abs(scores[:count] - targets))
                gap = scores[count + couples :] - scores[count : count + couples]
                loss = error + pair_share * tf.reduce_mean(tf.nn.relu(apart - gap))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        self.step = step

    def predict(self, inputs: Seen) -> NDArray[np.float32]:
        """Scores of 0–1, or a little beyond."""
        return np.asarray(self.net.predict([inputs.features, inputs.views], verbose=0)[:, 0], np.float32)
