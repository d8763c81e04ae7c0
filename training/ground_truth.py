"""The challenge's ground truth: which recordings of an evaluation set are normal, whose own names do not tell.

A file a machine type, section and domain, ``ground_truth_<machine>_section_<NN>_<source|target>_test.csv``, with a line
a recording, ``filename,0|1``, 1 for an anomaly, and no header (DCASE 2021).
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from models.errors import DataError
from models.vocabulary import Condition, Domain
from training.recordings import Place, Recording

GroundTruth: TypeAlias = Mapping[Place, Mapping[str, Condition]]
"""The condition of each recording, by the name of its file."""

CONDITIONS: Mapping[str, Condition] = {"0": Condition.NORMAL, "1": Condition.ANOMALY}
"""As the challenge's files write them, decisions too."""

_Value = TypeVar("_Value")
_FILE = re.compile(r"(?P<machine_type>.+)_section_(?P<section>.+)_(?P<domain>source|target)_test\.csv")


def read_ground_truth(folder: Path) -> GroundTruth:
    """Read every ``ground_truth_*.csv`` of a folder.

    Raises
    ------
    DataError : where there is none, or a file or line of one is of another form, naming it.
    """
    files = sorted(folder.glob("ground_truth_*.csv"))
    if not files:
        raise DataError(
            f"{folder} holds no ground_truth_<machine>_section_<NN>_<source|target>_test.csv. Name the folder with the "
            "challenge's ground truth; that of 2021 is Zenodo record 5257674."
        )
    truth: dict[Place, Mapping[str, Condition]] = {}
    for file in files:
        match = _FILE.fullmatch(file.name.removeprefix("ground_truth_"))
        if match is None:
            raise DataError(
                f"{file} is not named as DCASE 2021 names it, ground_truth_<machine>_section_<NN>_<source|target>_test."
                "csv. Rename it, or take it out of the folder."
            )
        place = match["machine_type"], match["section"], Domain(match["domain"])
        truth[place] = read_column(file, CONDITIONS.__getitem__, "0 (normal) or 1 (anomaly)")
    return truth


def label_recordings(recordings: Sequence[Recording], truth: GroundTruth) -> list[Recording]:
    """Give each recording the condition that the ground truth tells of it.

    Names are compared without their suffix: a set that was converted to FLAC is the same set.

    Raises
    ------
    DataError : where the ground truth knows none of the recordings, not all of a section and domain that it has, or
        contradicts a name or manifest.
    """
    by_stem = {
        place: {Path(name).stem: condition for name, condition in conditions.items()}
        for place, conditions in truth.items()
    }
    labelled = []
    joined = 0
    for recording in recordings:
        place = recording.place
        if place not in by_stem:
            labelled.append(recording)
            continue
        told = by_stem[place].get(recording.path.stem)
        if told is None:
            raise DataError(
                f"{recording.path}: the ground truth of {' '.join(place)} does not name it. Give the ground truth of "
                "this very set."
            )
        if recording.condition not in {None, told}:
            raise DataError(
                f"{recording.path} is called {recording.condition} and the ground truth says {told}. Give the ground "
                "truth of this very set."
            )
        labelled.append(replace(recording, condition=told))
        joined += 1
    if not joined:
        known = ", ".join(sorted({f"{machine_type} {section}" for machine_type, section, _ in truth})[:6])
        raise DataError(
            f"The ground truth tells nothing of these {len(recordings)} test recordings: it is of {known}. Give that "
            "of the set that you evaluate."
        )
    return labelled


def read_column(path: Path, value: Callable[[str], _Value], words: str) -> dict[str, _Value]:
    """Read one of the challenge's files: the name of each recording's file, and the ``value`` of the text beside it.

    Raises
    ------
    DataError : for a line that is not ``filename,`` and ``words``, a name that comes twice, and what is no CSV text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error}). Export it again as CSV, UTF-8.") from error
    found: dict[str, _Value] = {}
    for number, line in enumerate(lines, 1):
        try:
            name, text = line
            told = value(text.strip())
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}, line {number}: {','.join(line)!r} is not a file name and {words}.") from error
        if name in found:
            raise DataError(f"{path}, line {number}: {name!r} comes twice. Name each recording once.")
        found[name] = told
    return found
