"""The back end of the recipe `plant`: reference clips and geometry of each section, and thresholds from two dealings.

The clips are dealt twice (`training.folds`). By clip folds come the networks, references and geometry that serve, and
how x spreads among normal clips. By condition folds come, from networks and geometry of their own, only the x that the
calibration scores are made of: those of clips whose whole operating condition nothing had heard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.bundle import CalibrationKey
from models.compact import FOLDS, CompactSection, Heard, Whitening
from models.decision import Calibration
from models.fusion import LEAST_CLIPS, Spread, left_out_log_p_values, log_p_value
from models.vocabulary import Domain, SectionKey, SubSystem, ThresholdRule
from training.dynamics import fit_whitening, residuals
from training.features import TrainingClip
from training.folds import Folds

LEAST_TARGET_CLIPS = 3
"""Fewer target clips give a section no target domain."""


def fit_sections(
    clips: Sequence[TrainingClip],
    heard: Heard,
    folds: Folds,
    *,
    pool: Mapping[str, Sequence[NDArray[np.float64]]] | None = None,
) -> dict[SectionKey, CompactSection]:
    """References and geometry of every section that has source clips.

    Parameters
    ----------
    clips : n clips at their own speed.
    heard : the same, as the networks of these folds and the front end give them.
    folds : (n,), see `training.folds`.
    pool : for sections that are added to a bundle: residuals of the sections it has, by machine type. The dynamics then
        always count, for the networks have never heard these sections.
    """
    kinds = tuple(heard.embeddings)
    rows = _rows(clips)
    sections = {key: own for key, own in rows.items() if any(_is_source(clips[row]) for row in own)}
    types = [key.machine_type for key in sections]
    fitted: dict[SectionKey, CompactSection] = {}
    for machine_type in sorted(set(types)):
        siblings = {key: own for key, own in sections.items() if key.machine_type == machine_type}
        beside_siblings = pool is None and len(siblings) > 1
        counted = kinds if kinds and beside_siblings else (*kinds, SubSystem.F)
        others = () if pool is None else pool.get(machine_type, ())
        whitenings = _whitenings(clips, heard.dynamics, folds, siblings, others)
        for key, own in siblings.items():
            attributes = sorted({clips[row].recording.attribute_name for row in own if _is_source(clips[row])})
            known = {name: place for place, name in enumerate(attributes)}
            of_targets = sorted({clips[row].recording.attribute_name for row in own} - known.keys())
            known |= {name: len(attributes) + place for place, name in enumerate(of_targets)}
            section = CompactSection(
                heard=heard.take(own),
                folds=folds[own],
                is_target=np.array([not _is_source(clips[row]) for row in own]),
                attributes=(*attributes, *of_targets),
                attribute_of=np.array([known[clips[row].recording.attribute_name] for row in own], np.int64),
                whitenings=whitenings[key],
                spreads={},
                counted=counted,
            )
            fitted[key] = with_spreads(section)
    return fitted


def with_spreads(section: CompactSection) -> CompactSection:
    """The section with the spread of each sub-system's held-out x over its source clips, where there are enough."""
    if int((~section.is_target).sum()) < LEAST_CLIPS:
        return section
    x = section.held_out_log_distances()
    return replace(section, spreads={kind: Spread.of(own[~section.is_target]) for kind, own in x.items()})


def calibrate(
    serving: Mapping[SectionKey, CompactSection],
    strict: Mapping[SectionKey, CompactSection] | None,
    percentile: float,
) -> dict[CalibrationKey, Calibration]:
    """Calibration scores and thresholds by section and domain.

    Parameters
    ----------
    serving : by clip folds.
    strict : the same sections by condition folds; None takes the scores of the serving folds (rule `held_out`).
    percentile : of the source scores; of the target scores the rank that keeps the same promise.
    """
    rule = ThresholdRule.HELD_OUT if strict is None else ThresholdRule.CONDITIONS
    calibrations: dict[CalibrationKey, Calibration] = {}
    for key, section in serving.items():
        held_out = section if strict is None else strict[key]
        source, target = held_out_scores(section, held_out)
        folds = held_out.folds[~held_out.is_target] if len(source) else None
        calibrations[key, Domain.SOURCE] = Calibration.from_scores(source, rule, percentile, folds=folds)
        if len(target) >= LEAST_TARGET_CLIPS:
            scores = target.mean() + (source - source.mean()) if len(source) else source
            calibrations[key, Domain.TARGET] = Calibration.from_scores(scores, rule, percentile, ranked=True)
    return calibrations


def held_out_scores(serving: CompactSection, strict: CompactSection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of the source and of the target clips by the folds of ``strict``, as the spreads of ``serving`` see them.

    A source clip's own x is left out of the spread where both dealings put it in the same fold. A section with too few
    source clips has no source scores; its target clips count all the same, as NaN.
    """
    source = ~serving.is_target
    if not serving.spreads:
        return np.empty(0), np.full(int(serving.is_target.sum()), np.nan)
    x, among = strict.held_out_log_distances(), serving.held_out_log_distances()
    same = (serving.folds == strict.folds)[source]
    log_p_source = {kind: left_out_log_p_values(x[kind][source], among[kind][source], same) for kind in serving.counted}
    log_p_target = {kind: log_p_value(x[kind][~source], serving.spreads[kind]) for kind in serving.counted}
    return serving.score(log_p_source), serving.score(log_p_target)


def _whitenings(
    clips: Sequence[TrainingClip],
    dynamics: NDArray[np.float32],
    folds: Folds,
    sections: Mapping[SectionKey, NDArray[np.intp]],
    others: Sequence[NDArray[np.float64]],
) -> dict[SectionKey, tuple[Whitening, ...]]:
    """The geometry of each section of one machine type, one a fold; ``others``: residuals that join the pool."""
    found: dict[SectionKey, list[Whitening]] = {key: [] for key in sections}
    conditions = {name: place for place, name in enumerate(sorted({clip.recording.attribute_class for clip in clips}))}
    for fold in range(FOLDS):
        own = {}
        for key, rows in sections.items():
            heard = [row for row in rows if _is_source(clips[row]) and folds[row] != fold]
            numbers = np.array([conditions[clips[row].recording.attribute_class] for row in heard], np.int64)
            own[key] = residuals(dynamics[heard], numbers)
        for key in sections:
            found[key].append(fit_whitening(own[key], [*own.values(), *others]))
    return {key: tuple(whitenings) for key, whitenings in found.items()}


def _is_source(clip: TrainingClip) -> bool:
    return clip.recording.domain is Domain.SOURCE


def _rows(clips: Sequence[TrainingClip]) -> dict[SectionKey, NDArray[np.intp]]:
    rows: dict[SectionKey, list[int]] = {}
    for row, clip in enumerate(clips):
        rows.setdefault(clip.recording.key, []).append(row)
    return {key: np.array(own, np.intp) for key, own in sorted(rows.items())}
