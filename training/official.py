"""The challenge's own form: score and decision files, ground truth, and the figures that its evaluator makes of them.

Files of DCASE 2021 task 2, a line a recording, no header; in the names the machine type, the section and the domain:

- ``anomaly_score_<machine>_section_<NN>_<source|target>_test.csv``: ``filename,score``
- ``decision_result_...``: ``filename,0|1``, 1 for anomalous
- ``result.csv``: AUC, pAUC, precision, recall and F1 of each, their means, and the official score

The evaluator pairs the lines of sorted files; here they are joined by name, so that a missing recording is found.
"""

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.decision import decide
from models.errors import DataError
from models.vocabulary import Condition, Decision, Domain
from training.ground_truth import CONDITIONS, GroundTruth, read_column
from training.listing import listed
from training.metrics import auc, harmonic_mean, official_score, partial_auc
from training.recordings import Place, Recording
from training.scored import Scored
from training.tables import Evaluation, System

RESULT = "result.csv"

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Figures:
    """What the evaluator gives of one machine type, section and domain, or the mean of several; fractions."""

    auc: float | None
    pauc: float | None
    precision: float | None
    recall: float | None
    f1: float | None


_FIGURES = tuple(field.name for field in fields(Figures))


def require_own_names(recordings: Iterable[Recording]) -> None:
    """Refuse recordings that the challenge's files could not tell apart; to be asked before they are scored.

    Those whose domain is not told are left out of evaluation, see `training.evaluate`, and are in no file.

    Raises
    ------
    DataError : for two recordings of a section and domain with one file name, naming both.
    """
    named: dict[tuple[Place, str], Recording] = {}
    for one in (one for one in recordings if one.domain_told):
        other = named.setdefault((one.place, _name(one)), one)
        if other is not one:
            raise DataError(
                f"{other.path} and {one.path} have one name and are of one section and domain: the challenge's files "
                "name a recording by nothing else. Evaluate one of the two sets, or leave out --csv."
            )


def write_csvs(evaluation: Evaluation, folder: Path) -> None:
    """Write the challenge's files of each system: of the first into ``folder``, of others into folders in it.

    The recordings are known to have names of their own, see `require_own_names`.
    """
    taken: set[str] = set()
    for system in evaluation.systems:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", system.label).strip("-")
        while name in taken:
            name += "-"
        taken.add(name)
        _write_system(system, folder if system is evaluation.first else folder / name)


def _write_system(system: System, folder: Path) -> None:
    """Scores, decisions, and where the conditions are known what the evaluator makes of them.

    A recording that was cut has the mean of its clips' scores, and the decision that this mean gives. Without a
    threshold there is no file of decisions: none of an earlier evaluation either, whose figures it would falsify.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    groups: defaultdict[Place, defaultdict[Recording, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for clip in system.scored:
        groups[clip.recording.place][clip.recording].append(clip)
    truth: dict[Place, dict[str, Condition]] = {}
    for place, recordings in sorted(groups.items()):
        ordered = sorted(recordings.items(), key=lambda item: item[0].path)
        scores = [(_name(one), float(np.mean([clip.anomaly_score for clip in clips]))) for one, clips in ordered]
        _write(folder / f"anomaly_score_{_stem(place)}.csv", scores)
        decisions = [(_name(one), _decision(clips)) for one, clips in ordered]
        file = folder / f"decision_result_{_stem(place)}.csv"
        file.unlink(missing_ok=True)
        if None not in {decision for _, decision in decisions}:
            _write(file, decisions)
        conditions = {_name(one): one.condition for one in recordings if one.condition is not None}
        if len(conditions) == len(recordings) and set(conditions.values()) == set(Condition):
            truth[place] = conditions
    if truth:
        write_result(official_figures(folder, truth), folder / RESULT)


def _stem(place: Place) -> str:
    machine_type, section, domain = place
    return f"{machine_type}_section_{section}_{domain}_test"


def _name(recording: Recording) -> str:
    """A challenge's files have names of their own; a plant's may share them between folders."""
    return recording.path.name if recording.challenge else recording.path.as_posix()


def _decision(clips: Sequence[Scored]) -> int | None:
    decision = decide(float(np.mean([clip.decision_score for clip in clips])), clips[0].threshold)
    return None if decision is None else int(decision is Decision.ANOMALOUS)


def _write(path: Path, lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def official_figures(folder: Path, truth: GroundTruth) -> dict[Place, Figures]:
    """What the challenge's evaluator computes of score and decision files.

    Parameters
    ----------
    folder : with ``anomaly_score_*`` and ``decision_result_*`` of every place of the ground truth. Without decisions,
        which the evaluator does not allow, precision, recall and F1 are None.
    truth : with normal and anomalous recordings of each place.

    Raises
    ------
    DataError : for a file that is missing or names other recordings than the ground truth.
    """
    return {place: _figures(folder, place, conditions) for place, conditions in sorted(truth.items())}


def mean_figures(figures: Iterable[Figures], mean: Callable[[Iterable[float | None]], float | None]) -> Figures:
    """The mean of each figure."""
    found = list(figures)
    return Figures(*(mean(getattr(one, name) for one in found) for name in _FIGURES))


def score_of(figures: Iterable[Figures]) -> float | None:
    """The official score."""
    found = list(figures)
    return official_score([one.auc for one in found], [one.pauc for one in found])


def write_result(figures: Mapping[Place, Figures], path: Path) -> None:
    """Write the figures and their means as the challenge's evaluator lays them out."""
    lines: list[Sequence[object]] = []
    for machine_type in sorted({machine_type for machine_type, _, _ in figures}):
        own = {place: one for place, one in figures.items() if place[0] == machine_type}
        ordered = sorted(own.items(), key=lambda item: (item[0][2], item[0][1]))
        lines += [[machine_type], ["section", "domain", *_HEADER]]
        lines += [[section, domain, *_cells(one)] for (_, section, domain), one in ordered]
        lines += [[name, "", *_cells(mean)] for name, mean in _means(own)]
        lines.append([])
    over = " over all machine types, sections, and domains"
    lines.append(["", "", *_HEADER])
    lines += [[name + over, "", *_cells(mean)] for name, mean in _means(figures)]
    lines += [[], ["official score", "", score_of(figures.values())]]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, lines)


