"""Calibration scores against a slow re-fit, and how folds are dealt."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from models.decision import Calibration
from models.mixtures import fit_mixture
from models.scoring import score_section
from models.vocabulary import Domain, SectionKey, Split, ThresholdRule
from training.backends import CENTERS, Fitting, MemberCenters, TrainingSet, fit_sections
from training.calibration import NO_FOLD, LeftOut, calibration_scores, deal_folds, held_out_scores
from training.features import TrainingClip
from training.recipe import Backend
from training.recordings import AttributeClass, Recording

Array = NDArray[np.floating[Any]]
D, MELS, SEED = 8, 5, 3
FITTING = Fitting(seed=SEED, temporal_maximum_types=("valve",))
FIRST, SECOND, SINGLE = SectionKey("valve", "00"), SectionKey("valve", "01"), SectionKey("valve", "02")
CLASSES: tuple[AttributeClass, ...] = (("valve", "slow"), ("valve", "fast"))


def unit(x: Array) -> Array:
    lengths: Array = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / lengths


def clip(
    key: SectionKey, recording: str, *, attribute: str = "slow", start_s: float = 0.0, domain: Domain = Domain.SOURCE
) -> TrainingClip:
    """A normal training clip of a plant's recording."""
    return TrainingClip(
        Recording(
            path=Path(f"{key.section}-{recording}.wav"),
            machine_type=key.machine_type,
            section=key.section,
            domain=domain,
            split=Split.TRAIN,
            condition=None,
            attribute=attribute,
            recording=recording,
            challenge=False,
        ),
        start_s,
        1.0,
    )


def training_set(clips: Sequence[TrainingClip], members: int = 1, seed: int = 0) -> TrainingSet:
    random = np.random.default_rng(seed)
    n = len(clips)
    embeddings = unit(random.normal(size=(n, members, D)) + random.normal(size=D))
    return TrainingSet(clips, embeddings.astype(np.float32), random.normal(size=(n, MELS)))


def centers_of(sub_clusters: int, seed: int) -> MemberCenters:
    random = np.random.default_rng(seed)
    return MemberCenters(
        {key: unit(random.normal(size=(sub_clusters, D))) for key in (FIRST, SECOND, SINGLE)},
        {name: unit(random.normal(size=(sub_clusters, D))) for name in CLASSES},
        sub_clusters,
    )


MEMBERS = (centers_of(1, 1), centers_of(2, 2))
CLIPS = (
    *(clip(FIRST, f"day {i % 7}", attribute=("slow", "fast")[i % 2], start_s=10.0 * i) for i in range(21)),
    *(clip(SECOND, f"shift {i % 3}", attribute="fast") for i in range(8)),
    clip(SINGLE, "only"),
    *(clip(FIRST, f"new {i}", domain=Domain.TARGET) for i in range(4)),
    *(clip(SECOND, f"new {i}", domain=Domain.TARGET) for i in range(2)),
)


@pytest.fixture(scope="module")
def training() -> TrainingSet:
    return training_set(CLIPS, len(MEMBERS))


def calibrated(
    training: TrainingSet, rule: ThresholdRule, percentile: float = 90.0, steps: list[int] | None = None
) -> dict[tuple[SectionKey, Domain], Calibration]:
    models = fit_sections(training, MEMBERS, FITTING, advance=lambda _: None)
    advance = (steps if steps is not None else []).append
    scores = calibration_scores(training, models, MEMBERS, FITTING, rule=rule, advance=advance)
    return {place: one.calibration(percentile) for place, one in scores.items()}


def slow_held_out_score(training: TrainingSet, row: int, folds: NDArray[np.intp]) -> float:
    """Z_source of one clip by mixtures re-fitted without its section's fold number, a sum of plain maxima."""
    mine = training.clips[row].recording
    kept = [
        i
        for i, one in enumerate(training.clips)
        if one.recording.domain is Domain.SOURCE and folds[i] != folds[row] and one.speed == 1.0
    ]
    in_section = [i for i in kept if training.clips[i].recording.key == mine.key]
    names = {training.clips[i].recording.attribute_class for i in in_section}
    of_class = {name: [i for i in kept if training.clips[i].recording.attribute_class == name] for name in names}
    score = 0.0
    for member, centers in enumerate(MEMBERS):
        x = training.embeddings[:, member]
        section = fit_mixture(x[in_section], centers.sub_clusters, centers=centers.sections[mine.key], seed=SEED)
        score -= section.weighted_log_likelihoods(x[[row]]).max()
        score -= max(
            fit_mixture(x[rows], centers.sub_clusters, centers=centers.attributes[name], seed=SEED)
            .weighted_log_likelihoods(x[[row]])
            .max()
            for name, rows in of_class.items()
        )
        score -= max(
            fit_mixture(training.t_max[rows], 1, centers=None, seed=SEED, dtype=np.float64)
            .weighted_log_likelihoods(training.t_max[[row]])
            .max()
            for rows in of_class.values()
        )
    return score


