"""What one network says of all clips with one back end, and sums of that over networks.

A system is a sum of members (paper 2.5), and many systems share theirs. Scores are those that a bundle of the member
would give: the same fits, the same terms, the same cross-fitting.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from models.frontend import N_MELS, temporal_maximum
from models.scoring import SectionModel, score_section
from models.targets import target_normality
from models.vocabulary import Domain, SectionKey
from training.backends import LEAST_TARGET_CLIPS, Fitting, MemberCenters, TrainingSet, fit_sections
from training.calibration import held_out_scores
from training.metrics import Scores
from training.recipe import Backend, Recipe
from training.study.clips import StudyClips


@dataclass(frozen=True, slots=True, eq=False)
class MemberScores:
    """Anomaly scores of one member, or of several summed: higher is more anomalous, NaN where a clip has none.

    ``held``: (sections, held-out clips), each clip as if it were of each section. ``modified``: (held-out clips,
    modifications), in their own section. ``calibration``: (training clips,), by back ends that were fitted without the
    clip. ``target``, ``target_modified``: (target clips,) and (target clips, modifications) in domain target, by the
    other target clips of their section. ``test``: (test clips,).
    """

    held: Scores
    modified: Scores
    calibration: Scores
    target: Scores
    target_modified: Scores
    test: Scores

    @classmethod
    def summed(cls, members: Iterable["MemberScores"]) -> "MemberScores":
        """The scores of an ensemble of ``members``."""
        members = list(members)
        return cls(*(np.sum([getattr(one, each.name) for one in members], axis=0) for each in fields(cls)))


class Scorer:
    """The clips of a study as a member scores them.

    ``sections``: those with held-out clips, in sorted order. ``training``: the training clips at their own speed.
    """

    def __init__(self, clips: StudyClips, recipe: Recipe) -> None:
        own = np.flatnonzero([clip.speed == 1.0 for clip in clips.train.clips])
        self.clips, self._recipe = clips, recipe
        self.training = tuple(clips.train.clips[row] for row in own)
        self.sections = tuple(sorted({clip.recording.key for clip in clips.held.clips}))
        self._maxima = {
            "train": self._maxima_of(clips.train.log_mels[own]),
            "held": self._maxima_of(clips.held.log_mels),
            "modified": np.stack([self._maxima_of(copies) for copies in clips.modified]),
            "test": self._maxima_of(clips.test.log_mels) if clips.test else np.empty((0, N_MELS)),
        }

    def _maxima_of(self, log_mels: NDArray[np.float32]) -> NDArray[np.float64]:
        """(clips, 128), in standard deviations of the training clips."""
        store = self.clips.train
        return np.stack([temporal_maximum(one, store.mean, store.deviation) for one in log_mels])

    def score(
        self,
        embeddings: Mapping[str, NDArray[np.float32]],
        centers: MemberCenters,
        *,
        backend: Backend,
        target_smote: int,
        seed: int,
    ) -> MemberScores:
        """Fit a back end to the embeddings of the training clips, and score all clips.

        Parameters
        ----------
        embeddings : of one network, L2-normalised, (clips, 128): ``train``, ``held``, ``test``; ``modified``: (copied
            clips, modifications, 128).
        centers : the network's.
        backend, target_smote : see `Recipe`.
        seed : of folds and k-means.
        """
        training = TrainingSet(self.training, embeddings["train"][:, None], self._maxima["train"])
        fitting = replace(Fitting.of(self._recipe, seed), backend=backend, target_smote=target_smote)
        models = fit_sections(training, [centers], fitting, advance=lambda _: None)
        modified = [
            self._score(models[clip.recording.key], embeddings, "modified", row, Domain.SOURCE)
            for row, clip in enumerate(self.clips.held.clips)
        ]
        calibration = np.full(len(self.training), np.nan)
        for key, scores in held_out_scores(training, [centers], fitting, advance=lambda _: None).items():
            rows = training.rows(Domain.SOURCE)[key]
            if len(scores):  # a section of a single clip has none
                calibration[rows] = scores
        target, target_modified = self._target(models, embeddings, target_smote)
        return MemberScores(
            held=np.stack(
                [self._score(models[key], embeddings, "held", slice(None), Domain.SOURCE) for key in self.sections]
            ),
            modified=np.stack(modified),
            calibration=calibration,
            target=target,
            target_modified=target_modified,
            test=self._test(models, embeddings),
        )

    def _score(
        self,
        model: SectionModel,
        embeddings: Mapping[str, NDArray[np.float32]],
        kind: str,
        rows: int | slice | NDArray[np.intp],
        domain: Domain,
    ) -> Scores:
        """Anomaly scores of some clips, of one member."""
        return score_section(model, embeddings[kind][rows][:, None], self._maxima[kind][rows], domain).anomaly_score

    def _target(
        self, models: Mapping[SectionKey, SectionModel], embeddings: Mapping[str, NDArray[np.float32]], smote: int
    ) -> tuple[Scores, Scores]:
        """Each target clip and its modified copies, by the other target clips of its section."""
        rows = [row for row, clip in enumerate(self.training) if clip.recording.domain is Domain.TARGET]
        copies = embeddings["modified"][len(self.clips.held.clips) :]
        scores = np.full((len(rows), 1 + copies.shape[1]), np.nan)
        places = sorted(range(len(rows)), key=lambda place: self.training[rows[place]].recording.key)
        for key, own in groupby(places, key=lambda place: self.training[rows[place]].recording.key):
            group = list(own)
            if len(group) < LEAST_TARGET_CLIPS or key not in models:
                continue
            (member,) = models[key].members
            for place in group:
                others = [rows[other] for other in group if other != place]
                left = target_normality(
                    member.section,
                    embeddings["train"][others],
                    synthetic=smote,
                    regularisation=self._recipe.regularisation,
                )
                x = np.concatenate([embeddings["train"][rows[place]][None], copies[place]])
                scores[place] = score_section(models[key], x[:, None], None, Domain.TARGET, [left]).anomaly_score
        return scores[:, 0], scores[:, 1:]

    def _test(self, models: Mapping[SectionKey, SectionModel], embeddings: Mapping[str, NDArray[np.float32]]) -> Scores:
        if self.clips.test is None:
            return np.empty(0)
        clips = self.clips.test.clips
        scores = np.full(len(clips), np.nan)
        for key, model in models.items():
            for domain in Domain:
                own = [(clip.recording.key, clip.recording.domain) == (key, domain) for clip in clips]
                rows = np.flatnonzero(own)
                if len(rows) and (domain is Domain.SOURCE or model.members[0].target is not None):
                    scores[rows] = self._score(model, embeddings, "test", rows, domain)
        return scores
