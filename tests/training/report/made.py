"""Report data made by hand: a tiny bundle, clips with the scores that a test needs, and sounds that can be decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from models.bundle import Bundle, CalibrationKey
from models.decision import decide
from models.vocabulary import Condition, Decision, Domain, Split
from tests.models.tiny import FAN, VALVE, build_bundle
from training.intervals import rate_interval
from training.layout import Table
from training.metrics import Interval, auc, partial_auc
from training.recordings import Recording
from training.report.contents import (
    ReportData,
    anomaly_scores,
    by_place,
    of_condition,
)
from training.resampling import Draws, interval, resampled_areas
from training.scored import Scored, SystemName
from training.tables import Row

SOURCE, TARGET, OTHER = (FAN, Domain.SOURCE), (FAN, Domain.TARGET), (VALVE, Domain.SOURCE)
EARWITNESS, FLOOR = "earwitness", "floor"
"""Labels of systems, the bundle's first."""
BUNDLE_ID = "0123456789abcdef" * 4

CURVE: Mapping[str, list[float]] = {
    "epoch": [1, 2, 3, 4],
    "loss": [5, 4, 3, 2.5],
    "section_loss": [2, 1.5, 1, 1],
    "attribute_loss": [3, 2.5, 2, 1.5],
    "section_scale": [5, 64, 9, 8],
    "attribute_scale": [7, 8, 8, 8],
    "limited": [0, 1, 0, 0],
}


@cache
def tiny() -> Bundle:
    """The tiny bundle, with a seed and a curve of one of its networks."""
    bundle = build_bundle()
    facts = {
        "recipe": {"name": "tiny", "seed": 3},
        "training_data": {"recordings": 23, "curves": {"both-heads-s2": dict(CURVE)}},
    }
    return replace(bundle, manifest=bundle.manifest.model_copy(update=facts))


def scored(
    place: CalibrationKey,
    condition: Condition | None,
    score: float,
    *,
    path: str = "clip.wav",
    threshold: float | None = 0.0,
    **recording: Any,
) -> Scored:
    """A clip with this score; the file need not exist unless it is shown."""
    facts: dict[str, Any] = {"attribute": "", "recording": path, "challenge": True, **recording}
    return Scored(
        recording=Recording(
            path=Path(path),
            machine_type=place[0].machine_type,
            section=place[0].section,
            domain=place[1],
            split=Split.TEST,
            condition=condition,
            **facts,
        ),
        start_s=0.0,
        anomaly_score=score,
        decision_score=score,
        threshold=threshold,
        decision=decide(score, threshold),
        parts={},
    )


def clips_of(folder: Path, counts: Mapping[CalibrationKey, tuple[int, int]], shift: float = 1.0) -> list[Scored]:
    """Normal and faulty clips of each place, the faulty ones ``shift`` spreads higher, each with two seconds of noise.

    Scores lie around the calibration scores of the tiny bundle, thresholds are its own.
    """
    random = np.random.default_rng(7)
    clips = []
    for place, numbers in counts.items():
        calibration = tiny().calibrations[place].calibration
        for condition, number in zip(Condition, numbers, strict=True):
            for i in range(number):
                path = folder / f"{place[0].machine_type}-{place[0].section}-{place[1]}-{condition}-{i:02d}.wav"
                soundfile.write(path, random.normal(0, 0.02, 32_000), 16_000, subtype="PCM_16")
                score = random.choice(calibration.scores) + calibration.scores.std() * (
                    random.normal(0, 0.5) + shift * (condition is Condition.ANOMALY)
                )
                clips.append(scored(place, condition, score, path=path.as_posix(), threshold=calibration.threshold))
    return clips


def row_of(place: CalibrationKey, clips: Sequence[Scored]) -> Row:
    """A row as an evaluation makes it."""
    kinds = [of_condition(clips, condition) for condition in Condition]
    normal, anomalous = map(anomaly_scores, kinds)
    names = [[clip.recording.recording for clip in kind] for kind in kinds]
    draws = [Draws.of(own, str(place), condition) for own, condition in zip(names, Condition, strict=True)]
    intervals: list[Interval | None] = [None, None]
    if draws[0] and draws[1]:
        areas = resampled_areas(normal, anomalous, draws[0].weights(names[0]), draws[1].weights(names[1]))
        intervals = [interval(area) for area in areas]
    rates, bounds = zip(*(_rate(kind) for kind in kinds), strict=True)
    figures: dict[str, Any] = {
        "system": SystemName.EARWITNESS,
        "bundle": BUNDLE_ID,
        "recipe": "tiny",
        "seed": 3,
        "machine_type": place[0].machine_type,
        "section": place[0].section,
        "domain": place[1],
        "auc": auc(normal, anomalous),
        "auc_interval": intervals[0],
        "pauc": partial_auc(normal, anomalous),
        "pauc_interval": intervals[1],
        "normal": len(normal),
        "anomalous": len(anomalous),
        "false_alarm_rate": rates[0],
        "hit_rate": rates[1],
        "false_alarm_interval": bounds[0],
        "hit_interval": bounds[1],
        "official_pauc": partial_auc(normal, anomalous),
    }
    return Row(**figures)


def _rate(clips: Sequence[Scored]) -> tuple[float | None, tuple[float, float] | None]:
    decided = [clip for clip in clips if clip.decision is not None]
    if not decided:
        return None, None
    called = [clip.decision is Decision.ANOMALOUS for clip in decided]
    return sum(called) / len(called), rate_interval(called, [clip.recording.recording for clip in decided])


@dataclass(frozen=True)
class Hostile:
    """Strings that would do harm if they were taken for anything but text."""

    script: str = "<script>alert(1)</script>"
    image: str = "\"><img src=x onerror='alert(2)'>"
    template: str = "{{ 7 * 7 }}{% raw %}"
    mathematics: str = "$\\frac{1}$ $unfinished"


def report_data(systems: Mapping[str, Sequence[Scored]], **other: Any) -> ReportData:
    """Of these systems' clips; everything else as an evaluation of the tiny bundle would have it, or as said."""
    first = next(iter(systems.values()))
    given: dict[str, Any] = {
        "bundle": BUNDLE_ID,
        "manifest": tiny().manifest,
        "calibrations": tiny().calibrations,
        "rows": {
            label: [row_of(place, own) for place, own in by_place(clips).items()] for label, clips in systems.items()
        },
        "scored": systems,
        "embeddings": np.random.default_rng(5).normal(size=(len(first), 128)).astype(np.float32),
        "official_score": 0.6,
        "mean_auc": 0.7,
        "means": (Table("Harmonic means", ("machine type", "AUC"), (("fan", "61.0"),), words=1),),
        "comparisons": (),
        "notes": (),
        "provenance": {"Command": "python -m training evaluate"},
    }
    return ReportData(**{**given, **other})
