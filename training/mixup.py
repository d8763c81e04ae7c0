"""Mixup (paper 2.3, reference 21): each clip is blended with its partner in the reversed batch.

Blending raw log-mels equals blending standardised ones: standardisation is affine and the two weights sum to one.
"""

from typing import Any

from keras import ops


def mixup(values: Any, weights: Any) -> Any:
    """weights * values + (1 - weights) * the batch in reversed order.

    Parameters
    ----------
    values : (clips, ...) spectrograms or one-hot labels.
    weights : (clips, 1) in [0, 1]; clip i's own share. U(0, 1) a clip, the same for both heads.
    """
    shares = ops.reshape(weights, (-1,) + (1,) * (len(values.shape) - 1))
    return shares * values + (1.0 - shares) * ops.flip(values, axis=0)
