"""Labels of evaluation sets, as ``evaluate`` reads them: a CSV file a machine type, section and domain.

The files are the challenge's own, ``ground_truth_<machine>_section_<NN>_<source|target>_test.csv``, without header, a
line ``<clip>,<0|1>`` each, 1 for an anomaly. 2021 gives them in a snapshot of its evaluator; 2020 gives one list of all
machines, which becomes the same files here.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from models.errors import ArchiveRefused, DownloadError, InvalidName
from models.vocabulary import Domain, check_name
from training.download.zips import Entry

_GROUND_TRUTH = re.compile(
    r"ground_truth_[A-Za-z0-9][A-Za-z0-9._-]*_section_[A-Za-z0-9.-]+_(?:source|target)_test\.csv"
)
_CLIP_2020 = re.compile(r"id_(?P<section>[^_]+)_\d+\.wav")
_TRUTHS = {0.0: "0", 1.0: "1"}


def ground_truth_among(entries: Sequence[Entry], path: Path) -> list[Entry]:
    """The ground-truth files in a snapshot of an evaluator, whose programs and examples are left where they are.

    Raises
    ------
    ArchiveRefused : where there are none.
    """
    found = [entry for entry in entries if _GROUND_TRUTH.fullmatch(entry.path.name)]
    if not found:
        raise ArchiveRefused(
            f"{path} holds no ground_truth_<machine>_section_<NN>_<source|target>_test.csv. Look into it by hand."
        )
    return found


def split_list_2020(text: str, name: str) -> dict[str, str]:
    """Split the list of 2020 into ground-truth files, by name.

    A line of one column, the machine type, heads its clips: ``id_01_00000000.wav,normal_id_01_00000000.wav,0``, the
    clip, what it would be called with its label, and the label. 2020 knows no domains: all are source.

    Raises
    ------
    DownloadError : for a line of any other form.
    """
    files: dict[str, list[str]] = defaultdict(list)
    machine_type = ""
    for line, row in enumerate(text.splitlines(), start=1):
        try:
            if "," in row:
                file, label = _label_2020(machine_type, row)
                files[file].append(label)
            elif row:
                machine_type = check_name("machine type", row)
        except (InvalidName, ValueError) as error:
            raise DownloadError(
                f"{name}, line {line}: {error}. The list of 2020 is expected here: machine types, and below each of "
                "them clip, labelled name and 0 or 1. Look into it by hand."
            ) from error
    return {file: "".join(lines) for file, lines in files.items()}


def _label_2020(machine_type: str, row: str) -> tuple[str, str]:
    """The ground-truth file that a clip of the list belongs to, and its line there."""
    clip, _, truth = row.split(",")
    named = _CLIP_2020.fullmatch(clip)
    if not machine_type or not named or float(truth) not in _TRUTHS:
        raise ValueError(f"{row!r} is no labelled clip")
    section = check_name("section", named["section"])
    file = f"ground_truth_{machine_type}_section_{section}_{Domain.SOURCE}_test.csv"
    return file, f"{clip},{_TRUTHS[float(truth)]}\n"
