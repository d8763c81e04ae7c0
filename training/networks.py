"""The networks, in Keras 3's backend-neutral operations: the paper's ResNet of Table 1, and small ones on statistics.

Conventions: an embedder takes raw log-mel spectrograms, (clips, 313, 128) dB, and standardises them itself, so that the
exported graph carries its own standardisation. It gives (clips, 128) linear embeddings, not normalised.

Sizes that Table 1 leaves open are those that reproduce its output sizes: the paper's "stride = 1" for the blocks that
halve cannot give them.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from models.frontend import N_FRAMES, N_MELS

EMBEDDING_SIZE = 128
_L2 = 1e-5
_SLOPE = 0.1
_STATISTICS_FLOOR = 1e-6
"""Added to the deviations of statistics, one of which may hardly vary over the clips of a small plant."""


@keras.saving.register_keras_serializable(package="earwitness")
class Standardisation(layers.Layer):  # type: ignore[misc]
    """(x - mean) / (deviation + 1e-12) per mel bin: constants of the training data, not weights (paper 2.2)."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.mean, self.deviation = [float(v) for v in mean], [float(v) for v in deviation]
        self._shift = np.asarray(self.mean, np.float32)
        self._gain = (1.0 / (np.asarray(self.deviation, np.float64) + 1e-12)).astype(np.float32)

    def call(self, log_mels: Any) -> Any:
        """(clips, frames, mels) dB -> the same, in standard deviations."""
        return (log_mels - self._shift) * self._gain

    def get_config(self) -> dict[str, Any]:
        """What Keras needs to make the layer again."""
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation}


def _dense(x: KerasTensor, size: int, name: str) -> KerasTensor:
    return layers.Dense(size, kernel_regularizer=keras.regularizers.L2(_L2), name=name)(x)


def _convolution(x: KerasTensor, channels: int, size: int, name: str, strides: int = 1) -> KerasTensor:
    return layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        kernel_regularizer=keras.regularizers.L2(_L2),
        name=name,
    )(x)


def _rectify(x: KerasTensor, name: str) -> KerasTensor:
    return layers.LeakyReLU(negative_slope=_SLOPE, name=name)(x)


def _normalise(x: KerasTensor, name: str) -> KerasTensor:
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)


def _residual_unit(x: KerasTensor, channels: int, name: str, *, downsample: bool) -> KerasTensor:
    """Pre-activated unit; one that halves has stride 2 in its first convolution and a pooled 1x1 shortcut."""
    shortcut = x
    if downsample:
        shortcut = layers.MaxPooling2D(2, padding="same", name=f"{name}_shortcut_pool")(x)
        shortcut = _convolution(shortcut, channels, 1, f"{name}_shortcut")
    y = _rectify(x, f"{name}_rectify_1")
    y = _convolution(y, channels, 3, f"{name}_convolution_1", strides=2 if downsample else 1)
    y = _rectify(y, f"{name}_rectify_2")
    y = _normalise(y, f"{name}_normalise_1")
    y = _convolution(y, channels, 3, f"{name}_convolution_2")
    y = layers.Add(name=f"{name}_add")([y, shortcut])
    return _normalise(y, f"{name}_normalise_2")


def build_embedder(mean: Sequence[float], deviation: Sequence[float]) -> keras.Model:
    """The embedder: (clips, 313, 128) dB -> (clips, 128).

    Parameters
    ----------
    mean, deviation : (128,) of the training clips' frames, dB.

    766,944 trainable parameters and 1,952 batch-norm statistics; 92.6 million multiply-adds a clip.
    """
    log_mel = keras.Input((N_FRAMES, N_MELS), name="log_mel")
    x = Standardisation(mean, deviation, name="standardisation")(log_mel)
    x = layers.Reshape((N_FRAMES, N_MELS, 1), name="image")(x)
    x = _convolution(x, 16, 7, "stem_convolution", strides=2)  # 157 x 64 x 16
    x = _normalise(_rectify(x, "stem_rectify"), "stem_normalise")
    x = layers.MaxPooling2D(3, strides=2, padding="valid", name="stem_pool")(x)  # 78 x 31 x 16
    for block, channels in enumerate((16, 32, 64, 128), start=1):  # 78 x 31, 39 x 16, 20 x 8, 10 x 4
        x = _residual_unit(x, channels, f"block_{block}_unit_1", downsample=block > 1)
        x = _residual_unit(x, channels, f"block_{block}_unit_2", downsample=False)
    x = layers.MaxPooling2D((10, 1), name="temporal_maximum")(x)  # 1 x 4 x 128
    x = layers.Reshape((512,), name="flatten")(x)
    x = _dense(x, EMBEDDING_SIZE, "representation")
    return keras.Model(log_mel, x, name="embedder")


def build_statistics_network(mean: Sequence[float], deviation: Sequence[float]) -> keras.Model:
    """A network on a clip's statistics: (clips, d) -> (clips, 128), two hidden layers of 256.

    Parameters
    ----------
    mean, deviation : (d,) of the statistics over the training clips.
    """
    statistics = keras.Input((len(mean),), name="statistics")
    x = Standardisation(mean, [value + _STATISTICS_FLOOR for value in deviation], name="standardisation")(statistics)
    for layer in (1, 2):
        x = _dense(x, 256, f"dense_{layer}")
        x = _normalise(_rectify(x, f"rectify_{layer}"), f"normalise_{layer}")
    x = _dense(x, EMBEDDING_SIZE, "representation")
    return keras.Model(statistics, x, name="statistics_network")
