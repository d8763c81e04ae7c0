"""Mixtures against scikit-learn's EM and scipy's densities."""

import io
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from models.mixtures import REGULARISATION, Mixture, clip_mixture, fit_mixture, initial_parameters

Array = NDArray[np.float64]
D = 128


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The oracles too are quicker so."""
    with threadpool_limits(limits=1):
        yield


def unit(x: Array) -> Array:
    lengths: Array = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / lengths


def clusters(n: int, n_components: int, *, spread: float = 0.5, d: int = D, seed: int = 0) -> tuple[Array, Array]:
    """Unit vectors about as many random centres as components, and those centres."""
    random = np.random.default_rng(seed)
    centers = unit(random.normal(size=(n_components, d)))
    x = centers[random.integers(0, n_components, n)] + spread * random.normal(size=(n, d)) / np.sqrt(d)
    return unit(x).astype(np.float32).astype(np.float64), centers


def queries(x: Array, seed: int = 1) -> Array:
    """The clips themselves, near and far ones, all unit vectors in float32."""
    random = np.random.default_rng(seed)
    near = unit(x + 0.3 * random.normal(size=x.shape) / np.sqrt(x.shape[1]))
    far = unit(random.normal(size=(50, x.shape[1])))
    return np.concatenate([x, near, far]).astype(np.float32).astype(np.float64)


def slow_em(x: Array, centers: Array, regularisation: float = REGULARISATION) -> GaussianMixture:
    """scikit-learn's EM from FACTS 5's start, the start written clip by clip."""
    n, (size, d) = len(x), centers.shape
    members: list[list[Array]] = [[] for _ in range(size)]
    for clip in x:
        members[int(np.argmin([np.linalg.norm(clip - center) for center in centers]))].append(clip)
    precisions = []
    for clips in members:
        covariance = regularisation * np.eye(d)
        for clip in clips:
            away = clip - np.mean(clips, axis=0)
            covariance += np.outer(away, away) / len(clips)
        precisions.append(np.linalg.inv(covariance))
    return GaussianMixture(
        size,
        reg_covar=regularisation,
        weights_init=[(len(clips) + 1) / (n + size) for clips in members],
        means_init=centers,
        precisions_init=np.array(precisions),
        random_state=7,
    ).fit(x)


def densities(weights: Array, means: Array, covariances: Array, x: Array) -> Array:
    """Weighted log-likelihoods, (n, k), by scipy."""
    return np.stack(
        [
            np.log(weight) + np.atleast_1d(multivariate_normal(mean, covariance).logpdf(x))
            for weight, mean, covariance in zip(weights, means, covariances, strict=True)
        ],
        axis=1,
    )


@pytest.mark.parametrize(
    ("n", "n_components", "spread"),
    [
        pytest.param(40, 1, 0.5, id="fewer clips than dimensions"),
        pytest.param(300, 1, 1.0, id="full rank"),
        pytest.param(300, 1, 0.05, id="one tight cluster"),
        pytest.param(70, 16, 1.0, id="a plant's section, S = 16"),
        pytest.param(400, 2, 0.3, id="full rank twice"),
        pytest.param(20, 16, 0.5, id="hardly more clips than components"),
    ],
)
def test_a_float32_mixture_is_what_scikit_learn_finds(n: int, n_components: int, spread: float) -> None:
    """To 1e-3 nats, for clips seen, near and far; every component that has clips, in scikit-learn's order."""
    x, centers = clusters(n, n_components, spread=spread)
    oracle = slow_em(x, centers)
    kept = oracle.weights_ * n > 1e-9
    mixture = fit_mixture(x, n_components, centers=centers, seed=0)
    assert mixture.means.dtype == mixture.factors.dtype == np.float32
    np.testing.assert_allclose(np.exp(mixture.log_weights), oracle.weights_[kept], rtol=1e-6)
    np.testing.assert_allclose(mixture.means, oracle.means_[kept], atol=1e-7)
    at = queries(x)
    expected = densities(oracle.weights_[kept], oracle.means_[kept], oracle.covariances_[kept], at)
    np.testing.assert_allclose(mixture.weighted_log_likelihoods(at.astype(np.float32)), expected, rtol=0, atol=1e-3)
    # and the mixture as a whole, as scikit-learn sums it
    if kept.all():
        total = np.logaddexp.reduce(mixture.weighted_log_likelihoods(at), axis=1)
        np.testing.assert_allclose(total, oracle.score_samples(at), rtol=0, atol=1e-3)


