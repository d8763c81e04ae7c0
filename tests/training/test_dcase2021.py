"""What is DCASE 2021's own and what only looks like it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.vocabulary import Condition, Domain, Split
from tests.training.told import ignore, recording, recordings
from training.dcase2021 import MACHINE_TYPES, SECTIONS, DataSet, clips_of, recognise
from training.recordings import Recording, read_recordings
from training.synthetic import synthesize

SHARED = Path(__file__).parents[2].parent / "shared" / "recordings" / "dev_data"
DEVELOPMENT, EVALUATION = DataSet.DEVELOPMENT, DataSet.EVALUATION


def whole(machine_type: str, data_set: DataSet = DEVELOPMENT) -> list[Recording]:
    """Every test recording of a machine type, by its name."""
    return [
        one
        for section in SECTIONS[data_set]
        for domain in Domain
        for one in recordings(
            *clips_of(machine_type, section, domain), machine_type=machine_type, section=section, domain=domain
        )
    ]


def unlabelled(labelled: list[Recording]) -> list[Recording]:
    """As the evaluation set is named: numbered through, the condition told by the ground truth alone."""
    return [
        replace(recording(number, None, one.machine_type, one.section, one.domain), condition=one.condition)
        for number, one in enumerate(labelled)
    ]


def test_the_whole_sets_are_recognised() -> None:
    """The published ground truth of the evaluation set has 8635 lines."""
    given = [one for machine_type in MACHINE_TYPES for one in whole(machine_type)]
    hidden = [one for machine_type in MACHINE_TYPES for one in unlabelled(whole(machine_type, EVALUATION))]
    assert len(hidden) == 8635
    assert recognise(given) == {DEVELOPMENT: MACHINE_TYPES}
    assert recognise([*given, *hidden]) == {DEVELOPMENT: MACHINE_TYPES, EVALUATION: MACHINE_TYPES}


def test_a_machine_type_is_recognised_by_itself() -> None:
    """Beside another plant's recordings, and not the other six."""
    given = [*whole("gearbox"), *recordings(30, 30, machine_type="line-3-press")]
    assert recognise(given) == {DEVELOPMENT: ("gearbox",)}


@pytest.mark.parametrize(
    "change",
    [
        lambda given: given[1:],
        lambda given: [*given, recording(100, Condition.NORMAL)],
        lambda given: [one for one in given if one.section != "02"],
        lambda given: [one for one in given if one.domain is Domain.SOURCE],
        lambda given: [replace(given[0], condition=Condition.ANOMALY), *given[1:]],
        lambda given: [replace(given[0], condition=None), *given[1:]],
        lambda given: [replace(given[0], challenge=False), *given[1:]],
        lambda given: [replace(given[0], path=given[0].path.with_name("monday.wav")), *given[1:]],
        lambda given: [replace(given[0], path=given[0].path.parents[1] / "test" / given[0].path.name), *given[1:]],
        lambda given: [replace(one, machine_type="blower") for one in given],
        lambda given: [*given, recording(0, section="07")],
        unlabelled,
    ],
    ids=[
        "a clip fewer",
        "a clip more",
        "a section fewer",
        "one domain",
        "another label",
        "no label",
        "a manifest's",
        "another name",
        "another folder",
        "another machine",
        "a section of another set",
        "names without labels",
    ],
)
def test_what_differs_in_one_thing_is_not(change: Callable[[list[Recording]], list[Recording]]) -> None:
    given = whole("fan")
    assert recognise(given) == {DEVELOPMENT: ("fan",)}
    assert recognise(change(given)) == {}


def test_generated_recordings_are_not(tmp_path: Path) -> None:
    """`synthesize` can give every number that the challenge has; what it makes is no machine."""
    synthesize(
        tmp_path,
        seed=0,
        machine_types=["fan"],
        sections=1,
        train_clips=0,
        target_clips=0,
        test_clips=1,
        advance=ignore,
    )
    moved = [replace(one, path=tmp_path / "dev_data" / Path(*one.path.parts[-3:])) for one in whole("fan")]
    assert recognise(moved) == {}
    (tmp_path / "faults" / "fan.csv").unlink()
    assert recognise(moved) == {DEVELOPMENT: ("fan",)}


@pytest.mark.skipif(not SHARED.exists(), reason="the real recordings are not at hand")
def test_the_selection_for_development_is_not() -> None:
    """Real clips of the same layout, and two of the seven machines, from other years."""
    found = [one for one in read_recordings([SHARED]) if one.split is Split.TEST]
    assert {"ToyCar", "fan", "slider"} <= {one.machine_type for one in found}
    assert recognise(found) == {}
