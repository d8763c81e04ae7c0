"""The figures of one system with one seed, and the criterion that choices are made by.

**The criterion**, named before any system was trained: for each section, the AUC of its held-out clips against their
own modified copies (`modifications`), and of these the harmonic mean over sections. It needs no faulty recording, and
nothing that it is made of has been heard by a network, a back end or a threshold.

Beside it stand: AUC of held-out clips against those of other sections scored as of this one (`strangers`; what the
networks were trained to tell), the false alarms of held-out clips at thresholds of training clips, the criterion's
counterpart for target clips, each by the others of its section, and the challenge's score on test clips, which nothing
may be chosen by. Figures are fractions from 0 to 1; None where the clips do not define them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.decision import Calibration, decide
from models.vocabulary import Condition, Decision, Domain, SectionKey, ThresholdRule
from training.metrics import Scores, auc, harmonic_mean, official_score, partial_auc
from training.study.members import MemberScores, Scorer
from training.study.modifications import MODIFICATIONS
from training.study.plan import StudiedSystem


@dataclass(frozen=True, slots=True)
class SectionFigures:
    """One section.

    ``changes``: the criterion's AUC, ``by_change`` for each modification apart. ``siblings``, ``others``: AUC against
    held-out clips of its machine type's other sections, and of other types. ``alarms``: of so many ``held`` clips.
    ``test_aucs``, ``test_paucs``: in domain source and target.
    """

    changes: float | None
    by_change: tuple[float | None, ...]
    siblings: float | None
    others: float | None
    alarms: int
    held: int
    target_changes: float | None
    test_aucs: tuple[float | None, ...]
    test_paucs: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """One system with one seed, over all sections."""

    system: str
    seed: int
    criterion: float
    by_change: Mapping[str, float | None]
    strangers: float | None
    false_alarms: float
    target_changes: float | None
    test_official: float | None
    test_mean_auc: float | None
    sections: Mapping[str, SectionFigures]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    system: StudiedSystem, seed: int, scorer: Scorer, totals: Mapping[str, MemberScores], percentile: float
) -> Figures:
    """The figures of a system.

    Parameters
    ----------
    totals : its scores, by machine type.
    percentile : of the calibration scores, the threshold.
    """
    sections = {key: _section(key, scorer, totals[key.machine_type], percentile) for key in scorer.sections}
    every = tuple(sections.values())
    criterion = harmonic_mean(one.changes for one in every)
    assert criterion is not None  # each section has held-out clips, and each of these its copies
    aucs = [value for one in every for value in one.test_aucs if value is not None]
    return Figures(
        system=system.name,
        seed=seed,
        criterion=criterion,
        by_change={name: harmonic_mean(one.by_change[i] for one in every) for i, name in enumerate(MODIFICATIONS)},
        strangers=harmonic_mean(harmonic_mean([one.siblings, one.others]) for one in every),
        false_alarms=sum(one.alarms for one in every) / sum(one.held for one in every),
        target_changes=harmonic_mean(one.target_changes for one in every),
        test_official=official_score(aucs, (value for one in every for value in one.test_paucs)),
        test_mean_auc=float(np.mean(aucs)) if aucs else None,
        sections={f"{key.machine_type} {key.section}": figures for key, figures in sections.items()},
    )


def _section(key: SectionKey, scorer: Scorer, scores: MemberScores, percentile: float) -> SectionFigures:
    clips = scorer.clips
    held = np.array([clip.recording.key == key for clip in clips.held.clips])
    type_of = np.array([clip.recording.machine_type for clip in clips.held.clips])
    as_this = scores.held[scorer.sections.index(key)]
    changes = scores.modified[held]
    trained = np.array([clip.recording.key == key for clip in scorer.training]) & np.isfinite(scores.calibration)
    calibration = Calibration.from_scores(scores.calibration[trained], ThresholdRule.HELD_OUT, percentile)
    target = [clip.recording.key == key for clip in clips.copied[len(held) :]]
    normal, copies = scores.target[target], scores.target_modified[target]
    heard = np.isfinite(normal)
    test = {domain: _test_scores(key, domain, scorer, scores.test) for domain in Domain}
    return SectionFigures(
        changes=auc(as_this[held], changes.ravel()),
        by_change=tuple(auc(as_this[held], changes[:, i]) for i in range(len(MODIFICATIONS))),
        siblings=auc(as_this[held], as_this[~held & (type_of == key.machine_type)]),
        others=auc(as_this[held], as_this[type_of != key.machine_type]),
        alarms=sum(decide(score, calibration.threshold) is Decision.ANOMALOUS for score in as_this[held]),
        held=int(held.sum()),
        target_changes=auc(normal[heard], copies[heard].ravel()),
        test_aucs=tuple(auc(*test[domain]) for domain in Domain),
        test_paucs=tuple(partial_auc(*test[domain]) for domain in Domain),
    )


def _test_scores(key: SectionKey, domain: Domain, scorer: Scorer, scores: Scores) -> tuple[Scores, Scores]:
    """Of normal and of anomalous test clips that have a score."""
    clips = () if scorer.clips.test is None else scorer.clips.test.clips
    own = [(clip.recording.key, clip.recording.domain) == (key, domain) for clip in clips]
    kinds = [np.array([clip.recording.condition is condition for clip in clips], bool) for condition in Condition]
    normal, anomalous = (scores[kind & np.array(own, bool) & np.isfinite(scores)] for kind in kinds)
    return normal, anomalous
