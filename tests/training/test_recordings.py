"""Trees of the challenge's layouts, by their names alone: every file of these trees is empty."""

from pathlib import Path

import pytest

from models.errors import DataError
from models.vocabulary import Condition, Domain, SectionKey, Split
from training.recordings import Recording, read_recordings, survey

MACHINE_TYPES = ("ToyCar", "ToyTrain", "fan", "gearbox", "pump", "slider", "valve")
REAL = Path(__file__).parents[2].parent / "shared" / "recordings"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def of(recordings: list[Recording], name: str) -> Recording:
    return next(recording for recording in recordings if recording.path.name == name)


def dcase_2021(root: Path) -> Path:
    """Development sections 00 to 02 and evaluation sections 03 to 05 of seven machine types."""
    for machine_type in MACHINE_TYPES:
        for number in range(6):
            section, part = f"section_{number:02d}", "dev_data" if number < 3 else "eval_data"
            folder = f"{part}/{machine_type}"
            label = "_normal" if number < 3 else ""
            touch(
                root,
                f"{folder}/train/{section}_source_train_normal_0000_strength_1_ambient.wav",
                f"{folder}/train/{section}_source_train_normal_0001_strenght_1_ambient.wav",
                f"{folder}/train/{section}_target_train_normal_0000_strength_2_ambient.wav",
                f"{folder}/source_test/{section}_source_test{label}_0000.wav",
                f"{folder}/target_test/{section}_target_test{label}_0000.wav",
            )
    return root


def test_a_tree_of_2021_has_42_sections(tmp_path: Path) -> None:
    recordings = read_recordings([dcase_2021(tmp_path)])
    assert len(recordings) == 7 * 6 * 5
    assert {r.key for r in recordings} == {SectionKey(m, f"{s:02d}") for m in MACHINE_TYPES for s in range(6)}
    assert {r.path.name for r in recordings if r.condition is None} == {
        f"section_{s:02d}_{d}_test_0000.wav" for s in (3, 4, 5) for d in ("source", "target")
    }
    assert all(r.domain.value in r.path.name and r.challenge and r.recording == str(r.path) for r in recordings)
    assert all((r.split is Split.TRAIN) == ("_train_" in r.path.name) for r in recordings)


def test_attribute_classes_stand_as_written_and_merge_across_sections(tmp_path: Path) -> None:
    """Typos stay classes of their own; test names of 2021 carry no attribute."""
    training = [r for r in read_recordings([dcase_2021(tmp_path)]) if r.split is Split.TRAIN]
    texts = ("strength_1_ambient", "strenght_1_ambient", "strength_2_ambient")
    assert {r.attribute_class for r in training} == {(m, text) for m in MACHINE_TYPES for text in texts}
    assert {r.attribute_name for r in training} == set(texts)


def test_clips_without_attribute_are_a_class_per_machine_type_and_section(tmp_path: Path) -> None:
    recordings = read_recordings(
        [
            touch(
                tmp_path,
                "fan/train/section_00_source_train_normal_0000.wav",
                "fan/train/section_00_source_train_normal_0001_noAttribute.wav",
                "fan/train/section_00_source_train_normal_0002_none.wav",
                "fan/train/section_00_source_train_normal_0003_.wav",
                "fan/train/section_01_source_train_normal_0000_noAttribute.wav",
                "pump/train/section_00_source_train_normal_0000_noAttribute.wav",
            )
        ]
    )
    assert {r.attribute_class for r in recordings} == {
        ("fan", "noAttribute", "00"),
        ("fan", "noAttribute", "01"),
        ("pump", "noAttribute", "00"),
    }
    assert {r.attribute_name for r in recordings} == {"noAttribute"}


def test_layout_of_2020(tmp_path: Path) -> None:
    recordings = read_recordings(
        [
            touch(
                tmp_path,
                "slider/train/normal_id_00_00000000.wav",
                "slider/test/normal_id_00_00000001.wav",
                "slider/test/anomaly_id_02_00000000.wav",
                "slider/test/id_01_00000005.wav",
            )
        ]
    )
    assert [(r.path.name, r.section, r.split, r.condition) for r in recordings] == [
        ("anomaly_id_02_00000000.wav", "02", Split.TEST, Condition.ANOMALY),
        ("id_01_00000005.wav", "01", Split.TEST, None),
        ("normal_id_00_00000001.wav", "00", Split.TEST, Condition.NORMAL),
        ("normal_id_00_00000000.wav", "00", Split.TRAIN, Condition.NORMAL),
    ]
    assert {(r.domain, r.domain_told, r.attribute) for r in recordings} == {(Domain.SOURCE, True, "")}


