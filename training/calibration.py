"""Scores of normal clips that thresholds and p-values stand on (paper 2.6, and a rule for few clips).

The paper takes the scores of the very clips that the mixtures were fitted on. Where clips are few the mixtures know
these too well, and most normal clips of another day score above: ``held_out`` scores each clip by mixtures that were
fitted without its fold. The networks have seen all of them under both rules; ``conditions`` scores each clip by
networks and mixtures that have not heard its whole operating condition.

An ensemble's score is a sum over its members, so scores are kept by member: what some of them alone would be calibrated
on is their sum.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.decision import PERCENTILE, Calibration
from models.scoring import SectionModel, decision_score_by_member
from models.vocabulary import Domain, SectionKey, ThresholdRule
from training.backends import (
    LEAST_TARGET_CLIPS,
    Fitting,
    MemberCenters,
    Rows,
    TrainingSet,
    fit_sections,
    section_rows,
)
from training.features import TrainingClip
from training.progress import Advance

_log = logging.getLogger(__name__)

FOLDS = 5
"""At most; a section of fewer recordings has a fold a recording."""

NO_FOLD = -1
"""The fold of clips that are never held out."""


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """How a training set's n clips are dealt to folds, and what has not heard each fold.

    ``folds``: (n,), `NO_FOLD` for clips that are never held out. ``hearings``: a fold, the embeddings of all n clips by
    its members, (n, members, 128), and the members' centres; networks that have heard all are the same for each fold.
    """

    folds: Rows
    hearings: Sequence[tuple[NDArray[np.float32], Sequence[MemberCenters]]]


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationScores:
    """What each member says of the normal clips that calibrate a section and domain.

    ``by_member``: (n, members) float64, what it adds to a clip's decision score. ``rule``: which clips these are, and
    what scores them. ``folds``: (n,) with which fold each was held out; None where the rule holds nothing out.
    """

    by_member: NDArray[np.float64]
    rule: ThresholdRule
    folds: Rows | None = None

    def calibration(self, percentile: float = PERCENTILE, members: Sequence[int] | None = None) -> Calibration:
        """The calibration of the ensemble, or of an ensemble of these of its members alone."""
        own = self.by_member if members is None else np.take(self.by_member, members, axis=1)
        return Calibration.from_scores(own.sum(axis=1), self.rule, percentile, folds=self.folds)


def calibration_scores(
    training: TrainingSet,
    models: Mapping[SectionKey, SectionModel],
    members: Sequence[MemberCenters],
    fitting: Fitting,
    *,
    rule: ThresholdRule,
    unheard: LeftOut | None = None,
    advance: Advance,
) -> dict[tuple[SectionKey, Domain], CalibrationScores]:
    """Score the clips that calibrate each section of ``models``, for each domain that it has clips of.

    Source: decision scores of the section's source clips, by the rule. Target: the first term alone over its target
    clips, whatever the rule, for they entered no section mixture; no scores where there are too few for a target
    mixture.

    Parameters
    ----------
    training, members, fitting : those that ``models`` were fitted with.
    rule : ``conditions`` needs ``unheard``.
    unheard : by whole operating conditions, members that have not heard them.
    advance : called until the number of clips is reached.

    Raises
    ------
    ValueError : for the rule ``conditions`` without members that have not heard them.
    """
    found: dict[tuple[SectionKey, Domain], CalibrationScores] = {}
    held_out = 0
    if rule is ThresholdRule.PAPER:
        for key, rows in training.rows(Domain.SOURCE).items():
            found[key, Domain.SOURCE] = CalibrationScores(_scores(models[key], training, rows, Domain.SOURCE), rule)
    else:
        left_out = _cross_fitted(training, members, fitting.seed) if rule is ThresholdRule.HELD_OUT else unheard
        if left_out is None:
            raise ValueError(f"The rule {rule.value!r} needs members that have not heard the conditions.")
        for key, (scores, folds) in left_out_scores(training, left_out, fitting, advance=advance).items():
            found[key, Domain.SOURCE] = CalibrationScores(scores, rule, folds)
            held_out += len(folds)
    for key, rows in training.rows(Domain.TARGET).items():
        if key in models:
            enough = rows if len(rows) >= LEAST_TARGET_CLIPS else rows[:0]
            scores = _scores(models[key], training, enough, Domain.TARGET)
            found[key, Domain.TARGET] = CalibrationScores(scores, ThresholdRule.PAPER)
    advance(len(training.clips) - held_out)
    return found


def held_out_scores(
    training: TrainingSet, members: Sequence[MemberCenters], fitting: Fitting, *, advance: Advance
) -> dict[SectionKey, NDArray[np.float64]]:
    """The sums of `left_out_scores` by the same members, mixtures cross-fitted, in the clips' order."""
    left_out = _cross_fitted(training, members, fitting.seed)
    found = left_out_scores(training, left_out, fitting, advance=advance)
    return {key: scores.sum(axis=1) for key, (scores, _) in found.items()}


