"""References and geometry of a section against plain loops over its definition."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.compact import (
    CompactSection,
    Heard,
    Whitening,
)
from models.fusion import Spread
from models.vocabulary import Domain, SubSystem

K = 3
N_DYNAMICS = 936
KINDS = (SubSystem.A, SubSystem.L)


def unit(x: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / lengths, np.float32)


def heard(n: int, seed: int) -> Heard:
    random = np.random.default_rng(seed)
    embeddings = {kind: unit(random.normal(size=(n, K, 128))) for kind in KINDS}
    return Heard(embeddings, random.normal(size=(n, 256 + N_DYNAMICS)).astype(np.float32))


def whitening(seed: int, r: int = 6) -> Whitening:
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(N_DYNAMICS, r)))[0].T
    return Whitening(
        random.uniform(0.5, 2.0, N_DYNAMICS), 0.4, directions.astype(np.float32), random.uniform(0.1, 9.0, r)
    )


def section(n: int = 12, target: int = 3) -> CompactSection:
    """``n`` source clips and a few of the target domain, dealt in turn."""
    return CompactSection(
        heard=heard(n + target, 1),
        folds=np.arange(n + target) % K,
        is_target=np.arange(n + target) >= n,
        attributes=("slow", "fast"),
        attribute_of=np.arange(n + target) % 2,
        whitenings=tuple(whitening(fold) for fold in range(K)),
        spreads={kind: Spread(0.1, 0.2, n) for kind in (*KINDS, SubSystem.F)},
        counted=(*KINDS, SubSystem.F),
    )


def test_a_whitening_turns_mahalanobis_into_euclid() -> None:
    """The distance by the inverse of the whole covariance matrix of scaled dynamics, in float64."""
    geometry = whitening(0)
    x, y = np.random.default_rng(3).normal(size=(2, N_DYNAMICS))
    covariance = (
        geometry.floor * np.eye(N_DYNAMICS) + (geometry.directions.T * geometry.variances) @ geometry.directions
    )
    difference = (x - y) / geometry.scale
    expected = np.sqrt(difference @ np.linalg.solve(covariance, difference))
    found = np.linalg.norm(geometry(x[None]).astype(float) - geometry(y[None]).astype(float))
    assert found == pytest.approx(expected, rel=1e-5)


def test_without_residuals_all_directions_are_alike() -> None:
    geometry = Whitening(np.full(N_DYNAMICS, 2.0), 0.25, np.empty((0, N_DYNAMICS), np.float32), np.empty(0))
    x = np.ones((1, N_DYNAMICS))
    np.testing.assert_allclose(geometry(x), x)


def slow_x(own: CompactSection, kind: SubSystem, fold: int, row: int, references: list[int]) -> float:
    """Straight from the definition, one pair at a time."""
    distances = []
    for other in references:
        if kind is SubSystem.F:
            x, y = (own.whitenings[fold](own.heard.dynamics[[i]])[0].astype(float) for i in (row, other))
            distances.append(np.sqrt(((x - y) ** 2).sum()))
        else:
            x, y = (own.heard.embeddings[kind][i, fold].astype(float) for i in (row, other))
            distances.append(1.0 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    return float(np.log(max(min(distances), 1e-9)))


@pytest.mark.parametrize("kind", [*KINDS, SubSystem.F])
def test_a_training_clip_meets_the_clips_outside_its_fold_and_of_its_domain(kind: SubSystem) -> None:
    own = section()
    found = own.held_out_log_distances()[kind]
    for row in range(15):
        fold, domain = own.folds[row], own.is_target[row]
        references = [i for i in range(15) if own.folds[i] != fold and own.is_target[i] == domain]
        assert found[row] == pytest.approx(slow_x(own, kind, int(fold), row, references), rel=1e-5)


def test_a_target_clip_without_others_of_its_domain_meets_source_clips() -> None:
    """One target clip: none is left outside its fold."""
    own = section(target=1)
    source = [i for i in range(12) if own.folds[i] != own.folds[12]]
    expected = slow_x(own, SubSystem.A, int(own.folds[12]), 12, source)
    assert own.held_out_log_distances()[SubSystem.A][12] == pytest.approx(expected, rel=1e-5)


def test_a_new_clip_s_x_is_the_mean_of_the_folds() -> None:
    own, new = section(), heard(4, 9)
    found = own.log_distances(new, own.references(Domain.SOURCE))
    for kind in KINDS:
        by_fold = []
        for fold in range(K):
            references = own.heard.embeddings[kind][(own.folds != fold) & ~own.is_target, fold].astype(float)
            cosines = new.embeddings[kind][:, fold].astype(float) @ references.T
            by_fold.append(np.log(1.0 - cosines.max(axis=1)))
        np.testing.assert_allclose(found[kind], np.mean(by_fold, axis=0), rtol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, SubSystem.F])
def test_pairs_are_of_source_clips_and_the_mean_of_the_folds(kind: SubSystem) -> None:
    own = section(4)
    expected = [
        np.mean([slow_x(own, kind, fold, row, [other]) for fold in range(K)])
        for row in range(4)
        for other in range(row + 1, 4)
    ]
    np.testing.assert_allclose(own.source_pairs()[kind], expected, rtol=1e-5)


def test_a_single_source_clip_makes_no_pair_and_many_are_thinned_out() -> None:
    assert section(1).source_pairs() == {}
    assert all(len(x) == 67 * 66 // 2 for x in section(201).source_pairs().values())


def test_registered_clips_are_references_in_every_fold() -> None:
    """One that is scored against itself has the smallest distance there is."""
    own, new = section(), heard(3, 10)
    x = own.log_distances(new, own.registered(new))
    for kind in own.counted:
        np.testing.assert_allclose(x[kind], np.log(1e-9))


def test_the_score_is_of_the_sub_systems_that_count() -> None:
    own = replace(section(), counted=KINDS)
    x = own.log_distances(heard(5, 11), own.references(Domain.SOURCE))
    assert set(x) == set(KINDS)
    log_p = own.log_p_values(x)
    np.testing.assert_allclose(own.score(log_p), -0.5 * (log_p[SubSystem.A] + log_p[SubSystem.L]))


def test_too_few_source_clips_give_no_p_value() -> None:
    own = replace(section(n=2), spreads={})
    with pytest.raises(ValueError, match="fewer than 3"):
        own.log_p_values(own.held_out_log_distances())


@pytest.mark.parametrize(
    "change",
    [
        {"folds": np.full(15, K)},
        {"folds": np.zeros(4, np.int64)},
        {"is_target": np.ones(15, bool)},
        {"attribute_of": np.full(15, 2)},
        {"counted": ()},
        {"counted": (SubSystem.R,)},
        {"whitenings": ()},
        {"spreads": {SubSystem.A: Spread(0.0, 1.0, 3)}},
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each says its own
        replace(section(), **change)  # type: ignore[arg-type]
