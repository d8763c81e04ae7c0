"""Systems beside each other, with told scores: totals, differences against a plain loop, the spread over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.errors import DataError
from models.vocabulary import Condition, Domain
from tests.training.told import Told, ignore, noisy, recording, recordings, scores
from training.evaluate import evaluate
from training.intervals import (
    difference_interval,
    harmonic_interval,
    mean_interval,
    partial_interval,
    score_interval,
    wider,
)
from training.metrics import Interval, harmonic_mean, official_score
from training.recordings import Recording
from training.resampling import Draws, interval
from training.scored import Contender, SystemName
from training.tables import Evaluation, System

NORMAL, ANOMALOUS = 30, 25
GIVEN = [
    *recordings(NORMAL, ANOMALOUS),
    *recordings(NORMAL, ANOMALOUS, domain=Domain.TARGET),
    *recordings(8, 20, machine_type="pump"),
]
"""Two places with enough normal clips for a pAUC, and one without."""


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain loop over a thousand draws would take minutes."""
    monkeypatch.setattr("training.resampling.RESAMPLES", 40)


def of(*contenders: Contender, given: Sequence[Recording] = GIVEN) -> Evaluation:
    return evaluate(contenders, given, advance=ignore)


def ours(seed: int = 0, **other: object) -> Told:
    """A system whose scores share the noise 1 with every other, and have their own."""
    return replace(Told(noisy(2.0, 1, 10 + seed), recipe="told", seed=seed), **other)  # type: ignore[arg-type]


FLOOR = Told(noisy(1.4, 1, 20), name=SystemName.FLOOR)


def drawn_areas(system: System, max_fpr: float | None) -> np.ndarray:
    """AUCs or pAUCs by scikit-learn of every draw and place, of clips that are really repeated: (places, draws)."""
    found = []
    for row in system.rows:
        own = [clip for clip in system.scored if clip.recording.place == row.place]
        kinds = []
        for condition in Condition:
            clips = [clip for clip in own if clip.recording.condition is condition]
            names = [clip.recording.recording for clip in clips]
            draws = Draws.of(names, *row.place, condition)
            assert draws is not None
            kinds.append((scores(clips, condition), draws.weights(names).astype(int)))
        (normal, normal_counts), (anomalous, anomalous_counts) = kinds
        found.append(
            [
                roc_auc_score(
                    np.repeat([0, 1], [counts.sum(), others.sum()]),
                    np.concatenate([np.repeat(normal, counts), np.repeat(anomalous, others)]),
                    max_fpr=max_fpr,
                )
                for counts, others in zip(normal_counts, anomalous_counts, strict=True)
            ]
        )
    return np.array(found)


def width(found: Interval | None) -> float:
    assert found is not None
    return found[1] - found[0]


def test_a_row_has_the_wider_of_two_intervals() -> None:
    """That of the draws, against a plain loop that repeats clips as they are drawn, and that of so many recordings."""
    (system,) = of(ours()).systems
    aucs, paucs = drawn_areas(system, None), drawn_areas(system, 0.1)
    for place, row in enumerate(system.rows):
        counts = row.normal, row.anomalous
        assert row.auc_interval == pytest.approx(wider(interval(aucs[place]), score_interval(row.auc or 0.0, *counts)))
        partial = wider(interval(paucs[place]), partial_interval(row.official_pauc or 0.0, *counts))
        assert row.pauc_interval == (pytest.approx(partial) if row.normal >= 20 else None)


def test_totals_reach_as_far_as_their_rows_let_them() -> None:
    """Each mean by the intervals of its figures; AUC and pAUC of one place go together, as the draws show."""
    (system,) = of(ours()).systems
    aucs, paucs = drawn_areas(system, None), drawn_areas(system, 0.1)
    values = [np.array([getattr(row, name) for row in system.rows]) for name in ("auc", "official_pauc")]
    ends = [np.array([row.auc_interval for row in system.rows])]
    ends.append(
        np.array(
            [
                wider(interval(paucs[place]), partial_interval(row.official_pauc or 0.0, row.normal, row.anomalous))
                for place, row in enumerate(system.rows)
            ]
        )
    )
    together = np.eye(6)
    for place in range(3):
        together[place, place + 3] = together[place + 3, place] = np.corrcoef(aucs[place], paucs[place])[0, 1]
    totals = system.totals
    whole = harmonic_interval(np.concatenate(values), np.concatenate(ends), together)
    assert totals.official_score.interval == pytest.approx(whole)
    assert totals.harmonic_mean_auc.interval == pytest.approx(harmonic_interval(values[0], ends[0], np.eye(3)))
    assert totals.mean_auc.interval == pytest.approx(mean_interval(values[0], ends[0], np.eye(3)))