def test_held_out_scores_are_those_of_a_slow_re_fit(training: TrainingSet) -> None:
    """Of every clip, by mixtures of section, attributes and temporal maxima that have not seen its recording."""
    folds = deal_folds(training.clips, SEED)
    found = held_out_scores(training, MEMBERS, FITTING, advance=lambda _: None)
    for key in (FIRST, SECOND):
        rows = [
            i
            for i, one in enumerate(training.clips)
            if one.recording.key == key and one.recording.domain is Domain.SOURCE
        ]
        expected = np.array([slow_held_out_score(training, row, folds) for row in rows])
        np.testing.assert_allclose(found[key], expected, rtol=1e-6, atol=1e-3)
    assert len(found[SINGLE]) == 0


def test_the_held_out_rule(training: TrainingSet) -> None:
    """Sorted, with the percentile asked for; a single clip gives neither score nor threshold."""
    scores = held_out_scores(training, MEMBERS, FITTING, advance=lambda _: None)
    found = calibrated(training, ThresholdRule.HELD_OUT, percentile=80.0)
    for key in (FIRST, SECOND):
        calibration = found[key, Domain.SOURCE]
        assert calibration.rule is ThresholdRule.HELD_OUT
        assert calibration.threshold == pytest.approx(np.percentile(scores[key], 80.0))
        np.testing.assert_array_equal(calibration.scores, np.sort(scores[key]))
    assert found[SINGLE, Domain.SOURCE].threshold is None
    assert len(found[SINGLE, Domain.SOURCE].scores) == 0


def test_the_papers_rule_scores_the_very_clips(training: TrainingSet) -> None:
    models = fit_sections(training, MEMBERS, FITTING, advance=lambda _: None)
    found = calibrated(training, ThresholdRule.PAPER)
    rows = slice(0, 21)
    terms = score_section(models[FIRST], training.embeddings[rows], training.t_max[rows], Domain.SOURCE)
    assert terms.temporal_maximum is not None
    calibration = found[FIRST, Domain.SOURCE]
    assert calibration.rule is ThresholdRule.PAPER
    np.testing.assert_array_equal(calibration.scores, np.sort(terms.anomaly_score))
    assert calibration.threshold == pytest.approx(np.percentile(terms.anomaly_score, 90.0))
    assert len(found[SINGLE, Domain.SOURCE].scores) == 1


def test_held_out_clips_score_higher_than_seen_ones(training: TrainingSet) -> None:
    """The reason for the rule: the paper's threshold is far too low for clips that the mixtures have not seen."""
    seen, unseen = (
        calibrated(training, rule)[FIRST, Domain.SOURCE] for rule in (ThresholdRule.PAPER, ThresholdRule.HELD_OUT)
    )
    assert np.median(unseen.scores) > seen.scores.max()


@pytest.mark.parametrize("rule", [ThresholdRule.PAPER, ThresholdRule.HELD_OUT])
def test_target_clips_are_calibrated_by_the_first_term(training: TrainingSet, rule: ThresholdRule) -> None:
    """Under both rules; two clips make no calibration, none no entry."""
    models = fit_sections(training, MEMBERS, FITTING, advance=lambda _: None)
    found = calibrated(training, rule)
    rows = slice(30, 34)
    terms = score_section(models[FIRST], training.embeddings[rows], None, Domain.TARGET)
    calibration = found[FIRST, Domain.TARGET]
    assert calibration.rule is ThresholdRule.PAPER
    np.testing.assert_allclose(calibration.scores, np.sort(terms.section))
    assert found[SECOND, Domain.TARGET].threshold is None
    assert len(found[SECOND, Domain.TARGET].scores) == 0
    assert set(found) == {(key, Domain.SOURCE) for key in (FIRST, SECOND, SINGLE)} | {
        (key, Domain.TARGET) for key in (FIRST, SECOND)
    }