def test_the_start_is_that_of_a_plain_loop() -> None:
    """Weights, means and covariances of FACTS 5, with a centre that no clip is nearest to."""
    x, centers = clusters(30, 3, d=12)
    centers = np.concatenate([centers, -unit(x.mean(axis=0, keepdims=True))])
    start = initial_parameters(x, centers, 1e-3)
    nearest = np.array([int(np.argmin([np.sum((clip - center) ** 2) for center in centers])) for clip in x])
    assert set(nearest) == {0, 1, 2}
    np.testing.assert_allclose(start["weights_init"], [((nearest == k).sum() + 1) / 34 for k in range(4)])
    np.testing.assert_array_equal(start["means_init"], centers)
    np.testing.assert_allclose(start["precisions_init"][3], 1000.0 * np.eye(12))
    for k in range(3):
        own = x[nearest == k] - x[nearest == k].mean(axis=0)
        covariance = own.T @ own / len(own) + 1e-3 * np.eye(12)
        np.testing.assert_allclose(start["precisions_init"][k] @ covariance, np.eye(12), atol=1e-9)


def test_float32_and_float64_agree_on_unit_vectors() -> None:
    """What float32 costs, in the worst case found: far clips in the span of one broad component."""
    random = np.random.default_rng(3)
    plane = random.normal(size=(5, D))
    x = unit(random.normal(size=(500, 5)) @ plane)
    single = fit_mixture(x, 1, centers=None, seed=0)
    double = fit_mixture(x, 1, centers=None, seed=0, dtype=np.float64)
    assert double.means.dtype == np.float64
    at = queries(x)
    difference = np.abs(single.weighted_log_likelihoods(at) - double.weighted_log_likelihoods(at))
    assert 0 < difference.max() < 1e-3


def test_temporal_maxima_are_exact_in_float64() -> None:
    """A single Gaussian of values that are far from normalised and strongly correlated: mean and covariance, ddof 0."""
    random = np.random.default_rng(4)
    x = 3.0 + random.normal(size=(60, 4)) @ random.normal(size=(4, D)) + 0.3 * random.normal(size=(60, D))
    gaussian = fit_mixture(x, 1, centers=None, seed=0, dtype=np.float64)
    covariance = np.cov(x, rowvar=False, ddof=0) + 1e-3 * np.eye(D)
    at = x[:20] + random.normal(size=(20, D))
    np.testing.assert_allclose(
        gaussian.weighted_log_likelihoods(at)[:, 0],
        multivariate_normal(x.mean(axis=0), covariance).logpdf(at),
        rtol=1e-8,
    )


def test_a_component_keeps_no_more_rows_than_its_clips_span() -> None:
    """One component of n clips: rank n - 1, or d."""
    x, centers = clusters(10, 1)
    assert fit_mixture(x, 1, centers=centers, seed=0).ranks.tolist() == [9]
    x, centers = clusters(200, 1)
    assert fit_mixture(x, 1, centers=centers, seed=0).ranks.tolist() == [D]
    x, centers = clusters(70, 16, spread=0.1)
    mixture = fit_mixture(x, 16, centers=centers, seed=0)
    assert mixture.ranks.sum() <= 70 - mixture.n_components


def test_an_emptied_component_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """scikit-learn leaves it at the origin, where it would be the best component of every clip far from the others."""
    x, centers = clusters(30, 2, spread=0.1)
    centers = np.concatenate([centers[:1], -x.mean(axis=0, keepdims=True), centers[1:]])
    oracle = slow_em(x, centers)
    assert 0 < oracle.weights_[1] < 1e-15
    np.testing.assert_allclose(oracle.means_[1], np.zeros(D), atol=1e-9)
    with caplog.at_level(logging.INFO, "models.mixtures"):
        mixture = fit_mixture(x, 3, centers=centers, seed=0)
    assert "dropped 1 of 3 components" in caplog.text
    kept = [0, 2]
    at = queries(x)
    expected = densities(oracle.weights_[kept], oracle.means_[kept], oracle.covariances_[kept], at)
    np.testing.assert_allclose(mixture.weighted_log_likelihoods(at), expected, rtol=0, atol=1e-3)
    at_origin = densities(oracle.weights_[1:2], oracle.means_[1:2], oracle.covariances_[1:2], at[-1:])
    assert at_origin[0, 0] > expected[-1].max() + 100


@pytest.mark.parametrize("n", [1, 2, 4])
def test_no_more_clips_than_components_are_the_components(n: int) -> None:
    x, centers = clusters(n, 4)
    mixture = fit_mixture(x, 4, centers=centers, seed=0)
    at = queries(x)
    expected = densities(np.full(n, 1 / n), x, np.tile(1e-3 * np.eye(D), (n, 1, 1)), at)
    np.testing.assert_allclose(mixture.weighted_log_likelihoods(at), expected, rtol=0, atol=1e-3)
    assert mixture.ranks.tolist() == [0] * n


