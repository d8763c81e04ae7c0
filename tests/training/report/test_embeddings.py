"""Embeddings kept small: neighbours stay neighbours, and the plane is that of the largest differences."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from models.vocabulary import Condition
from tests.training.report.made import SOURCE, scored
from training.report.embeddings import EmbeddingRows, plane


def kept(embeddings: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The rows of clips that were watched in the reverse order."""
    rows = EmbeddingRows()
    clips = [replace(scored(SOURCE, Condition.NORMAL, 0.0), start_s=10.0 * place) for place in range(len(embeddings))]
    for clip, own in reversed(list(zip(clips, embeddings, strict=True))):
        rows(clip, own)
    return rows.of(clips)


def test_a_clip_of_several_windows_has_the_mean_of_its_windows() -> None:
    """Of one member as it is, and in the order of the clips, whatever the order in which they were scored."""
    random = np.random.default_rng(0)
    clips = [random.normal(size=(windows, 1, 128)).astype(np.float32) for windows in (1, 3, 2)]
    np.testing.assert_allclose(kept(clips), [clip.mean(axis=(0, 1)) for clip in clips], rtol=1e-6)
    assert kept([]).shape == (0, 128)


def test_forty_members_become_128_values_that_keep_distances() -> None:
    """Within a tenth on average, of 300 pairs; and again the same values."""
    random = np.random.default_rng(1)
    clips = random.normal(size=(25, 1, 40, 128)).astype(np.float32)
    rows = kept(list(clips))
    assert rows.shape == (25, 128)
    assert rows.dtype == np.float32
    first, second = np.triu_indices(25, 1)
    whole = np.linalg.norm((clips[first] - clips[second]).reshape(len(first), -1), axis=1)
    short = np.linalg.norm(rows[first] - rows[second], axis=1)
    assert np.abs(short / whole - 1.0).mean() < 0.1
    assert np.abs(short / whole - 1.0).max() < 0.3
    np.testing.assert_array_equal(rows, kept(list(clips)))


def test_the_plane_is_that_of_the_principal_components() -> None:
    """scikit-learn's, up to the axes' signs, with the share of the variance that it holds."""
    rows = (np.random.default_rng(2).normal(size=(40, 128)) * np.linspace(3, 0.1, 128)).astype(np.float32)
    oracle = PCA(2).fit(rows)
    places, share = plane(rows)
    np.testing.assert_allclose(np.abs(places), np.abs(oracle.transform(rows)), atol=1e-4)
    assert share == pytest.approx(oracle.explained_variance_ratio_.sum(), rel=1e-4)
    assert (places[np.abs(places).argmax(axis=0), [0, 1]] > 0).all()
    np.testing.assert_allclose(places, plane(rows + np.float32(5.0))[0], atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_clips_have_a_place_too(count: int) -> None:
    """One clip lies in the middle, two on a line; identical ones together."""
    rows = np.random.default_rng(3).normal(size=(count, 128)).astype(np.float32)
    places, share = plane(rows)
    assert places.shape == (count, 2)
    assert share == pytest.approx(1.0)
    assert np.abs(plane(np.repeat(rows[:1], 3, axis=0))[0]).max() < 1e-6