def test_a_difference_knows_what_both_hear_alike() -> None:
    """By both systems' own intervals, and how far they go together in the same draws."""
    evaluation = of(ours(), FLOOR)
    (found,) = evaluation.differences
    systems = evaluation.systems
    aucs, paucs = ([drawn_areas(system, most) for system in systems] for most in (None, 0.1))
    assert [group.place for group in found.groups] == [row.place for row in systems[0].rows]
    for place, group in enumerate(found.groups):
        rows = [system.rows[place] for system in systems]
        for name, drawn in (("auc", aucs), ("pauc", paucs)):
            estimate = getattr(group, name)
            if name == "pauc" and group.machine_type == "pump":
                assert (estimate.value, estimate.interval) == (None, None)
                continue
            both = tuple(getattr(row, name) for row in rows)
            together = float(np.corrcoef(drawn[0][place], drawn[1][place])[0, 1])
            expected = difference_interval(
                (both[0], both[1]), tuple(getattr(row, f"{name}_interval") for row in rows), together
            )
            assert estimate.value == pytest.approx(both[0] - both[1])
            assert estimate.interval == pytest.approx(expected)


def reaches(found: Interval | None, value: float | None) -> np.ndarray:
    """How far an interval reaches to either side."""
    assert found is not None
    assert value is not None
    return np.array([value - found[0], found[1] - value])


def combined(evaluation: Evaluation) -> np.ndarray:
    """How far the differences of AUCs reach together: groups are drawn apart, so that squares add up."""
    (found,) = evaluation.differences
    groups = [reaches(group.auc.interval, group.auc.value) for group in found.groups]
    return np.array([math.hypot(*sides) for sides in zip(*groups, strict=True)]) / len(groups)


def test_a_total_differs_as_surely_as_its_groups_let_it() -> None:
    """The mean AUC by what its groups' differences come to; the other totals are no surer than it by much."""
    evaluation = of(ours(), FLOOR)
    totals = evaluation.differences[0].totals
    reach = reaches(totals.mean_auc.interval, totals.mean_auc.value)
    assert reach == pytest.approx(combined(evaluation), rel=0.05)
    for one in (totals.harmonic_mean_auc, totals.official_score):
        assert (reaches(one.interval, one.value) > 0.7 * reach).all()


def test_groups_without_an_error_leave_their_total_as_unsure_as_they_are() -> None:
    """Three groups of which nothing is known but that both systems part them, and one that both hear alike.

    Only the latter changes from draw to draw, so that whole totals go together as it does: that says nothing of the
    three, by which the total is unsure.
    """
    given = [*recordings(60, 60)]
    for machine_type in ("pump", "valve", "slider"):
        given += recordings(4, 5, machine_type=machine_type)
    alike = noisy(1.5, 1)

    def heard(seed: int) -> Told:
        own = noisy(0.0, seed)
        return Told(
            lambda one, clip: (
                (alike if one.machine_type == "fan" else noisy(40.0, seed))(one, clip) + 0.02 * own(one, clip)
            ),
            name=SystemName.FLOOR if seed == 3 else SystemName.EARWITNESS,
        )

    evaluation = of(heard(2), heard(3), given=given)
    (found,) = evaluation.differences
    by_place = {group.machine_type: width(group.auc.interval) for group in found.groups}
    assert by_place.pop("fan") < 0.06
    assert min(by_place.values()) > 0.4
    value = found.totals.mean_auc.value
    assert (reaches(found.totals.mean_auc.interval, value) > 0.95 * combined(evaluation)).all()


def test_a_system_is_itself_where_nothing_errs() -> None:
    """Equal scores of every clip are one system; another that parts the same clips as well is another."""
    given = recordings(4, 5)
    one, other = Told(noisy(40.0, 1)), Told(noisy(40.0, 2), name=SystemName.FLOOR)
    (same,) = of(one, one, given=given).differences
    assert same.groups[0].auc.interval == (0.0, 0.0)
    assert same.totals.official_score.interval == (0.0, 0.0)
    (different,) = of(one, other, given=given).differences
    assert different.groups[0].auc.value == 0.0
    assert width(different.groups[0].auc.interval) > 0.3


