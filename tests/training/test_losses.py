"""The sub-cluster AdaCos loss against plain NumPy loops written from the paper's Eq. (1) and FACTS."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numpy.typing import NDArray

from training.losses import (
    SubClusterAdaCos,
    adapted_scale,
    class_log_probabilities,
    initial_scale,
)
from training.mixup import mixup, mixup_labels
from training.recipe import SCALE_RANGE, MixupLabels, ScaleRule

Array = NDArray[np.float64]


def slow_probabilities(scale: float, cosines: Array, sub_clusters: int) -> Array:
    """Eq. (1), one clip, one class, one sub-cluster at a time."""
    clips, columns = cosines.shape
    result = np.zeros((clips, columns // sub_clusters))
    for i in range(clips):
        total = sum(math.exp(scale * cosines[i, k]) for k in range(columns))
        for j in range(columns // sub_clusters):
            for column in range(j * sub_clusters, (j + 1) * sub_clusters):
                result[i, j] += math.exp(scale * cosines[i, column]) / total
    return result


def slow_scale(scale: float, cosines: Array, labels: Array, sub_clusters: int) -> float:
    """The author's adaptive scale, in loops and float64."""
    clips, columns = cosines.shape
    sums, angles = [], []
    for i in range(clips):
        sums.append(sum(math.exp(scale * cosines[i, k]) for k in range(columns)))
        angle = 0.0
        for c in range(labels.shape[1]):
            for column in range(c * sub_clusters, (c + 1) * sub_clusters):
                angle += labels[i, c] * math.acos(cosines[i, column])
        angles.append(angle)
    median = float(np.median(angles))
    return min(float(math.log(np.mean(sums)) / math.cos(min(math.pi / 4, median))), SCALE_RANGE[1])


def random_case(seed: int, clips: int, classes: int, sub_clusters: int, spread: float = 1.0) -> tuple[Array, Array]:
    """Cosines and mixed labels."""
    random = np.random.default_rng(seed)
    cosines = np.clip(random.normal(0, 0.3 * spread, (clips, classes * sub_clusters)), -0.99, 0.99)
    one_hot = np.eye(classes)[random.integers(0, classes, clips)]
    share = random.uniform(size=(clips, 1))
    return cosines, share * one_hot + (1 - share) * one_hot[::-1]


@given(
    seed=st.integers(0, 2**32 - 1),
    clips=st.integers(1, 9),
    classes=st.integers(2, 5),
    sub_clusters=st.sampled_from([1, 2, 4, 16]),
    scale=st.floats(0.5, 30.0),
)
@settings(max_examples=40, deadline=None)
def test_probabilities_and_scale_equal_the_slow_loops(
    seed: int, clips: int, classes: int, sub_clusters: int, scale: float
) -> None:
    """Float32 against float64, odd and even batches, every S of the paper's kind."""
    cosines, labels = random_case(seed, clips, classes, sub_clusters)
    as_tensor = ops.convert_to_tensor(cosines.astype(np.float32))
    found = ops.convert_to_numpy(ops.exp(class_log_probabilities(scale, as_tensor, sub_clusters)))
    np.testing.assert_allclose(found, slow_probabilities(scale, cosines, sub_clusters), rtol=2e-4, atol=1e-7)
    adapted = float(adapted_scale(scale, as_tensor, ops.convert_to_tensor(labels.astype(np.float32)), sub_clusters))
    assert adapted == pytest.approx(slow_scale(scale, cosines, labels, sub_clusters), rel=1e-4)


def test_a_small_median_angle_reaches_the_cosine() -> None:
    """S = 1 with clips close to their centres: the minimum is the median, not pi/4."""
    cosines = np.array([[0.98, 0.1, -0.2], [0.0, 0.95, 0.1], [0.3, -0.1, 0.97]])
    expected = slow_scale(6.0, cosines, np.eye(3), 1)
    without_angle = slow_scale(6.0, cosines, np.eye(3) * 100, 1)
    assert expected != pytest.approx(without_angle, rel=1e-3)
    found = float(adapted_scale(6.0, ops.convert_to_tensor(cosines.astype("float32")), np.eye(3, dtype="float32"), 1))
    assert found == pytest.approx(expected, rel=1e-5)


def test_one_sub_cluster_is_a_plain_softmax_of_scaled_cosines() -> None:
    """Eq. (1) with S = 1."""
    cosines, _ = random_case(0, 5, 7, 1)
    exponentials = np.exp(9.0 * cosines)
    found = ops.convert_to_numpy(ops.exp(class_log_probabilities(9.0, ops.convert_to_tensor(cosines), 1)))
    np.testing.assert_allclose(found, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-5)


