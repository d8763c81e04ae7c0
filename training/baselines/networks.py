"""The networks of the challenge's two baselines of 2021, in Keras 3's backend-neutral operations.

Both take log-mels as they are, in decibels: neither official baseline standardises them.
"""

from collections.abc import Iterator

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from models.frontend import N_MELS

AUTOENCODER_UNITS = (128, 128, 128, 128, 8, 128, 128, 128, 128)

_MOMENTUM = 0.99
"""Of MobileNetV2's batch normalisation: Keras' application has 0.999, which after a thousand steps still holds a third
of the statistics that it began with, and decibels are far from these."""


def build_autoencoder(size: int, learning_rate: float) -> keras.Model:
    """The dense autoencoder, compiled: (n, size) -> (n, size).

    Nine layers of dense, batch normalisation and ReLU, the fifth of eight units, and a linear one. For five frames of
    128 mels 267,928 trainable parameters and 2,064 batch-norm statistics.
    """
    given = keras.Input((size,))
    x = given
    for units in AUTOENCODER_UNITS:
        x = layers.Dense(units)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    model = keras.Model(given, layers.Dense(size)(x), name="autoencoder")
    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.MeanSquaredError(), jit_compile=False)
    return model


def fold_batch_norms(model: keras.Model) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(kernel, bias) of each dense layer as it acts when trained, a batch normalisation behind it included."""
    dense = [place for place, layer in enumerate(model.layers) if isinstance(layer, layers.Dense)]
    for place in dense:
        kernel, bias = (np.asarray(array, np.float64) for array in model.layers[place].get_weights())
        if place != dense[-1]:
            norm = model.layers[place + 1]
            gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in norm.get_weights())
            gain = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * gain, (bias - mean) * gain + beta
        yield kernel.astype(np.float32), bias.astype(np.float32)


def build_section_classifier(frames: int, n_classes: int, learning_rate: float) -> keras.Model:
    """MobileNetV2 of half width on blocks of frames, compiled: (n, frames * 128) -> (n, classes) logits.

    The block stands in each of the three channels that the network was made for. 706,224 parameters, of which 18,544
    are batch-norm statistics, and 1,281 more a class.
    """
    given = keras.Input((frames * N_MELS,))
    image = layers.Reshape((frames, N_MELS, 1))(given)
    network = keras.applications.MobileNetV2(
        input_shape=(frames, N_MELS, 3), alpha=0.5, weights=None, classes=n_classes, classifier_activation=None
    )
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = _MOMENTUM
    model = keras.Model(given, network(layers.Concatenate()([image, image, image])), name="section_classifier")
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model