def test_totals_are_those_of_the_rows() -> None:
    """The official score counts the pAUC that is not shown for want of normal clips."""
    (system,) = of(ours()).systems
    aucs, paucs = [row.auc for row in system.rows], [row.official_pauc for row in system.rows]
    assert [row.pauc for row in system.rows] == [*paucs[:2], None]
    assert system.totals.official_score.value == pytest.approx(official_score(aucs, paucs))
    assert system.totals.harmonic_mean_auc.value == pytest.approx(harmonic_mean(aucs))
    assert system.totals.mean_auc.value == pytest.approx(np.mean([auc for auc in aucs if auc is not None]))


def test_identical_systems_do_not_differ_at_all() -> None:
    """Not by rounding, not in one draw."""
    (found,) = of(ours(), ours()).differences
    for one in (*(group.auc for group in found.groups), found.totals.official_score, found.totals.mean_auc):
        assert (one.value, one.interval) == (0.0, (0.0, 0.0))


def test_exchanged_systems_differ_by_the_opposite() -> None:
    (one,), (other,) = of(ours(), FLOOR).differences, of(FLOOR, ours()).differences
    assert (one.minuend, one.subtrahend) == (other.subtrahend, other.minuend)
    for there, back in zip(one.groups, other.groups, strict=True):
        assert there.auc.value == -back.auc.value  # type: ignore[operator]
        assert there.auc.interval is not None
        assert back.auc.interval is not None
        assert there.auc.interval == pytest.approx((-back.auc.interval[1], -back.auc.interval[0]))


def test_pairing_beats_independent_intervals_of_systems_that_hear_the_same() -> None:
    """Scores that share most of their noise: the paired interval is less than half of what independent draws give."""
    alike = noisy(1.2, 1)
    with_noise = Told(lambda one, clip: alike(one, clip) + 0.3 * noisy(0.2, 2)(one, clip))
    evaluation = of(with_noise, Told(alike, name=SystemName.FLOOR))
    (found,) = evaluation.differences
    one, other = evaluation.systems

    def independent(estimates: Sequence[tuple[float | None, Interval | None]]) -> float:
        (first, ends), (second, others) = estimates
        assert None not in {first, second}
        return width(difference_interval((first or 0.0, second or 0.0), (ends or (0, 0), others or (0, 0)), 0.0))

    for place, group in enumerate(found.groups):
        rows = one.rows[place], other.rows[place]
        assert width(group.auc.interval) < 0.6 * independent([(row.auc, row.auc_interval) for row in rows])
    means = [(system.totals.mean_auc.value, system.totals.mean_auc.interval) for system in (one, other)]
    assert width(found.totals.mean_auc.interval) < 0.6 * independent(means)


def test_a_group_that_a_contender_lacks_is_noted_and_left_out() -> None:
    """Its row is there without figures; differences and their totals are over the shared groups, and say so."""
    lacking = replace(FLOOR, lacking={("fan", Domain.TARGET): "the floor has never heard it"})
    evaluation = of(ours(), lacking)
    first, other = evaluation.systems
    assert [row.place for row in first.rows] == [row.place for row in other.rows]
    missing = other.rows[1]
    assert (missing.domain, missing.normal, missing.auc, missing.false_alarm_rate) == (Domain.TARGET, 0, None, None)
    (found,) = evaluation.differences
    assert [group.place for group in found.groups] == [first.rows[0].place, first.rows[2].place]
    shared = [first.rows[0], first.rows[2]]
    mean = np.mean([row.auc for row in shared]) - other.totals.mean_auc.value  # type: ignore[operator]
    assert found.totals.mean_auc.value == pytest.approx(mean)
    told = "floor: 55 test recordings of fan 00 target left out: the floor has never heard it."
    assert told in evaluation.notes
    assert "floor: its means are over 2 of 3 groups; the differences are over shared groups." in evaluation.notes


def test_one_recording_of_a_group_that_is_lacking_is_the_whole_group() -> None:
    """Otherwise two systems would be measured on different clips under one name."""

    class Choosy(Told):
        def lacks(self, one: Recording) -> str | None:
            return "too loud" if one == GIVEN[3] else None

    evaluation = of(ours(), Choosy(noisy(1.0, 3), name=SystemName.FLOOR))
    assert [row.normal for row in evaluation.systems[1].rows] == [0, NORMAL, 8]


def test_a_single_recording_of_a_kind_has_no_interval() -> None:
    """Neither have the totals it stands in: what it would be with another recording, nobody knows."""
    given = [*GIVEN, *recordings(1, 20, machine_type="valve")]
    evaluation = of(ours(), FLOOR, given=given)
    row = evaluation.first.rows[-1]
    assert row.auc is not None
    assert row.auc_interval is None
    assert evaluation.first.totals.mean_auc.interval is None
    assert evaluation.differences[0].totals.mean_auc.interval is None
    assert evaluation.differences[0].groups[0].auc.interval is not None
    (note,) = [note for note in evaluation.notes if "one recording" in note]
    assert note.startswith("All clips that are normal are of one recording at valve 00 source: ")