def test_initial_scales_of_dcase_2021() -> None:
    """42 sections and 199 attribute classes, S = 1 to 16."""
    assert initial_scale(42, 1) == pytest.approx(5.25, abs=0.005)
    assert initial_scale(42, 16) == pytest.approx(9.20, abs=0.005)
    assert initial_scale(199, 1) == pytest.approx(7.48, abs=0.005)
    assert initial_scale(199, 16) == pytest.approx(11.41, abs=0.005)


def test_one_class_is_refused_and_two_columns_still_learn() -> None:
    """sqrt(2) ln 0 is minus infinity; sqrt(2) ln 1 would hide every difference."""
    with pytest.raises(ValueError, match="at least two classes"):
        initial_scale(1, 2)
    assert initial_scale(2, 1) == 1.0


def head_and_batch(
    rule: ScaleRule = ScaleRule.PUBLISHED,
) -> tuple[SubClusterAdaCos, NDArray[np.float32], NDArray[np.float32]]:
    """A head of 3 classes x 2 sub-clusters and a batch of six mixed clips."""
    keras.utils.set_random_seed(4)
    head = SubClusterAdaCos(3, 2, rule)
    _, labels = random_case(1, 6, 3, 2)
    embeddings = np.random.default_rng(2).normal(0, 2, (6, 128)).astype(np.float32)
    head.build(embeddings.shape, labels.shape)
    return head, embeddings, labels.astype(np.float32)


def test_the_head_adapts_the_scale_before_it_uses_it() -> None:
    """In training the loss is that of the new scale, which the head keeps; otherwise nothing changes."""
    head, embeddings, labels = head_and_batch()
    centers = ops.convert_to_numpy(head.centers)
    cosines = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)) @ (
        centers / np.linalg.norm(centers, axis=0)
    )
    first = initial_scale(3, 2)
    assert float(head.scale) == pytest.approx(first)
    loss = ops.convert_to_numpy(head(embeddings, labels, training=True))
    new = slow_scale(first, cosines.astype(np.float64), labels.astype(np.float64), 2)
    assert float(head.scale) == pytest.approx(new, rel=1e-4)
    expected = -(labels * np.log(slow_probabilities(new, cosines, 2))).sum(axis=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    head(embeddings, labels, training=False)
    assert float(head.scale) == pytest.approx(new, rel=1e-4)


def test_a_fixed_scale_stays() -> None:
    """scale = "fixed"."""
    head, embeddings, labels = head_and_batch(ScaleRule.FIXED)
    head(embeddings, labels, training=True)
    assert float(head.scale) == pytest.approx(initial_scale(3, 2))


def test_the_published_scale_stops_at_its_limit() -> None:
    """Cosines of nearly one make it grow step by step, without bound but for the limit."""
    cosines = np.tile(np.where(np.eye(4) > 0, 0.999, -0.3), 2).astype(np.float32)
    scales = [10.0]
    for _ in range(50):
        scales.append(float(adapted_scale(scales[-1], ops.convert_to_tensor(cosines), np.eye(4, dtype="float32"), 2)))
    assert scales[1] > scales[0]
    assert scales[-1] == SCALE_RANGE[1]


def test_mixup_blends_each_clip_with_its_mirror() -> None:
    """Values of any rank; shares are each clip's own."""
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    shares = np.array([[0.1], [0.5], [0.9], [1.0]], np.float32)
    found = ops.convert_to_numpy(mixup(ops.convert_to_tensor(values), ops.convert_to_tensor(shares)))
    for i in range(4):
        np.testing.assert_allclose(found[i], shares[i] * values[i] + (1 - shares[i]) * values[3 - i], rtol=1e-6)


def test_labels_of_a_blend_are_shared_out_or_both_in_full() -> None:
    """Against a loop; by the maximum two classes sum to 2, and a clip blended with its own class to 1."""
    random = np.random.default_rng(6)
    ids = [2, 0, 1, 1, 0, 3]
    shares = random.uniform(size=6).astype(np.float32)
    weighted, maximum = np.zeros((6, 4)), np.zeros((6, 4))
    for i in range(6):
        partner = 5 - i
        weighted[i, ids[i]] += shares[i]
        weighted[i, ids[partner]] += 1.0 - shares[i]
        maximum[i, ids[i]] = maximum[i, ids[partner]] = 1.0
    one_hot, given_shares = (
        ops.convert_to_tensor(np.eye(4, dtype=np.float32)[ids]),
        ops.convert_to_tensor(shares[:, None]),
    )
    for rule, expected in ((MixupLabels.WEIGHTED, weighted), (MixupLabels.MAXIMUM, maximum)):
        np.testing.assert_allclose(ops.convert_to_numpy(mixup_labels(one_hot, given_shares, rule)), expected, atol=1e-6)
    assert sorted(maximum.sum(axis=1)) == [1, 1, 1, 1, 2, 2]
