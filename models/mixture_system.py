"""The paper's system: mixtures of the embeddings of an ensemble of sub-cluster AdaCos networks, Eqs. (2) to (4)."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.decision import Calibration
from models.explanation import Normal
from models.references import References, cosine_distances
from models.scoring import Normality, SectionModel, decision_score, score_section
from models.systems import Embeddings, Features, Inputs, SystemScores, TargetModel, WindowScores
from models.targets import target_normality
from models.vocabulary import NO_ATTRIBUTE, Domain, SectionKey, SubSystem, ThresholdRule

NAME: Final = "adacos_resnet"


class MixtureSystem:
    """A bundle's mixtures, ready to score."""

    needs_statistics = False

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._sections: Mapping[SectionKey, SectionModel] = {
            key: model for key, model in bundle.sections.items() if isinstance(model, SectionModel)
        }

    def inputs(self, features: Features) -> Inputs:
        """The log-mels as they are: the first layer of each embedder standardises them."""
        return {SubSystem.R: features.log_mels}

    def score(
        self, key: SectionKey, domain: Domain, features: Features, embeddings: Embeddings, target: TargetModel | None
    ) -> WindowScores:
        """Score windows, of one clip or of several of the section."""
        mixtures = None if target is None else _mixtures(target)
        terms = score_section(self._sections[key], embeddings[SubSystem.R], features.t_max, domain, mixtures)
        by_name = {
            "section": terms.section,
            "attribute": terms.attribute,
            "target": terms.target,
            "temporal_maximum": terms.temporal_maximum,
        }
        return WindowScores(
            anomaly=terms.anomaly_score,
            decision=decision_score(terms, domain),
            systems={NAME: SystemScores(terms.anomaly_score, by_name)},
            attribute_likelihoods=terms.attribute_likelihoods,
        )

    def fit_target(
        self, key: SectionKey, features: Features, embeddings: Embeddings, lowest_level_dbfs: float
    ) -> TargetModel:
        """Model the target domain of a section in closed form (paper 2.6); a component a clip."""
        own, synthetic = embeddings[SubSystem.R], self._bundle.manifest.target_smote
        mixtures = tuple(
            target_normality(member.section, x, synthetic=synthetic)
            for member, x in zip(self._sections[key].members, np.moveaxis(own, 1, 0), strict=True)
        )
        terms = score_section(self._sections[key], own, None, Domain.TARGET, mixtures)
        percentile = self._bundle.calibrations[key, Domain.SOURCE].calibration.percentile
        calibration = Calibration.from_scores(decision_score(terms, Domain.TARGET), ThresholdRule.PAPER, percentile)
        return TargetModel(mixtures, calibration, len(features.log_mels), lowest_level_dbfs)

    def spacings(
        self,
        key: SectionKey,  # noqa: ARG002  other ways ask it
        features: Features,  # noqa: ARG002  nor these
        embeddings: Embeddings,
    ) -> NDArray[np.float64]:
        """Cosine distances, the mean over the members."""
        by_member = [_to_nearest_other(x) for x in np.moveaxis(embeddings[SubSystem.R], 1, 0)]
        spacings: NDArray[np.float64] = np.mean(by_member, axis=0)
        return spacings

    def usual_spacing(self, key: SectionKey) -> float:
        """Of two clips of length 1 the mean of 1 - cosine is 1 - |mean of the clips|^2, which each member knows."""
        means = [_mean(member.section) for member in self._sections[key].members]
        return max(0.0, 1.0 - float(np.mean([mean @ mean for mean in means])))

    def bundle_target(self, key: SectionKey) -> TargetModel | None:
        """The target mixtures that the bundle was trained with."""
        members = self._sections[key].members
        mixtures = tuple(member.target for member in members if member.target is not None)
        calibrated = self._bundle.calibrations.get((key, Domain.TARGET))
        if calibrated is None or len(mixtures) < len(members):
            return None
        clips = self._bundle.manifest.machine_types[key.machine_type].sections[key.section].clips.target
        return TargetModel(mixtures, calibrated.calibration, clips, float(calibrated.level_quantiles_dbfs[0]))

    def normal(self, key: SectionKey, domain: Domain) -> Normal:
        """Of the mel bands alone: these bundles keep no statistics."""
        known = self._bundle.calibrations.get((key, domain), self._bundle.calibrations[key, Domain.SOURCE])
        return Normal(known.mel_mean, known.mel_deviation)

    def nearest_attribute(
        self,
        key: SectionKey,  # noqa: ARG002  other ways ask it
        scores: WindowScores,
        statistics: NDArray[np.float32] | None,  # noqa: ARG002  and this
    ) -> str | None:
        """That of the likeliest attribute mixture, over all members."""
        named = {name: float(own[0]) for name, own in scores.attribute_likelihoods.items() if name != NO_ATTRIBUTE}
        return max(named, key=lambda name: named[name], default=None)


def _mean(section: Normality) -> NDArray[np.float64]:
    """The mean of a section's source clips, (128,): that of a mixture, or of the clips where they are references."""
    if isinstance(section, References):
        mean: NDArray[np.float64] = section.points.mean(axis=0, dtype=np.float64)
    else:
        mean = np.exp(section.log_weights) @ section.means
    return mean


def _to_nearest_other(x: NDArray[np.float32]) -> NDArray[np.float64]:
    distances = cosine_distances(x, x)
    np.fill_diagonal(distances, np.inf)
    nearest: NDArray[np.float64] = distances.min(axis=1)
    return nearest


def _mixtures(target: TargetModel) -> tuple[Normality, ...]:
    assert isinstance(target.reference, tuple), "a target model of another way"
    return target.reference
