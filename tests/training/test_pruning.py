"""Which member is marginal: what nobody confirms goes first, then what is said twice, by closed forms and by draws."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.decision import p_value
from models.errors import DataError
from training.pruning import Confirmed, Curve, Pruned, Step, eliminate, p_values

Array = NDArray[np.float64]
CLIPS = 4000


def scores(
    loadings: Sequence[float], noises: Sequence[float], seed: int = 0, clips: int = CLIPS
) -> tuple[Array, Array]:
    """(clips, members) scores: so much of a common signal, and noise of each member's own; and the signal, (clips,)."""
    random = np.random.default_rng(seed)
    signal = random.normal(size=clips)
    own = random.normal(size=(clips, len(loadings))) * np.array(noises)
    return signal[:, None] * np.array(loadings) + own, signal


def names(count: int) -> list[str]:
    """Each member of a network of its own."""
    return [f"network {i}" for i in range(count)]


def order(*places: Array, networks: Sequence[str] | None = None) -> list[int]:
    """The members in the order in which they go."""
    confirmed = Confirmed.of(places, networks or names(places[0].shape[1]))
    return [gone for gone, _ in eliminate(confirmed) if gone is not None]


def test_what_no_other_network_hears_goes_first() -> None:
    """A member of pure noise, as loud as the others, though without it the sum resembles itself the least."""
    made, _ = scores([1, 1, 0, 1, 1], [0.5, 0.5, np.sqrt(1.25), 0.5, 0.5])
    assert order(made)[0] == 2
    total = made.sum(axis=1)
    resemblance = [np.corrcoef(total, total - made[:, member])[0, 1] for member in range(5)]
    assert int(np.argmin(resemblance)) == 2


def test_of_two_that_say_the_same_one_goes_first() -> None:
    """Two equal snapshots of a network: the others' errors cancel, theirs would count twice."""
    made, _ = scores([1, 1, 1, 1], [1, 1, 1, 1])
    with_copy = np.concatenate([made, made[:, :1]], axis=1)
    gone = order(with_copy, networks=["a", "b", "c", "d", "a"])
    assert gone[0] in {0, 4}
    assert gone[1] not in {0, 4}


def test_snapshots_of_one_network_do_not_confirm_each_other() -> None:
    """Three that share a whim are no witnesses for it: the first to go are two of them."""
    made, _ = scores([1] * 6, [0.3, 0.3, 0.3, 1, 1, 1])
    made[:, :3] += 2.0 * np.random.default_rng(9).normal(size=(CLIPS, 1))
    assert set(order(made, networks=["a", "a", "a", "b", "c", "d"])[:2]) < {0, 1, 2}


def test_agreement_is_the_correlation_with_the_common_signal() -> None:
    """Of some members, by that of all, where all hear about as much of it; a network alone has its own snapshots."""
    made, signal = scores([1, 0.9, 1.1, 0.95, 1.05], [1, 2, 1.5, 1, 0.5])
    whole = np.corrcoef(made.sum(axis=1), signal)[0, 1]
    for networks in (names(5), ["one"] * 5):
        confirmed = Confirmed.of([made], networks)
        for members in ([0, 1, 2, 3, 4], [1, 3], [4]):
            correlation = np.corrcoef(made[:, members].sum(axis=1), signal)[0, 1]
            assert confirmed.agreement(members) == pytest.approx(correlation / whole, abs=0.03)


def test_sections_count_by_their_clips_and_not_by_their_scores() -> None:
    """Another offset and another unit in a section change nothing; sections of no or of equal clips say nothing."""
    one, _ = scores([1, 1, 0.5, 1], [1, 1, 1, 0.4], clips=300)
    other, _ = scores([0.5, 1, 1, 1], [1, 1, 1, 0.4], seed=1, clips=100)
    plain = Confirmed.of([one, other], names(4))
    scaled = Confirmed.of([one, 1000.0 * other - 7e4, np.ones((5, 4)), np.empty((0, 4))], names(4))
    np.testing.assert_allclose(scaled.covariance, plain.covariance, rtol=1e-9)
    np.testing.assert_allclose(scaled.confirmed, plain.confirmed, rtol=1e-9)


def test_where_networks_have_nothing_in_common_the_last_goes() -> None:
    """No agreement to lose: equal choices are made by the members' order."""
    confirmed = Confirmed.of([np.zeros((9, 3))], names(3))
    assert confirmed.agreement([0, 1, 2]) == 0.0
    assert [left for _, left in eliminate(confirmed)] == [(0, 1, 2), (0, 1), (0,)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 7).flatmap(
        lambda members: st.tuples(
            st.integers(0, 999),
            st.lists(st.sampled_from("abc"), min_size=members, max_size=members),
            st.lists(st.sets(st.integers(0, members - 1), min_size=1), max_size=3),
        )
    )
)
def test_steps_are_nested_and_leave_each_machine_type_a_member(
    made: tuple[int, list[str], list[set[int]]],
) -> None:
    """One less a step, each time the best; equal scores, equal choices; the last step cannot be made smaller."""
    seed, networks, needed = made
    drawn, _ = scores([1.0] * len(networks), [1.0] * len(networks), seed, clips=12)
    confirmed = Confirmed.of([drawn], networks)
    steps = list(eliminate(confirmed, needed))
    assert steps == list(eliminate(Confirmed.of([drawn.copy()], networks), needed))
    assert steps[0] == (None, tuple(range(len(networks))))
    for (_, before), (gone, left) in pairwise(steps):
        assert set(before) - set(left) == {gone}
        assert all(others & set(left) for others in needed)
        for other in before:
            rest = [member for member in before if member != other]
            if all(others & set(rest) for others in needed):
                assert confirmed.agreement(left) >= confirmed.agreement(rest)
    last = set(steps[-1][1])
    assert all(len(last) == 1 or any(not others & (last - {one}) for others in needed) for one in last)


@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12))
def test_p_values_are_those_of_a_calibration(values: list[float]) -> None:
    """Clip by clip what is said when such a clip comes again, ties included."""
    assert p_values(np.array(values)).tolist() == [p_value(one, values) for one in values]


def test_the_curve_survives_the_manifest() -> None:
    """Written as plain values and read again; a bundle that was not pruned has none."""
    steps = (Step(2, None, 0.9, 0.0, 0.0), Step(1, "both-heads-s1-e0010", 0.8, 0.05, 0.02))
    pruned = Pruned("0" * 64, 1, (Curve(("fan", "pump"), steps),))
    assert Pruned.of({"clips": 3, "pruned": pruned.as_json()}) == pruned
    assert Pruned.of({"clips": 3}) is None


@pytest.mark.parametrize("told", ["whole", {"bundle": "0" * 64, "members": 1, "curves": [{"machine_types": ["fan"]}]}])
def test_a_manifest_that_tells_otherwise_is_refused_in_a_sentence(told: object) -> None:
    """Another release's, or changed by hand: a command answers with it, and not with a traceback."""
    with pytest.raises(
        DataError, match=r"\(pruned.*: .*\)\. It was changed by hand, or made by another release: prune"
    ):
        Pruned.of({"pruned": told})
