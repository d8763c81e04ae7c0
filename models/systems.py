"""The ways from a clip to a score, in a table: a bundle names those it holds.

Conventions: a system scores ten-second windows, and its scores and terms are (windows,) float64, higher is more
anomalous. A further system is one more entry of `SYSTEMS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.scoring import Normality, decision_score, score_section
from models.vocabulary import Domain, SectionKey


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the front end makes of a clip.

    ``log_mels``: (windows, 313, 128) float32 dB. ``t_max``: (windows, 128) float64, the maxima over time in standard
    deviations of the training clips. ``level_dbfs``: of the whole clip.
    """

    log_mels: NDArray[np.float32]
    t_max: NDArray[np.float64]
    level_dbfs: float


@dataclass(frozen=True, slots=True, eq=False)
class SystemScores:
    """One system's scores of each window: for ranking, for the threshold, and the terms of the former."""

    anomaly: NDArray[np.float64]
    decision: NDArray[np.float64]
    terms: Mapping[str, NDArray[np.float64] | None]


class System(Protocol):
    """A way from a clip to a score."""

    def score(
        self,
        key: SectionKey,
        domain: Domain,
        features: Features,
        embeddings: NDArray[np.float32],
        target: Sequence[Normality] | None,
    ) -> SystemScores:
        """Score the windows of a clip; ``target`` (a mixture a member) is given with domain target only."""


class AdacosResnet:
    """The paper's system: mixtures of the embeddings of an ensemble of sub-cluster AdaCos networks."""

    def __init__(self, bundle: Bundle) -> None:
        self._sections = bundle.sections

    def score(
        self,
        key: SectionKey,
        domain: Domain,
        features: Features,
        embeddings: NDArray[np.float32],
        target: Sequence[Normality] | None,
    ) -> SystemScores:
        """Score the windows of a clip by Eqs. (2) to (4)."""
        terms = score_section(self._sections[key], embeddings, features.t_max, domain, target)
        return SystemScores(
            anomaly=terms.anomaly_score,
            decision=decision_score(terms, domain),
            terms={
                "section": terms.section,
                "attribute": terms.attribute,
                "target": terms.target,
                "temporal_maximum": terms.temporal_maximum,
            },
        )


SYSTEMS: Mapping[str, Callable[[Bundle], System]] = MappingProxyType({"adacos_resnet": AdacosResnet})