def test_the_target_mixture_has_its_closed_form() -> None:
    """Three clips: max_k = 64 (-ln(2 pi 1e-3)) - ln 3 - (1 - best cosine) / 1e-3 = 323.37 - 1000 (1 - best cosine)."""
    x, _ = clusters(3, 3, seed=5)
    at = queries(x)
    best = clip_mixture(x).weighted_log_likelihoods(at).max(axis=1)
    cosine = (at @ x.T).max(axis=1)
    constant = 64 * -np.log(2 * np.pi * 1e-3) - np.log(3)
    assert round(constant, 2) == 323.37
    np.testing.assert_allclose(best, constant - (1 - cosine) / 1e-3, rtol=0, atol=1e-3)


def test_the_target_mixture_is_where_em_ends_for_well_separated_clips() -> None:
    """The paper's own way: three components started at the three clips, fitted by scikit-learn."""
    x, _ = clusters(3, 3, seed=6)
    oracle = slow_em(x, x)
    at = queries(x)
    expected = densities(oracle.weights_, oracle.means_, oracle.covariances_, at)
    np.testing.assert_allclose(clip_mixture(x).weighted_log_likelihoods(at), expected, rtol=0, atol=1e-3)


def test_without_centres_scikit_learns_seeded_k_means_starts() -> None:
    x, _ = clusters(90, 4, spread=1.0)
    oracle = GaussianMixture(4, reg_covar=1e-3, random_state=11).fit(x)
    mixture = fit_mixture(x, 4, centers=None, seed=11)
    at = queries(x)
    expected = densities(oracle.weights_, oracle.means_, oracle.covariances_, at)
    np.testing.assert_allclose(mixture.weighted_log_likelihoods(at), expected, rtol=0, atol=1e-3)


