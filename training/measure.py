"""The figures of one system on one section and domain, and what the draws make of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Condition, Decision
from training.intervals import partial_interval, rate_interval, score_interval, wider
from training.metrics import MIN_NORMAL_FOR_PARTIAL, Interval, Scores, auc, partial_auc
from training.recordings import Place
from training.resampling import Draws, interval, resampled_areas
from training.scored import Contender, PartKind, Scored
from training.tables import Estimate, Part, Row

_PAPERS_TERMS = ("section", "attribute", "target", "temporal_maximum")
"""Terms of Eqs. (2) to (4), nats: a sum of them is a score again. Other systems' terms are no such sums."""


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A figure, what it is in each draw, and its interval; (0,) draws and None where nothing can be drawn."""

    value: float
    draws: NDArray[np.float64]
    interval: Interval | None

    @property
    def estimate(self) -> Estimate:
        """As a table has it."""
        return Estimate(self.value, self.interval)


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """AUC and pAUC of one system in one place.

    An interval is the wider of two, for the draws are too sure where recordings are few, and what is sure of few
    supposes a shape of the scores: both must be believed. ``scores``: those of normal and of anomalous clips.
    """

    auc: Figure
    pauc: Figure
    scores: tuple[Scores, Scores]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A row, its parts, and its areas, None where there are no clips of one kind."""

    row: Row
    parts: tuple[Part, ...]
    areas: Areas | None


def measure(
    contender: Contender, place: Place, clips: Sequence[Scored], draws: Mapping[Condition, Draws | None]
) -> Measured:
    """Measure a system by its clips of one place.

    Parameters
    ----------
    clips : scored; those of unknown condition are not counted. Empty for a place that the contender lacks.
    draws : of the recordings of each condition, the same for every contender.
    """
    normal, anomalous = _of(clips, Condition.NORMAL), _of(clips, Condition.ANOMALY)
    areas = _areas(normal, anomalous, draws)
    shown = len(normal) >= MIN_NORMAL_FOR_PARTIAL
    area = partial = Estimate(None, None)
    if areas is not None:
        area, partial = areas.auc.estimate, areas.pauc.estimate
    alarms, hits = _called(normal), _called(anomalous)
    machine_type, section, domain = place
    row = Row(
        system=contender.name,
        bundle=contender.bundle,
        recipe=contender.recipe,
        seed=contender.seed,
        machine_type=machine_type,
        section=section,
        domain=domain,
        auc=area.value,
        auc_interval=area.interval,
        pauc=partial.value if shown else None,
        pauc_interval=partial.interval if shown else None,
        normal=len(normal),
        anomalous=len(anomalous),
        false_alarm_rate=None if alarms is None else sum(alarms) / len(alarms),
        hit_rate=None if hits is None else sum(hits) / len(hits),
        false_alarm_interval=None if alarms is None else rate_interval(alarms, _recordings(normal)),
        hit_interval=None if hits is None else rate_interval(hits, _recordings(anomalous)),
        official_pauc=partial.value,
    )
    return Measured(row, tuple(_parts(place, normal, anomalous, shown=shown)), areas)


def _areas(
    normal: Sequence[Scored], anomalous: Sequence[Scored], draws: Mapping[Condition, Draws | None]
) -> Areas | None:
    scores = _anomaly_scores(normal), _anomaly_scores(anomalous)
    area, partial = auc(*scores), partial_auc(*scores)
    if area is None or partial is None:
        return None
    drawn = draws[Condition.NORMAL], draws[Condition.ANOMALY]
    if drawn[0] is None or drawn[1] is None:
        return Areas(Figure(area, np.empty(0), None), Figure(partial, np.empty(0), None), scores)
    recordings = _recordings(normal), _recordings(anomalous)
    weights = drawn[0].weights(recordings[0]), drawn[1].weights(recordings[1])
    areas, partials = resampled_areas(*scores, *weights)
    counts = len(set(recordings[0])), len(set(recordings[1]))
    return Areas(
        Figure(area, areas, wider(interval(areas), score_interval(area, *counts))),
        Figure(partial, partials, wider(interval(partials), partial_interval(partial, *counts))),
        scores,
    )


def _parts(place: Place, normal: Sequence[Scored], anomalous: Sequence[Scored], *, shown: bool) -> Iterator[Part]:
    """Each part alone, and every sum of the paper's terms that leaves one out."""
    some = [*normal, *anomalous][:1]
    names: list[tuple[PartKind, tuple[str, ...]]] = [(kind, (name,)) for kind, name in (some[0].parts if some else ())]
    terms = [name for name in _PAPERS_TERMS if (PartKind.TERM, (name,)) in names]
    names += [(PartKind.TERM, chosen) for size in range(2, len(terms)) for chosen in combinations(terms, size)]
    for kind, chosen in names:
        scores = [
            np.array([sum(clip.parts[kind, name] for name in chosen) for clip in clips])
            for clips in (normal, anomalous)
        ]
        yield Part(*place, kind, " + ".join(chosen), auc(*scores), partial_auc(*scores) if shown else None)


def _of(clips: Sequence[Scored], condition: Condition) -> list[Scored]:
    return [clip for clip in clips if clip.recording.condition is condition]


def _anomaly_scores(clips: Sequence[Scored]) -> Scores:
    return np.array([clip.anomaly_score for clip in clips], np.float64)


def _recordings(clips: Sequence[Scored]) -> list[str]:
    return [clip.recording.recording for clip in clips]


def _called(clips: Sequence[Scored]) -> list[bool] | None:
    """Which clips are called anomalous; None where nothing is decided."""
    decisions = [clip.decision for clip in clips]
    return None if not decisions or None in decisions else [one is Decision.ANOMALOUS for one in decisions]
