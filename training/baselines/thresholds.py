"""The challenge's threshold rule: a quantile of a gamma distribution fitted to scores of training clips.

As in its public code, one distribution a machine type, fitted to the clips of all its sections and both domains, that
the network was trained on: shape, location and scale by maximum likelihood. A shape below 1 has no maximum: the closer
the location comes to the lowest score, the likelier it is, without end, and the threshold would be where the search
stopped by chance. It is met with a dozen clips; the nearest shape with a maximum, 1, is fitted instead.
"""

import logging
import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from models.vocabulary import Domain
from training.baselines.trained import Place, Scorer
from training.features import FeatureStore
from training.progress import Advance

_log = logging.getLogger(__name__)

QUANTILE = 0.9
LEAST_CLIPS = 3
"""A gamma distribution has three parameters."""


def gamma_threshold(scores: Sequence[float] | NDArray[np.float64]) -> float | None:
    """The 0.9 quantile of the gamma distribution fitted to ``scores``, (clips,).

    None where fewer than `LEAST_CLIPS` differ, or where no distribution can be fitted.
    """
    if len(np.unique(scores)) < LEAST_CLIPS:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the search for a maximum looks at impossible shapes too
        try:
            shape, location, scale = scipy.stats.gamma.fit(scores)
        except (ValueError, RuntimeError):  # scipy's FitDataError and FitError
            return None
        if shape < 1.0:
            shape, (location, scale) = 1.0, scipy.stats.expon.fit(scores)
        threshold = float(scipy.stats.gamma.ppf(QUANTILE, shape, location, scale))
    return threshold if np.isfinite(threshold) else None


def gamma_thresholds(store: FeatureStore, scorer: Scorer, advance: Advance) -> dict[Place, float | None]:
    """The threshold of each machine type for each of its sections, in both domains.

    Parameters
    ----------
    advance : called with 1 after each clip.
    """
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for clip, log_mel in zip(store.clips, store.log_mels, strict=True):
        recording = clip.recording
        scores[recording.machine_type].append(
            float(scorer.score(np.asarray(log_mel)[None], recording.key, recording.domain)[0])
        )
        advance(1)
    thresholds = {machine_type: gamma_threshold(own) for machine_type, own in scores.items()}
    for machine_type, threshold in sorted(thresholds.items()):
        if threshold is None:
            _log.warning(
                "%s: no threshold, for no gamma distribution fits the scores of its %d training clips",
                machine_type,
                len(scores[machine_type]),
            )
    keys = sorted({clip.recording.key for clip in store.clips})
    return {(key, domain): thresholds[key.machine_type] for key in keys for domain in Domain}
