"""Systems fused by p-value: `statistics_networks` (A, L), `dynamics` (F) and, by option, `adacos_resnet` (R).

Each sub-system gives a clip a distance to the nearest reference clip of its section; `models.compact` knows the
references, `models.fusion` makes one score of them. With fewer than three source clips nothing is known of how normal
distances spread: the score is then made of the logarithms of the distances themselves, and only ranks.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.compact import N_STATICS, CompactSection, FoldReferences, Heard
from models.decision import Calibration
from models.explanation import Normal
from models.fusion import fused_score
from models.systems import Embeddings, Features, Inputs, SystemScores, TargetModel, WindowScores
from models.vocabulary import NO_ATTRIBUTE, Domain, SectionKey, SubSystem, ThresholdRule

SYSTEM_OF: Final[Mapping[SubSystem, str]] = {
    SubSystem.A: "statistics_networks",
    SubSystem.L: "statistics_networks",
    SubSystem.R: "adacos_resnet",
    SubSystem.F: "dynamics",
}
"""The system that a sub-system is a part of."""


class FusedSystems:
    """A bundle's reference clips, ready to score."""

    needs_statistics = True

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._kinds = tuple(dict.fromkeys(network.kind for network in bundle.manifest.fold_networks))
        self._sections: Mapping[SectionKey, CompactSection] = {
            key: model for key, model in bundle.sections.items() if isinstance(model, CompactSection)
        }

    def inputs(self, features: Features) -> Inputs:
        """What each kind of network takes."""
        statistics = features.statistics
        assert statistics is not None, "features of another way"
        every = {
            SubSystem.A: statistics.statics_and_dynamics,
            SubSystem.L: statistics.lin,
            SubSystem.R: features.log_mels,
        }
        return {kind: every[kind] for kind in self._kinds}

    def score(
        self, key: SectionKey, domain: Domain, features: Features, embeddings: Embeddings, target: TargetModel | None
    ) -> WindowScores:
        """Score windows, of one clip or of several of the section."""
        section = self._sections[key]
        references = section.references(domain) if target is None else _references(target)
        x = section.log_distances(_heard(features, embeddings), references)
        if not section.spreads:
            ranking = fused_score({kind: -own for kind, own in x.items()}, section.counted)
            return WindowScores(ranking, ranking, {})
        log_p = section.log_p_values(x)
        score = section.score(log_p)
        systems: dict[str, SystemScores] = {}
        for name in dict.fromkeys(SYSTEM_OF[kind] for kind in section.counted):
            terms = {kind.value: -log_p[kind] for kind in section.counted if SYSTEM_OF[kind] == name}
            own = np.mean(list(terms.values()), axis=0)
            systems[name] = SystemScores(own, terms, np.exp(-own))
        return WindowScores(score, score, systems)

    def fit_target(
        self, key: SectionKey, features: Features, embeddings: Embeddings, lowest_level_dbfs: float
    ) -> TargetModel:
        """Compare with these clips from now on; the source clips say how far normal scores lie above their mean.

        Each clip is scored against the others: no network has heard any of them.
        """
        section, heard = self._sections[key], _heard(features, embeddings)
        source = self._bundle.calibrations[key, Domain.SOURCE].calibration
        if len(source.scores):
            centre = float(section.score(section.log_p_values(_left_out_log_distances(section, heard))).mean())
            scores = centre + (source.scores - source.scores.mean())
        else:
            scores = source.scores
        calibration = Calibration.from_scores(scores, ThresholdRule.CONDITIONS, source.percentile, ranked=True)
        return TargetModel(section.registered(heard), calibration, len(heard), lowest_level_dbfs)

    def spacings(self, key: SectionKey, features: Features, embeddings: Embeddings) -> NDArray[np.float64]:
        """The geometric mean of the distances by each sub-system that counts."""
        section = self._sections[key]
        x = _left_out_log_distances(section, _heard(features, embeddings))
        spacings: NDArray[np.float64] = np.exp(np.mean([x[kind] for kind in section.counted], axis=0))
        return spacings

    def usual_spacing(self, key: SectionKey) -> float:
        """The mean of the geometric means by which `spacings` goes."""
        x = self._sections[key].source_pairs()
        return float(np.exp(np.mean(list(x.values()), axis=0)).mean()) if x else 0.0

    def bundle_target(self, key: SectionKey) -> TargetModel | None:
        """The target clips that the bundle was trained with."""
        section, calibrated = self._sections[key], self._bundle.calibrations.get((key, Domain.TARGET))
        if calibrated is None:
            return None
        return TargetModel(
            section.references(Domain.TARGET),
            calibrated.calibration,
            int(section.is_target.sum()),
            float(calibrated.level_quantiles_dbfs[0]),
        )

    def normal(self, key: SectionKey, domain: Domain) -> Normal:
        """The section's source clips; in the target domain about the mean of its own clips, too few to spread."""
        section, known = self._sections[key], self._bundle.calibrations
        calibration = known.get((key, domain), known[key, Domain.SOURCE])
        source = section.heard.statistics[~section.is_target].astype(np.float64)
        own = section.heard.statistics[section.is_target] if domain is Domain.TARGET else source
        mean = own.mean(axis=0, dtype=np.float64) if len(own) else source.mean(axis=0)
        return Normal(calibration.mel_mean, calibration.mel_deviation, mean, source.std(axis=0))

    def nearest_attribute(
        self,
        key: SectionKey,
        scores: WindowScores,  # noqa: ARG002  other ways ask them
        statistics: NDArray[np.float32] | None,
    ) -> str | None:
        """That of the nearest source clip by the dynamics, over all folds."""
        section = self._sections[key]
        assert statistics is not None, "features of another way"
        rows = np.flatnonzero(~section.is_target)
        names = np.array(section.attributes)[section.attribute_of[rows]]
        if set(names) == {NO_ATTRIBUTE}:
            return None
        distances = np.mean(
            [
                np.linalg.norm(whiten(section.heard.dynamics[rows]) - whiten(statistics[None, N_STATICS:]), axis=1)
                for whiten in section.whitenings
            ],
            axis=0,
        )
        return str(names[np.argmin(distances)])


def _left_out_log_distances(section: CompactSection, heard: Heard) -> dict[SubSystem, NDArray[np.float64]]:
    """x of each clip against the others, by sub-system, (clips,)."""
    every = np.arange(len(heard))
    own = [
        section.log_distances(heard.take(every == place), section.registered(heard.take(every != place)))
        for place in every
    ]
    return {kind: np.concatenate([one[kind] for one in own]) for kind in section.counted}


def _heard(features: Features, embeddings: Embeddings) -> Heard:
    assert features.statistics is not None, "features of another way"
    return Heard(embeddings, features.statistics.statics_and_dynamics)


def _references(target: TargetModel) -> FoldReferences:
    assert isinstance(target.reference, FoldReferences), "a target model of another way"
    return target.reference