def test_equal_seeds_give_equal_mixtures_and_others_may_not() -> None:
    x, _ = clusters(60, 12, spread=2.0)
    first, again, other = (fit_mixture(x, 6, centers=None, seed=seed).to_arrays() for seed in (1, 1, 2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    assert first["means"].shape != other["means"].shape or not np.array_equal(first["means"], other["means"])


def test_em_that_does_not_converge_warns_nobody() -> None:
    """Warnings are errors here; scikit-learn itself would warn of ten clips that are two, ten times."""
    x = np.repeat(clusters(2, 2)[0], 5, axis=0)
    with pytest.warns(ConvergenceWarning):
        GaussianMixture(4, random_state=0).fit(x)
    mixture = fit_mixture(x, 4, centers=None, seed=0)
    assert mixture.n_components == 2  # the two others had no clip


@st.composite
def mixtures(draw: st.DrawFn, d: int = 6) -> Mixture:
    """Any mixture of the form: components of every rank from 0, among them runs of empty ones."""
    ranks = draw(st.lists(st.integers(0, d), min_size=1, max_size=6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = len(ranks)
    factors, log_determinants = [], []
    for rank in ranks:
        values = random.uniform(1e-4, 0.5, rank)
        basis = np.linalg.qr(random.normal(size=(d, d)))[0][:rank]
        factors.append(basis * np.sqrt(values / (1e-3 * (values + 1e-3)))[:, None])
        log_determinants.append(d * np.log(1e-3) + np.log1p(values / 1e-3).sum())
    return Mixture(
        log_weights=np.log(random.dirichlet(np.ones(k))),
        means=random.normal(size=(k, d)),
        factors=np.concatenate(factors),
        ranks=np.array(ranks, np.int64),
        log_determinants=np.array(log_determinants),
        regularisation=1e-3,
    )


def dense(mixture: Mixture) -> Array:
    """The covariance matrices that a mixture stands for, (k, d, d)."""
    d = mixture.means.shape[1]
    ends = np.cumsum(mixture.ranks)
    parts = [mixture.factors[end - rank : end] for end, rank in zip(ends, mixture.ranks, strict=True)]
    return np.array([np.linalg.inv(np.eye(d) / mixture.regularisation - w.T @ w) for w in parts])


@given(mixture=mixtures(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_low_rank_form_is_the_density(mixture: Mixture, seed: int) -> None:
    """Whatever the ranks, empty segments first, last and in between."""
    x = np.random.default_rng(seed).normal(size=(4, mixture.means.shape[1]))
    covariances = [(matrix + matrix.T) / 2 for matrix in dense(mixture)]
    expected = densities(np.exp(mixture.log_weights), mixture.means.astype(np.float64), np.array(covariances), x)
    np.testing.assert_allclose(mixture.weighted_log_likelihoods(x), expected, rtol=1e-6, atol=1e-5)


@given(mixture=mixtures(), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_components_does_not_matter(mixture: Mixture, seed: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(mixture.n_components)))
    ends = np.cumsum(mixture.ranks)
    parts = [mixture.factors[end - rank : end] for end, rank in zip(ends, mixture.ranks, strict=True)]
    shuffled = Mixture(
        log_weights=mixture.log_weights[order],
        means=mixture.means[order],
        factors=np.concatenate([parts[k] for k in order]),
        ranks=mixture.ranks[order],
        log_determinants=mixture.log_determinants[order],
        regularisation=mixture.regularisation,
    )
    x = np.random.default_rng(seed).normal(size=(5, mixture.means.shape[1]))
    found, expected = shuffled.weighted_log_likelihoods(x), mixture.weighted_log_likelihoods(x)
    np.testing.assert_allclose(found, expected[:, order], rtol=1e-12)


@given(mixture=mixtures(), single=st.booleans())
@settings(max_examples=25, deadline=None)
def test_arrays_survive_a_pickle_and_a_numpy_file(mixture: Mixture, single: bool) -> None:
    """Bit for bit, likelihoods too."""
    arrays = mixture.to_arrays()
    if single:
        arrays |= {name: arrays[name].astype(np.float32) for name in ("means", "factors")}
        mixture = Mixture.from_arrays(arrays)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file) as stored:
        for copy in (pickle.loads(pickle.dumps(arrays)), dict(stored)):
            assert all(type(values) is np.ndarray for values in copy.values())
            found = Mixture.from_arrays(copy)
            assert found.means.dtype == (np.float32 if single else np.float64)
            np.testing.assert_array_equal(
                found.weighted_log_likelihoods(mixture.means), mixture.weighted_log_likelihoods(mixture.means)
            )


BROKEN: dict[str, tuple[str, Any]] = {
    "a row too few": ("factors", np.zeros((2, 4), np.float32)),
    "another dtype": ("factors", np.zeros((3, 4))),
    "half precision": ("means", np.zeros((3, 4), np.float16)),
    "no components": ("means", np.zeros((0, 4), np.float32)),
    "another width": ("means", np.zeros((3, 5), np.float32)),
    "NaN": ("means", np.full((3, 4), np.nan, np.float32)),
    "a weight of zero": ("log_weights", np.array([0.0, -np.inf, 0.0])),
    "single log-weights": ("log_weights", np.zeros(3, np.float32)),
    "two determinants": ("log_determinants", np.zeros(2)),
    "a negative rank": ("ranks", np.array([4, -1, 0])),
    "a rank beyond d": ("ranks", np.array([5, 0, -2])),
    "ranks of floats": ("ranks", np.array([1.0, 2.0, 0.0])),
    "no regularisation": ("regularisation", np.array(0.0)),
    "a row of regularisations": ("regularisation", np.array([1e-3])),
    "something else": ("covariances", np.zeros(3)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_arrays_that_are_no_mixture_are_refused(what: str) -> None:
    name, values = BROKEN[what]
    arrays: dict[str, Any] = {
        "log_weights": np.full(3, -np.log(3)),
        "means": np.zeros((3, 4), np.float32),
        "factors": np.zeros((3, 4), np.float32),
        "ranks": np.array([1, 2, 0]),
        "log_determinants": np.zeros(3),
        "regularisation": np.array(1e-3),
    }
    Mixture.from_arrays(arrays)
    with pytest.raises(ValueError, match="regularisation" if name == "covariances" else "must be"):
        Mixture.from_arrays({**arrays, name: values})


def test_a_missing_array_is_refused() -> None:
    arrays = clip_mixture(np.eye(3)).to_arrays()
    del arrays["ranks"]
    with pytest.raises(ValueError, match="ranks"):
        Mixture.from_arrays(arrays)


@pytest.mark.parametrize(
    ("x", "n_components", "centers"),
    [
        pytest.param(np.zeros((0, 3)), 2, None, id="no clips"),
        pytest.param(np.zeros(3), 2, None, id="one row without its axis"),
        pytest.param(np.array([[0.0, np.nan]]), 2, None, id="NaN"),
        pytest.param(np.zeros((3, 2)), 0, None, id="no components"),
        pytest.param(np.zeros((3, 2)), 2, np.zeros((3, 2)), id="a centre too many"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: Array, n_components: int, centers: Array | None) -> None:
    with pytest.raises(ValueError, match=r"A mixture|centers"):
        fit_mixture(x, n_components, centers=centers, seed=0)


def test_clips_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(clips, 3\)"):
        clip_mixture(np.eye(3)).weighted_log_likelihoods(np.zeros((1, 4)))


def test_a_registration_needs_no_scikit_learn() -> None:
    """It costs a second and 124 MB at the first import."""
    program = (
        "import sys, numpy; from models.mixtures import clip_mixture; clip_mixture(numpy.eye(3)); "
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