@pytest.mark.parametrize("rule", [ThresholdRule.PAPER, ThresholdRule.HELD_OUT])
def test_the_bar_moves_by_the_clips(training: TrainingSet, rule: ThresholdRule) -> None:
    steps: list[int] = []
    calibrated(training, rule, steps=steps)
    assert sum(steps) == len(CLIPS)
    assert min(steps) > 0


def test_conditions_are_scored_by_members_that_have_not_heard_them(training: TrainingSet) -> None:
    """Each fold by embeddings of its own, and by mixtures of them that leave it out; without such members none is."""
    folds = np.array([(i // 2) % 5 for i in range(len(CLIPS))])
    hearings = [(training_set(CLIPS, len(MEMBERS), seed=10 + fold).embeddings, MEMBERS) for fold in range(5)]
    models = fit_sections(training, MEMBERS, FITTING, advance=lambda _: None)
    unheard, rule = LeftOut(folds, hearings), ThresholdRule.CONDITIONS
    found = calibration_scores(training, models, MEMBERS, FITTING, rule=rule, unheard=unheard, advance=lambda _: None)
    calibration = found[FIRST, Domain.SOURCE].calibration()
    rows = training.rows(Domain.SOURCE)[FIRST]
    expected = [slow_held_out_score(replace(training, embeddings=hearings[folds[row]][0]), row, folds) for row in rows]
    np.testing.assert_allclose(calibration.scores, np.sort(expected), rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(calibration.folds, folds[rows][np.argsort(expected)])
    assert calibration.rule is ThresholdRule.CONDITIONS
    assert len(found[SINGLE, Domain.SOURCE].by_member) == 0, "nothing is left where its only clip is left out"
    with pytest.raises(ValueError, match="have not heard"):
        calibrated(training, ThresholdRule.CONDITIONS)


@given(
    sections=st.lists(
        st.lists(st.integers(1, 6), min_size=1, max_size=9).filter(lambda sizes: sum(sizes) > 1),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_folds_are_even_and_split_no_recording(sections: list[list[int]], seed: int) -> None:
    """Each of min(5, recordings) folds has clips; none has more than the emptiest by more than one recording."""
    clips = [
        clip(SectionKey("valve", f"{section:02d}"), f"{section}-{recording}", start_s=10.0 * i)
        for section, sizes in enumerate(sections)
        for recording, size in enumerate(sizes)
        for i in range(size)
    ]
    folds = deal_folds(clips, seed)
    np.testing.assert_array_equal(folds, deal_folds(clips, seed))
    for section, sizes in enumerate(sections):
        rows = [i for i, one in enumerate(clips) if one.recording.section == f"{section:02d}"]
        if len(sizes) == 1:
            assert set(folds[rows]) == set(range(min(5, sizes[0])))
            continue
        counts = np.bincount(folds[rows])
        assert len(counts) == min(5, len(sizes))
        assert counts.min() > 0
        assert counts.max() - counts.min() <= max(sizes)
        of_recording = defaultdict(set)
        for row in rows:
            of_recording[clips[row].recording.recording].add(folds[row])
        assert all(len(one) == 1 for one in of_recording.values())


def test_another_seed_deals_other_folds() -> None:
    clips = [clip(FIRST, f"day {i}") for i in range(40)]
    assert (deal_folds(clips, 0) != deal_folds(clips, 1)).any()
    assert np.bincount(deal_folds(clips, 0)).tolist() == [8] * 5


def test_one_long_recording_leaves_the_other_folds_to_the_short_ones() -> None:
    """Ten clips in one, ten recordings of one clip: no fold above ten, whatever the seed."""
    clips = [*(clip(FIRST, "long", start_s=10.0 * i) for i in range(10)), *(clip(FIRST, f"day {i}") for i in range(10))]
    for seed in range(5):
        assert sorted(np.bincount(deal_folds(clips, seed))) == [2, 2, 3, 3, 10]


def test_a_single_recording_is_dealt_as_five_consecutive_parts(caplog: pytest.LogCaptureFixture) -> None:
    """In the order of time, whatever the order of the clips, and with a warning that names the section."""
    starts = np.random.default_rng(0).permutation(13) * 10.0
    clips = [clip(FIRST, "all day", start_s=float(start)) for start in starts]
    with caplog.at_level(logging.WARNING, "training.calibration"):
        folds = deal_folds(clips, 0)
    assert "valve section 00 has a single recording" in caplog.text
    assert folds[np.argsort(starts)].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    few = [clip(FIRST, "short", start_s=10.0 * i) for i in range(3)]
    assert deal_folds(few, 0).tolist() == [0, 1, 2]


def test_sections_that_share_their_recordings_get_the_same_folds() -> None:
    """Two microphones at one machine: a class's mixture would else have heard the other side of the same minute."""
    clips = [clip(key, f"visit {i}") for key in (FIRST, SECOND) for i in range(12)]
    folds = deal_folds(clips, 0)
    np.testing.assert_array_equal(folds[:12], folds[12:])


def test_target_clips_copies_and_lone_clips_are_in_no_fold() -> None:
    clips = [clip(FIRST, f"day {i}") for i in range(6)]
    others = [replace(clips[0], speed=1.12), clip(FIRST, "new", domain=Domain.TARGET), clip(SECOND, "only")]
    folds = deal_folds([*others, *clips], 0)
    assert folds[:3].tolist() == [NO_FOLD] * 3
    assert (folds[3:] != NO_FOLD).all()


@pytest.mark.parametrize("backend", [Backend.NEAREST, Backend.CENTERS])
def test_references_are_calibrated_without_the_clip_itself(training: TrainingSet, backend: Backend) -> None:
    """Its own fold left out of the references; scored by itself it would be at distance 0."""
    fitting = replace(FITTING, backend=backend)
    scores = held_out_scores(training, MEMBERS, fitting, advance=lambda _: None)[FIRST]
    folds = deal_folds(training.clips, SEED)
    rows = training.rows(Domain.SOURCE)[FIRST]
    expected = []
    for row in rows:
        others = [other for other in rows if folds[other] != folds[row]]
        total = 0.0
        for member in range(len(MEMBERS)):
            if backend is Backend.CENTERS and len(others) > CENTERS:
                means = KMeans(CENTERS, n_init=10, random_state=SEED).fit(training.embeddings[others, member])
                points = unit(means.cluster_centers_)
            else:
                points = training.embeddings[others, member].astype(np.float64)
            to_all = 1.0 - points @ training.embeddings[row, member].astype(np.float64)
            if backend is Backend.NEAREST:
                between = 1.0 - points @ points.T
                np.fill_diagonal(between, np.inf)
                to_all = to_all / between.min(axis=1)
            total += float(to_all.min())
        expected.append(total)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert scores.min() > 1e-3
    models = fit_sections(training, MEMBERS, fitting, advance=lambda _: None)
    rule = ThresholdRule.HELD_OUT
    found = calibration_scores(training, models, MEMBERS, fitting, rule=rule, advance=lambda _: None)
    np.testing.assert_array_equal(found[FIRST, Domain.SOURCE].calibration().scores, np.sort(scores))


@pytest.mark.parametrize("rule", [ThresholdRule.PAPER, ThresholdRule.HELD_OUT])
def test_some_of_the_members_are_calibrated_as_an_ensemble_of_them_alone(
    training: TrainingSet, rule: ThresholdRule
) -> None:
    """To the last bit: each member's mixtures are fitted by themselves, and a score is the sum of its members'."""
    members = [*MEMBERS, centers_of(3, 3)]
    three = training_set(CLIPS, len(members), seed=1)
    kept = [0, 2]
    two = replace(three, embeddings=np.ascontiguousarray(three.embeddings[:, kept]))
    alone = [members[place] for place in kept]
    models = [fit_sections(one, own, FITTING, advance=lambda _: None) for one, own in ((three, members), (two, alone))]
    whole = calibration_scores(three, models[0], members, FITTING, rule=rule, advance=lambda _: None)
    small = calibration_scores(two, models[1], alone, FITTING, rule=rule, advance=lambda _: None)
    assert whole.keys() == small.keys()
    for place, scores in small.items():
        found, expected = whole[place].calibration(80.0, kept), scores.calibration(80.0)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.folds, expected.folds)
        assert (found.threshold, found.rule) == (expected.threshold, expected.rule)
