"""Distances to the nearest reference, against loops and scipy."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from models.distances import cosine_distance_to_nearest, euclidean_distance_to_nearest

Array = NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The oracles too are quicker so."""
    with threadpool_limits(limits=1):
        yield


def clips(n: int, d: int, seed: int = 0) -> Array:
    """Rows far from the origin, as statistics are, and of unequal spread."""
    random = np.random.default_rng(seed)
    return random.normal(20.0, 5.0, d) + random.normal(size=(n, d)) * random.uniform(0.1, 3.0, d)


@settings(deadline=None)
@given(n=st.integers(0, 5), m=st.integers(1, 8), d=st.integers(1, 12), seed=st.integers(0, 1000))
def test_distances_are_those_of_loops(n: int, m: int, d: int, seed: int) -> None:
    """Every query against every reference, one pair after the other."""
    queries, references = clips(n, d, seed), clips(m, d, seed + 1)
    euclidean, cosine = [], []
    for q in queries:
        euclidean.append(min(float(np.sqrt(np.sum((q - r) ** 2))) for r in references))
        cosine.append(min(1.0 - float(q @ r / np.sqrt(q @ q) / np.sqrt(r @ r)) for r in references))
    found = euclidean_distance_to_nearest(queries, references)
    assert found.shape == (n,)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, euclidean, rtol=1e-9)
    np.testing.assert_allclose(cosine_distance_to_nearest(queries, references), cosine, rtol=0, atol=1e-14)


def test_distances_of_the_size_that_is_served_are_scipys() -> None:
    queries, references = clips(7, 936), clips(60, 936, seed=1)
    np.testing.assert_allclose(
        euclidean_distance_to_nearest(queries, references), cdist(queries, references).min(axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(
        cosine_distance_to_nearest(queries, references), cdist(queries, references, "cosine").min(axis=1), atol=1e-14
    )


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_small_distances_keep_their_digits(gap: float) -> None:
    """Where 1 - cosine and |q|^2 - 2 qr + |r|^2 would leave none: the logarithm of a distance is what is scored."""
    references = np.eye(3, 8)
    angles = gap * np.array([1.0, 2.0])
    queries = np.zeros((2, 8))
    queries[:, 1], queries[:, 5] = np.cos(angles), np.sin(angles)
    np.testing.assert_allclose(cosine_distance_to_nearest(3.0 * queries, references), 2 * np.sin(angles / 2) ** 2, 1e-6)
    np.testing.assert_allclose(euclidean_distance_to_nearest(queries, references), 2 * np.sin(angles / 2), 1e-6)


def test_a_reference_is_at_distance_zero_from_itself_and_lengths_do_not_count_for_the_cosine() -> None:
    """In float32 too, as networks give embeddings."""
    references = clips(20, 128).astype(np.float32)
    assert (euclidean_distance_to_nearest(references, references) == 0.0).all()
    assert (cosine_distance_to_nearest(4.0 * references, references) < 1e-30).all()
    opposite = cosine_distance_to_nearest(-references[:1], references[:1])
    np.testing.assert_allclose(opposite, 2.0, rtol=1e-12)


def test_what_has_no_distance_is_refused() -> None:
    """No reference, another dimension, no direction."""
    with pytest.raises(ValueError, match="at least one clip"):
        euclidean_distance_to_nearest(np.zeros((2, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"not \(2, 3\) and \(2, 4\)"):
        euclidean_distance_to_nearest(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="no direction"):
        cosine_distance_to_nearest(np.ones((2, 3)), np.zeros((1, 3)))