_HEADER = ("AUC", "pAUC", "precision", "recall", "F1 score")


def _figures(folder: Path, place: Place, conditions: Mapping[str, Condition]) -> Figures:
    scores = _read_of(folder / f"anomaly_score_{_stem(place)}.csv", float, "a score", conditions)
    kinds = [
        np.array([scores[name] for name, one in conditions.items() if one is condition]) for condition in Condition
    ]
    areas = auc(*kinds), partial_auc(*kinds)
    file = folder / f"decision_result_{_stem(place)}.csv"
    if not file.exists():
        return Figures(*areas, None, None, None)
    called = _read_of(file, CONDITIONS.__getitem__, "0 or 1", conditions)
    pairs = [(conditions[name], called[name]) for name in conditions]
    hits = pairs.count((Condition.ANOMALY, Condition.ANOMALY))
    alarms = hits + pairs.count((Condition.NORMAL, Condition.ANOMALY))
    anomalies = hits + pairs.count((Condition.ANOMALY, Condition.NORMAL))
    precision, recall = _share(hits, alarms), _share(hits, anomalies)
    return Figures(*areas, precision, recall, _share(2.0 * precision * recall, precision + recall))


def _read_of(
    path: Path, value: Callable[[str], _Value], words: str, conditions: Mapping[str, Condition]
) -> dict[str, _Value]:
    if not path.exists():
        raise DataError(f"{path} does not exist, but the ground truth has its recordings. Score them too.")
    found = read_column(path, value, words)
    if odd := sorted(found.keys() ^ conditions.keys()):
        raise DataError(
            f"{path} and the ground truth do not name the same recordings: {listed(odd)}. Score that very set."
        )
    return found


def _share(part: float, whole: float) -> float:
    """0 of nothing is 0, as in the evaluator."""
    return float(part / max(whole, sys.float_info.epsilon))


def _means(figures: Mapping[Place, Figures]) -> list[tuple[str, Figures]]:
    by_domain = {domain: [one for place, one in figures.items() if place[2] is domain] for domain in Domain}
    return [
        ("arithmetic mean", mean_figures(figures.values(), _arithmetic_mean)),
        ("harmonic mean", mean_figures(figures.values(), harmonic_mean)),
        *((f"{domain} harmonic mean", mean_figures(own, harmonic_mean)) for domain, own in by_domain.items() if own),
    ]


def _arithmetic_mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _cells(figures: Figures) -> list[float | str]:
    return ["" if (value := getattr(figures, name)) is None else value for name in _FIGURES]
