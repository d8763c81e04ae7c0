"""Whether test recordings are DCASE 2021 task 2's own, so that the paper's figures may stand beside ours.

The rule, for each machine type and data set (sections 00 to 02: development, 03 to 05: evaluation):

1. It is one of the seven, and none of its recordings is of a section that neither data set has.
2. All three sections are there in both domains, and each has exactly the challenge's number of normal and of anomalous
   recordings. An evaluation set needs its ground truth for that.
3. Every recording stands in ``source_test`` or ``target_test`` under the challenge's name for it.
4. The folder was not made by ``synthesize``, which can give these numbers to generated sound.

Other recordings in the same layout, one section of the seven machines, or a selection of the clips are not DCASE 2021.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from models.vocabulary import Condition, Domain
from training.recordings import Recording
from training.synthetic.dataset import is_generated

MACHINE_TYPES = ("ToyCar", "ToyTrain", "fan", "gearbox", "pump", "slider", "valve")
"""The paper calls ``slider`` "slide rail"."""


class DataSet(StrEnum):
    """The two sets of test recordings."""

    DEVELOPMENT = "development"
    EVALUATION = "evaluation"


SECTIONS: Mapping[DataSet, tuple[str, ...]] = MappingProxyType(
    {DataSet.DEVELOPMENT: ("00", "01", "02"), DataSet.EVALUATION: ("03", "04", "05")}
)

_USUAL = (100, 100)
_COUNTS: Mapping[tuple[str, str, Domain], tuple[int, int]] = MappingProxyType(
    {
        ("gearbox", "00", Domain.SOURCE): (195, 105),
        ("gearbox", "00", Domain.TARGET): (96, 108),
        ("gearbox", "01", Domain.SOURCE): (108, 108),
        ("gearbox", "01", Domain.TARGET): (108, 108),
        ("gearbox", "02", Domain.SOURCE): (108, 138),
        ("gearbox", "02", Domain.TARGET): (105, 120),
        ("gearbox", "03", Domain.SOURCE): (130, 104),
        ("gearbox", "03", Domain.TARGET): (104, 182),
        ("gearbox", "04", Domain.SOURCE): (144, 108),
        ("gearbox", "04", Domain.TARGET): (104, 130),
        ("gearbox", "05", Domain.SOURCE): (108, 102),
        ("gearbox", "05", Domain.TARGET): (110, 102),
        ("slider", "01", Domain.TARGET): (98, 100),
        ("slider", "02", Domain.SOURCE): (110, 102),
        ("slider", "02", Domain.TARGET): (102, 102),
        ("slider", "05", Domain.SOURCE): (103, 101),
        ("slider", "05", Domain.TARGET): (103, 100),
    }
)
"""Normal and anomalous test recordings where they are not 100 each: counted in the challenge's published ground truth
of the evaluation set, and in the names of published score files of the development set."""

_NAME = re.compile(r"section_(?P<section>\d\d)_(?P<domain>source|target)_test(?:_(?P<condition>normal|anomaly))?_\d{4}")


def clips_of(machine_type: str, section: str, domain: Domain) -> tuple[int, int]:
    """Normal and anomalous test recordings of a section and domain of DCASE 2021."""
    return _COUNTS.get((machine_type, section, domain), _USUAL)


def recognise(recordings: Iterable[Recording]) -> dict[DataSet, tuple[str, ...]]:
    """The machine types that are DCASE 2021's own, of each data set that has any; by the rule above."""
    by_type: defaultdict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        by_type[recording.machine_type].append(recording)
    found = {
        data_set: tuple(name for name in MACHINE_TYPES if _is_own(name, by_type.get(name, []), data_set))
        for data_set in DataSet
    }
    return {data_set: names for data_set, names in found.items() if names}


def _is_own(machine_type: str, recordings: list[Recording], data_set: DataSet) -> bool:
    known = {section for sections in SECTIONS.values() for section in sections}
    own = [recording for recording in recordings if recording.section in SECTIONS[data_set]]
    counted = Counter((recording.section, recording.domain, recording.condition) for recording in own)
    expected = {
        (section, domain, condition): count
        for section in SECTIONS[data_set]
        for domain in Domain
        for condition, count in zip(Condition, clips_of(machine_type, section, domain), strict=True)
    }
    return (
        {recording.section for recording in recordings} <= known
        and counted == expected
        and all(_has_its_name(recording, data_set) for recording in own)
        and not any(is_generated(recording.path) for recording in own)
    )


def _has_its_name(recording: Recording, data_set: DataSet) -> bool:
    """The development set's names tell the condition, the evaluation set's do not."""
    match = _NAME.fullmatch(recording.path.stem)
    return (
        recording.challenge
        and match is not None
        and match["section"] == recording.section
        and match["domain"] == recording.domain
        and recording.path.parent.name == f"{recording.domain}_test"
        and match["condition"] == (recording.condition if data_set is DataSet.DEVELOPMENT else None)
    )
