"""The challenge's ground truth: which recordings of an evaluation set are normal, whose own names do not tell.

A file a machine type and section, with a line a recording and no header:

- DCASE 2021, a file for each domain: ``ground_truth_<machine>_section_<NN>_<source|target>_test.csv``,
  ``filename,0|1``, 1 for an anomaly
- DCASE 2022 and later, whose names do not tell the domain either: ``ground_truth_<machine>_section_<NN>_test.csv`` in
  ``ground_truth_data``, of the same form, and in ``ground_truth_domain``, 1 for the target domain
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from models.errors import DataError
from models.vocabulary import Condition, Domain
from training.listing import listed
from training.recordings import Place, Recording

GroundTruth: TypeAlias = Mapping[Place, Mapping[str, Condition]]
"""The condition of each recording, by the name of its file."""

CONDITIONS: Mapping[str, Condition] = {"0": Condition.NORMAL, "1": Condition.ANOMALY}
"""As the challenge's files write them, decisions too."""

_DOMAINS: Mapping[str, Domain] = {"0": Domain.SOURCE, "1": Domain.TARGET}
_Value = TypeVar("_Value")
_FILE = re.compile(r"(?P<machine_type>.+)_section_(?P<section>[^_]+)(?:_(?P<domain>source|target))?_test\.csv")


def read_ground_truth(folder: Path) -> GroundTruth:
    """Read every ``ground_truth_*.csv`` of a folder, or of ``ground_truth_data`` in it.

    Raises
    ------
    DataError : where there is none, a file or line of one is of another form, naming it, or two contradict each other.
    """
    files = sorted(folder.glob("ground_truth_*.csv")) + sorted(folder.glob("ground_truth_data/ground_truth_*.csv"))
    if not files:
        raise DataError(
            f"{folder} holds no ground_truth_<machine>_section_<NN>_<source|target>_test.csv, and no folder "
            "ground_truth_data with ground_truth_<machine>_section_<NN>_test.csv. Name the folder with the challenge's "
            "ground truth; that of 2021 is Zenodo record 5257674."
        )
    truth: dict[Place, dict[str, Condition]] = {}
    told_by: dict[tuple[Place, str], tuple[Condition, Path]] = {}
    for file in files:
        match = _FILE.fullmatch(file.name.removeprefix("ground_truth_"))
        if match is None:
            raise DataError(
                f"{file} is not named as the challenge names it, ground_truth_<machine>_section_<NN>_<source|target>_"
                "test.csv or without domain. Rename it, or take it out of the folder."
            )
        conditions = read_column(file, CONDITIONS.__getitem__, "0 (normal) or 1 (anomaly)")
        domains = dict.fromkeys(conditions, Domain(match["domain"])) if match["domain"] else _domains(file, conditions)
        for name, condition in conditions.items():
            place = match["machine_type"], match["section"], domains[name]
            first, other = told_by.setdefault((place, Path(name).stem), (condition, file))
            if first is not condition:
                raise DataError(
                    f"{other} says that {name} is {first}, and {file} {condition}. Give the ground truth of one set "
                    "alone."
                )
            truth.setdefault(place, {})[name] = condition
    return truth


def _domains(file: Path, conditions: Mapping[str, Condition]) -> Mapping[str, Domain]:
    """The domain of each recording that ``file`` names, by the file beside it that tells domains."""
    other = file.parent.with_name("ground_truth_domain") / file.name
    if not other.exists():
        raise DataError(
            f"{file} tells no domain, and {other} does not exist. Give the folder in which the challenge's "
            "ground_truth_data and ground_truth_domain lie side by side."
        )
    domains = read_column(other, _DOMAINS.__getitem__, "0 (source) or 1 (target)")
    if odd := sorted(domains.keys() ^ conditions.keys()):
        raise DataError(f"{file} and {other} do not name the same recordings: {odd[0]}. Give those of one set.")
    return domains


def label_recordings(recordings: Sequence[Recording], truth: GroundTruth) -> list[Recording]:
    """Give each recording the condition that the ground truth tells of it, and the domain where none is told.

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
    labelled = [_labelled(recording, by_stem) for recording in recordings]
    if any(labelled):
        return [one or recording for one, recording in zip(labelled, recordings, strict=True)]
    known = listed(sorted({f"{machine_type} {section}" for machine_type, section, _ in truth}))
    raise DataError(
        f"The ground truth tells nothing of these {len(recordings)} test recordings: it is of {known}. Give that "
        "of the set that you evaluate."
    )


def _labelled(recording: Recording, truth: GroundTruth) -> Recording | None:
    """The recording as the ground truth has it; None where that does not have its section and domain."""
    machine_type, section, told_domain = recording.place
    domains = [told_domain] if recording.domain_told else list(Domain)
    there = {domain: own for domain in domains if (own := truth.get((machine_type, section, domain))) is not None}
    if not there:
        return None
    found = [(domain, own[recording.path.stem]) for domain, own in there.items() if recording.path.stem in own]
    if not found:
        raise DataError(
            f"{recording.path}: the ground truth of {machine_type} {section} {' and '.join(there)} does not name it. "
            "Give the ground truth of this very set."
        )
    if len(found) > 1:
        raise DataError(
            f"{recording.path}: the ground truth of {machine_type} {section} names it for both domains. Give that of "
            "this very set alone."
        )
    ((domain, condition),) = found
    if recording.condition not in {None, condition}:
        raise DataError(
            f"{recording.path} is called {recording.condition} and the ground truth says {condition}. Give the ground "
            "truth of this very set."
        )
    return replace(recording, domain=domain, domain_told=True, condition=condition)


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