def test_layout_of_2022(tmp_path: Path) -> None:
    """Domain and attributes stand in the names of both splits; evaluation tests tell nothing."""
    recordings = read_recordings(
        [
            touch(
                tmp_path,
                "dev_data/fan/train/section_00_target_train_normal_0009_m-n_X.wav",
                "dev_data/fan/test/section_00_target_test_anomaly_0001_m-n_Y.wav",
                "eval_data/fan/train/section_03_source_train_normal_0000_m-n_Z.wav",
                "eval_data/fan/test/section_03_0000.wav",
            )
        ]
    )
    assert [(r.section, r.domain, r.split, r.condition, r.attribute) for r in recordings] == [
        ("00", Domain.TARGET, Split.TEST, Condition.ANOMALY, "m-n_Y"),
        ("00", Domain.TARGET, Split.TRAIN, Condition.NORMAL, "m-n_X"),
        ("03", Domain.SOURCE, Split.TEST, None, ""),
        ("03", Domain.SOURCE, Split.TRAIN, Condition.NORMAL, "m-n_Z"),
    ]
    assert [r.domain_told for r in recordings] == [True, True, False, True], (
        "which domain a test of 2022 is of is secret"
    )


def test_layout_of_2023_and_later(tmp_path: Path) -> None:
    """One section a machine type, new machine types for the evaluation; other folders are not for training."""
    root = touch(
        tmp_path,
        "dev_data/bearing/train/section_00_source_train_normal_0000_vel_6_loc_A.wav",
        "dev_data/bearing/supplemental/section_00_source_supplemental_clean_0000.wav",
        "eval_data/shaker/train/section_00_source_train_normal_0000_noAttribute.wav",
        "eval_data/shaker/test/section_00_0000.wav",
    )
    recordings = read_recordings([root])
    assert {r.machine_type for r in recordings} == {"bearing", "shaker"}
    assert {r.attribute_class for r in recordings if r.split is Split.TRAIN} == {
        ("bearing", "vel_6_loc_A"),
        ("shaker", "noAttribute", "00"),
    }


def test_a_part_of_a_tree_and_several_trees_read_as_the_whole(tmp_path: Path) -> None:
    root = dcase_2021(tmp_path)
    whole = read_recordings([root])
    assert sorted(read_recordings([root / "dev_data", root / "eval_data"])) == sorted(whole)
    assert read_recordings([root / "dev_data" / "fan"]) == [
        r for r in whole if r.machine_type == "fan" and r.section < "03"
    ]


def test_paths_do_not_depend_on_how_the_tree_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = dcase_2021(tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert read_recordings([Path("../data")]) == read_recordings([root])


def test_wav_flac_and_ogg_are_read_and_other_files_are_not(tmp_path: Path) -> None:
    stem = "fan/train/section_00_source_train_normal_000"
    touch(tmp_path, f"{stem}0.wav", f"{stem}1.FLAC", f"{stem}2.ogg", f"{stem}3.txt", "fan/train/._section_00.wav")
    assert [r.path.suffix for r in read_recordings([tmp_path])] == [".wav", ".FLAC", ".ogg"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fan/train/fan_monday.wav", "manifest"),
        ("fan/train/section_00_source_train_anomaly_0000.wav", "only normal recordings"),
        ("fan/train/section_00_0000.wav", "only normal recordings"),
        ("fan/train/section_00_source_test_normal_0000.wav", "'test'"),
        ("fan/source_test/section_00_target_test_normal_0000.wav", "'source_test'"),
        ("fan/train/section_a b_source_train_normal_0000.wav", "not a valid section"),
        ("fan/train/section_00_source_train_normal_0000_1 m.wav", "not a valid attribute"),
        ("my fan/train/section_00_source_train_normal_0000.wav", "not a valid machine type"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path: Path, name: str, said: str) -> None:
    good = "pump/train/section_00_source_train_normal_0000.wav"
    touch(tmp_path, good, name)
    with pytest.raises(DataError, match=said) as refused:
        read_recordings([tmp_path])
    place = str(tmp_path / name) if "machine type" not in said else str(tmp_path / "my fan")
    assert str(refused.value).startswith(f"{place}: ")
    found = survey([tmp_path])
    assert [r.path for r in found.recordings] == [tmp_path / good]
    assert [refusal.where for refusal in found.refusals] == [place]


def test_many_refusals_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, *(f"fan/train/{i}.wav" for i in range(25)))
    with pytest.raises(DataError, match="and 5 more"):
        read_recordings([tmp_path])


def test_places_that_hold_nothing_and_recordings_named_twice_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "tree", "fan/train/section_00_source_train_normal_0000.wav")
    touch(tmp_path / "flat", "monday.wav")
    with pytest.raises(DataError, match="python -m training manifest"):
        read_recordings([tmp_path / "flat"])
    with pytest.raises(DataError, match="does not exist"):
        read_recordings([tmp_path / "missing"])
    with pytest.raises(DataError, match="once more"):
        read_recordings([root, root / "fan"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings are not beside the project")
def test_the_real_recordings_read_the_same_as_tree_and_as_manifest() -> None:
    tree, manifest = read_recordings([REAL / "dev_data"]), read_recordings([REAL / "clips.csv"])

    def known(recording: Recording) -> tuple[object, ...]:
        attribute = recording.attribute_class if recording.split is Split.TRAIN else None
        return (
            *(recording.path, recording.key, recording.domain, recording.split, recording.condition, attribute),
            recording.recording,
        )

    assert len(tree) == 762
    assert sorted(map(known, tree), key=str) == sorted(map(known, manifest), key=str)
    names = {("ToyCar", "00"), ("slider", "00"), ("slider", "01"), ("fan", "00"), ("bldc", "00")}
    assert {r.key for r in tree} == {SectionKey(*name) for name in names}