def left_out_scores(
    training: TrainingSet, left_out: LeftOut, fitting: Fitting, *, advance: Advance
) -> dict[SectionKey, tuple[NDArray[np.float64], Rows]]:
    """What each member adds to the decision scores of the source clips, (n, members), and their folds, by section.

    A clip is scored by what has not heard its fold. The mixtures of an attribute class leave the fold out in every
    section that shares the class. A section of a single source clip has no scores.

    Parameters
    ----------
    training, fitting : as of `fit_sections`; the embeddings are those of ``left_out``.
    advance : called until the number of held-out clips is reached.
    """
    folds = left_out.folds
    source = training.rows(Domain.SOURCE)
    scores = np.full(training.embeddings.shape[:2], np.nan)
    for fold, (embeddings, members) in enumerate(left_out.hearings):
        heard = replace(training, embeddings=embeddings)
        seen = np.sort(np.concatenate([rows[folds[rows] != fold] for rows in source.values()]))
        # a fold is the unit here
        models = fit_sections(heard.take(seen), members, fitting, advance=lambda _: None)
        for key, rows in source.items():
            unseen = rows[folds[rows] == fold]
            if len(unseen) and key in models:  # of a section's only clip nothing is left
                scores[unseen] = _scores(models[key], heard, unseen, Domain.SOURCE)
                advance(len(unseen))
    known = {key: rows[np.isfinite(scores[rows, 0])] for key, rows in source.items()}
    return {key: (scores[rows], folds[rows]) for key, rows in known.items()}


def _cross_fitted(training: TrainingSet, members: Sequence[MemberCenters], seed: int) -> LeftOut:
    """Members that have heard everything; mixtures alone leave a fold out."""
    folds = deal_folds(training.clips, seed)
    return LeftOut(folds, [(training.embeddings, members)] * (int(folds.max(initial=NO_FOLD)) + 1))


def deal_folds(clips: Sequence[TrainingClip], seed: int) -> Rows:
    """The fold, from 0, of each clip, (n,); `NO_FOLD` for target clips, contrast copies and a section's only clip.

    Each section's recordings are dealt to min(`FOLDS`, recordings) folds of about equally many clips, and none is
    split: neighbours in time on both sides would make the scores lie. A single recording is dealt as consecutive
    parts, with a logged warning. Sections that share their recordings get the same folds.
    """
    folds = np.full(len(clips), NO_FOLD, np.intp)
    names = sorted({clip.recording.recording for clip in clips})
    turn = dict(zip(names, np.random.default_rng(seed).permutation(len(names)), strict=True))
    for key, rows in section_rows(clips, Domain.SOURCE).items():
        clips_of = Counter(clips[row].recording.recording for row in rows)
        if len(rows) == 1:
            continue
        if len(clips_of) == 1:
            _log.warning(
                "%s section %s has a single recording: held-out scores are of its consecutive parts, "
                "which are more alike than recordings of several days. Record on other days too.",
                key.machine_type,
                key.section,
            )
            in_time = sorted(rows, key=lambda row: clips[row].start_s)
            for fold, part in enumerate(np.array_split(in_time, min(FOLDS, len(rows)))):
                folds[part] = fold
            continue
        sizes = [0] * min(FOLDS, len(clips_of))
        dealt: dict[str, int] = {}
        for name in sorted(clips_of, key=lambda name: (-clips_of[name], turn[name])):  # the longest first
            dealt[name] = sizes.index(min(sizes))
            sizes[dealt[name]] += clips_of[name]
        folds[rows] = [dealt[clips[row].recording.recording] for row in rows]
    return folds


def _scores(model: SectionModel, training: TrainingSet, rows: Rows, domain: Domain) -> NDArray[np.float64]:
    """What each member adds to the decision scores of these rows, (rows, members)."""
    if not len(rows):
        return np.empty((0, len(model.members)))
    return decision_score_by_member(model, training.embeddings[rows], training.t_max[rows], domain)
