"""The sub-cluster AdaCos loss (paper 2.1 and its reference 11), in Keras 3's backend-neutral operations.

Conventions: C classes of S sub-clusters each; centres W are (128, C*S), class-major: class c owns columns c*S to
(c+1)*S - 1. Labels are (clips, C) weights that sum to one (mixup). The scale s is a variable without gradient.
"""

import math
from typing import Any

import keras
from keras import ops

from training.recipe import SCALE_RANGE, ScaleRule


def initial_scale(n_classes: int, sub_clusters: int) -> float:
    """sqrt(2) ln(C S - 1), at least 1: with two columns the formula gives 0, which hides every difference.

    Raises
    ------
    ValueError : for fewer than two classes, which leave nothing to learn.
    """
    if n_classes < 2:
        raise ValueError(f"A head needs at least two classes, not {n_classes}: add contrast classes.")
    return max(1.0, math.sqrt(2.0) * math.log(n_classes * sub_clusters - 1))


def adapted_scale(
    scale: Any, cosines: Any, labels: Any, sub_clusters: int, scale_range: tuple[float, float] = SCALE_RANGE
) -> Any:
    """The scale for this step, from the batch at the last one's: s <- L / cos(min(pi/4, theta_med)).

    M = max(s cos), L = M + ln(mean over clips of the sum over all columns of exp(s cos - M)); theta_med is the median
    over the batch of the sums of a clip's angles to its own classes' sub-clusters, weighted by its labels.

    Parameters
    ----------
    scale : scalar; cosines : (clips, C*S); labels : (clips, C); scale_range : what it is held to.
    """
    logits = scale * cosines
    largest = ops.max(logits)
    log_mean = largest + ops.log(ops.mean(ops.sum(ops.exp(logits - largest), axis=1)))
    angles = ops.arccos(ops.clip(cosines, -1.0, 1.0))
    own = ops.sum(ops.repeat(labels, sub_clusters, axis=1) * angles, axis=1)
    median = ops.median(own)
    return ops.clip(log_mean / ops.cos(ops.minimum(math.pi / 4.0, median)), *scale_range)


def class_log_probabilities(scale: Any, cosines: Any, sub_clusters: int) -> Any:
    """ln of Eq. (1), (clips, C*S) -> (clips, C): a class's probability is the sum of the softmax over its columns."""
    logits = scale * cosines
    by_class = ops.reshape(logits, (-1, logits.shape[-1] // sub_clusters, sub_clusters))
    return ops.logsumexp(by_class, axis=2) - ops.logsumexp(logits, axis=1, keepdims=True)


@keras.saving.register_keras_serializable(package="earwitness")
class SubClusterAdaCos(keras.layers.Layer):  # type: ignore[misc]
    """One head: embeddings and mixed labels -> the cross-entropy of each clip, (clips,).

    ``centers``: (128, C*S), glorot uniform, trained. ``scale``: one a head; in training it is adapted before it scales
    that step's logits.
    """

    def __init__(
        self,
        n_classes: int,
        sub_clusters: int,
        scale_rule: ScaleRule = ScaleRule.PUBLISHED,
        scale_range: tuple[float, float] = SCALE_RANGE,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.n_classes, self.sub_clusters = n_classes, sub_clusters
        self.scale_rule, self.scale_range = scale_rule, scale_range

    def build(self, embedding_shape: tuple[int | None, ...], labels_shape: tuple[int | None, ...]) -> None:  # noqa: ARG002 - Keras asks for it by name
        """Make the centres and the scale."""
        self.centers = self.add_weight(
            shape=(embedding_shape[-1], self.n_classes * self.sub_clusters),
            initializer="glorot_uniform",
            name="centers",
        )
        self.scale = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(initial_scale(self.n_classes, self.sub_clusters)),
            trainable=False,
            name="scale",
        )

    def call(self, embedding: Any, labels: Any, training: bool = False) -> Any:
        """(clips, 128), (clips, C) -> (clips,) nats."""
        cosines = ops.matmul(ops.normalize(embedding, axis=-1), ops.normalize(self.centers, axis=0))
        scale = ops.convert_to_tensor(self.scale)
        if training and self.scale_rule is ScaleRule.PUBLISHED:
            scale = adapted_scale(scale, ops.stop_gradient(cosines), labels, self.sub_clusters, self.scale_range)
            self.scale.assign(scale)
        return -ops.sum(labels * class_log_probabilities(scale, cosines, self.sub_clusters), axis=1)

    def compute_output_shape(self, embedding_shape: tuple[int | None, ...], *_: Any) -> tuple[int | None]:
        """One loss a clip."""
        return (embedding_shape[0],)
