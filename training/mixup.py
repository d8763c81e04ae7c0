"""Mixup (paper 2.3, reference 21): each clip is blended with its partner in the reversed batch.

Blending raw log-mels equals blending standardised ones: standardisation is affine and the two weights sum to one.
"""

from typing import Any

from keras import ops

from training.recipe import MixupLabels


def mixup(values: Any, weights: Any) -> Any:
    """weights * values + (1 - weights) * the batch in reversed order.

    Parameters
    ----------
    values : (clips, ...) spectrograms or one-hot labels.
    weights : (clips, 1) in [0, 1]; clip i's own share. U(0, 1) a clip, the same for both heads.
    """
    shares = ops.reshape(weights, (-1,) + (1,) * (len(values.shape) - 1))
    return shares * values + (1.0 - shares) * ops.flip(values, axis=0)


def mixup_labels(labels: Any, weights: Any, rule: MixupLabels) -> Any:
    """The labels of blended clips, (clips, classes): blended like the clips, or the larger of each two.

    The maximum, which the author's code of 2021 probably took, gives a blend both its classes in full: labels of two
    classes sum to 2, and a clip that is blended with one of its own class counts half as much as any other.

    Parameters
    ----------
    labels : (clips, classes) one-hot.
    weights : (clips, 1), those of the clips' `mixup`.
    """
    if rule is MixupLabels.MAXIMUM:
        return ops.maximum(labels, ops.flip(labels, axis=0))
    return mixup(labels, weights)
