"""A tree of generated recordings, named as DCASE 2021 task 2 names them.

::

    dev_data/<machine type>/train/section_SS_<domain>_train_normal_NNNN_<attribute>.wav
    dev_data/<machine type>/<domain>_test/section_SS_<domain>_test_<condition>_NNNN.wav
    faults/<machine type>.csv

Ten seconds each, 16-bit mono at 16 kHz; attributes stand in training names only, as in 2021. The CSV says what is wrong
with each anomalous recording: the truth that an explanation can be held against.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from models.audio import SAMPLE_RATE_HZ
from models.errors import DataError
from models.vocabulary import Condition, Domain, Split
from training.synthetic.damage import draw_fault
from training.synthetic.faults import Fault
from training.synthetic.machines import MACHINE_TYPES, OperatingCondition, find_machine, operating_conditions
from training.synthetic.render import render


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recording to be made."""

    machine_type: str
    section: str
    domain: Domain
    split: Split
    truth: Condition
    number: int

    @property
    def take(self) -> str:
        """What its draws hang on: its name."""
        return f"{self.split}_{self.truth}_{self.number:04d}"


def count_recordings(
    *, machine_types: Sequence[str] | None, sections: int, train_clips: int, target_clips: int = 3, test_clips: int
) -> int:
    """How many recordings `synthesize` makes of these arguments."""
    each = train_clips + target_clips + 2 * len(Domain) * test_clips
    return len(MACHINE_TYPES if machine_types is None else machine_types) * sections * each


def synthesize(
    folder: Path,
    *,
    seed: int,
    machine_types: Sequence[str] | None,
    sections: int,
    train_clips: int,
    target_clips: int = 3,
    test_clips: int,
    advance: Callable[[int], None],
) -> None:
    """Write generated recordings under ``folder/dev_data``.

    Parameters
    ----------
    machine_types : which of the seven; None for all.
    sections : machines of each type: ``00``, ``01``, ...
    train_clips, target_clips : normal training recordings of each section in the source and the target domain.
    test_clips : test recordings of each section and domain that are normal, and as many that are anomalous.
    advance : called with 1 after each recording.

    Raises
    ------
    DataError : for an unknown machine type, a number that cannot be, or a machine type that ``folder`` holds already.
    """
    chosen = MACHINE_TYPES if machine_types is None else tuple(machine_types)
    for machine_type in chosen:
        find_machine(machine_type)
    if sections < 1 or min(train_clips, target_clips, test_clips) < 0:
        raise DataError(
            f"{sections} sections of {train_clips} training, {target_clips} target and {test_clips} test clips cannot "
            "be made: at least one section is needed, and no negative number of clips."
        )
    for machine_type in chosen:
        if (folder / "dev_data" / machine_type).exists():
            raise DataError(
                f"{folder / 'dev_data' / machine_type} exists already; name another folder, or remove it first."
            )
    for machine_type in chosen:
        names = [f"{number:02d}" for number in range(sections)]
        _make(folder, machine_type, _plan(machine_type, names, train_clips, target_clips, test_clips), seed, advance)


def is_generated(path: Path) -> bool:
    """Whether a recording stands in a tree that `synthesize` made: its faults are told beside ``dev_data``."""
    return len(path.parents) > 3 and (path.parents[3] / "faults" / f"{path.parents[1].name}.csv").exists()


def _plan(
    machine_type: str, sections: Sequence[str], train_clips: int, target_clips: int, test_clips: int
) -> Iterator[_Recording]:
    counts = [
        (Domain.SOURCE, Split.TRAIN, Condition.NORMAL, train_clips),
        (Domain.TARGET, Split.TRAIN, Condition.NORMAL, target_clips),
        *((domain, Split.TEST, truth, test_clips) for domain in Domain for truth in Condition),
    ]
    for section in sections:
        for domain, split, truth, count in counts:
            for number in range(count):
                yield _Recording(machine_type, section, domain, split, truth, number)


def _make(
    folder: Path, machine_type: str, plan: Iterator[_Recording], seed: int, advance: Callable[[int], None]
) -> None:
    truth = folder / "faults" / f"{machine_type}.csv"
    truth.parent.mkdir(parents=True, exist_ok=True)
    with truth.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *(field.name for field in fields(Fault))])
        for recording in plan:
            condition, fault = _circumstances(recording, seed)
            path = folder / "dev_data" / machine_type / _name(recording, condition)
            path.parent.mkdir(parents=True, exist_ok=True)
            waveform = render(
                machine_type,
                recording.section,
                recording.domain,
                condition,
                seed=seed,
                take=recording.take,
                fault=fault,
            )
            content = io.BytesIO()
            soundfile.write(content, _sixteen_bits(waveform), SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")
            path.write_bytes(content.getvalue())  # a full disk is then an OSError, which says so
            if fault:
                rows.writerow([path.relative_to(folder).as_posix(), *astuple(fault)])
            advance(1)


def _circumstances(recording: _Recording, seed: int) -> tuple[OperatingCondition, Fault | None]:
    """Conditions and kinds of fault take turns, so that few recordings cover many, and a later one changes no other."""
    conditions = operating_conditions(recording.machine_type, recording.section, recording.domain, seed=seed)
    if recording.truth is Condition.NORMAL:
        return conditions[recording.number % len(conditions)], None
    kinds = find_machine(recording.machine_type).faults
    condition = conditions[(recording.number + recording.number // len(kinds)) % len(conditions)]
    fault = draw_fault(
        recording.machine_type,
        recording.section,
        condition,
        seed=seed,
        take=f"{recording.domain}_{recording.take}",
        kind=kinds[recording.number % len(kinds)],
    )
    return condition, fault


def _name(recording: _Recording, condition: OperatingCondition) -> Path:
    folder = "train" if recording.split is Split.TRAIN else f"{recording.domain}_test"
    attribute = f"_{condition.attribute}" if recording.split is Split.TRAIN else ""
    return Path(folder) / f"section_{recording.section}_{recording.domain}_{recording.take}{attribute}.wav"


def _sixteen_bits(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.int16)