def test_seeds_are_summarised() -> None:
    """Mean, least, greatest and number, by group and for the totals, of contenders that differ in the seed only."""
    evaluation = of(ours(0), ours(3), FLOOR, ours(7), ours(1, recipe="other"))
    (found,) = evaluation.spread
    assert (found.system, found.recipe, found.seeds) == (SystemName.EARWITNESS, "told", (0, 3, 7))
    systems = [evaluation.systems[place] for place in (0, 1, 3)]
    for place, group in enumerate(found.groups):
        aucs = [system.rows[place].auc for system in systems]
        assert group.auc is not None
        assert (group.auc.min, group.auc.max, group.auc.seeds) == (min(aucs), max(aucs), 3)  # type: ignore[type-var]
        assert group.auc.mean == pytest.approx(np.mean(aucs))  # type: ignore[arg-type]
        assert group.false_alarm_rate is not None
    assert found.groups[2].pauc is None
    official = [system.totals.official_score.value for system in systems]
    assert found.official_score is not None
    assert found.official_score.mean == pytest.approx(np.mean(official))  # type: ignore[arg-type]
    assert (found.official_score.min, found.official_score.max) == (min(official), max(official))  # type: ignore[type-var]


def test_one_seed_has_no_spread() -> None:
    """Nor has the same seed twice."""
    assert of(ours(0), ours(0), FLOOR).spread == ()


def test_a_lineage_of_its_own_is_not_a_seed() -> None:
    """Of the same name of recipe, but trained on other recordings: it tells so."""

    class Descendant(Told):
        lineage = "other recordings"

    assert of(ours(0), Descendant(noisy(2.0, 1), recipe="told", seed=5)).spread == ()


def test_labels_are_what_tells_systems_apart() -> None:
    contenders = [ours(0), FLOOR, ours(1), ours(1, bundle="b" * 64), ours(2, recipe="other"), ours(0)]
    assert [system.label for system in of(*contenders).systems] == [
        "earwitness told seed 0",
        "floor",
        "earwitness told seed 1 no bundle",
        "earwitness told seed 1 bbbbbbbb",
        "earwitness other seed 2",
        "earwitness told seed 0 (2)",
    ]


def test_ensembles_of_one_recipe_are_told_apart_by_their_members() -> None:
    """A pruned bundle beside the whole one, of two seeds; a system of one network alone has no such number."""

    @dataclass
    class Sized(Told):
        members: int = 20

    whole, small = Sized(noisy(2.0, 1), recipe="told", seed=0), Sized(noisy(2.0, 1), recipe="told", seed=0, members=5)
    assert [system.label for system in of(whole, small, FLOOR).systems] == [
        "earwitness 20 members",
        "earwitness 5 members",
        "floor",
    ]
    labels = [system.label for system in of(whole, small, replace(small, seed=1)).systems]
    assert labels[1:] == ["earwitness seed 0 5 members", "earwitness seed 1 5 members"]


def test_a_contender_that_scores_other_clips_is_found() -> None:
    """A second cut of the same recordings would be measured as though it were the same."""
    with pytest.raises(ValueError, match="floor scored other clips of fan 00 source"):
        of(ours(), replace(FLOOR, clips=2))

    class Deaf(Told):
        def score(self, given, advance):  # type: ignore[no-untyped-def]
            return super().score(given[1:], advance)

    with pytest.raises(ValueError, match="earwitness scored other clips of fan 00 source"):
        of(Deaf(noisy(1.0, 1)))


def test_unlabelled_recordings_are_counted_in_a_note() -> None:
    given = [*GIVEN, recording(0, None, section="03")]
    (note,) = [note for note in of(ours(), given=given).notes if "not told" in note]
    assert note.startswith("1 test recordings are scored and not counted")


def test_recordings_of_no_known_domain_are_left_out_and_said() -> None:
    """Taken for the source domain's they would get its scores and thresholds; of such alone there is no table."""
    unplaced = [replace(recording(number, None, section="03"), domain_told=False) for number in range(3)]
    found = of(ours(), given=[*GIVEN, *unplaced])
    assert found.rows == of(ours()).rows
    assert len(found.first.scored) == len(GIVEN)
    assert found.notes[0].startswith("3 test recordings of fan 03 do not tell whether they are of the source or the")
    with pytest.raises(DataError, match=r"are left out\. --ground-truth reads the challenge's domains"):
        of(ours(), given=unplaced)
