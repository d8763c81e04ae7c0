"""Labels of an evaluation set, whose names do not tell."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import DataError
from models.vocabulary import Condition, Domain
from tests.training.told import recording
from training.ground_truth import label_recordings, read_ground_truth

NAME = "ground_truth_fan_section_03_source_test.csv"
GIVEN = [recording(number, None, section="03") for number in range(3)]
LINES = "".join(f"section_03_source_test_{number:04d}.wav,{number % 2}\n" for number in range(3))


def write(folder: Path, content: str = LINES, name: str = NAME) -> Path:
    (folder / name).write_text(content)
    return folder


def test_names_are_joined_with_their_condition(tmp_path: Path) -> None:
    truth = read_ground_truth(write(tmp_path))
    assert set(truth) == {("fan", "03", Domain.SOURCE)}
    expected = [Condition.NORMAL, Condition.ANOMALY, Condition.NORMAL]
    assert [one.condition for one in label_recordings(GIVEN, truth)] == expected


def test_a_set_converted_to_flac_is_the_same_set(tmp_path: Path) -> None:
    converted = [replace(one, path=one.path.with_suffix(".flac")) for one in GIVEN]
    labelled = label_recordings(converted, read_ground_truth(write(tmp_path)))
    assert [one.condition for one in labelled] == [Condition.NORMAL, Condition.ANOMALY, Condition.NORMAL]


def test_windows_files_are_read(tmp_path: Path) -> None:
    """A byte-order mark and carriage returns, as spreadsheets leave them."""
    (tmp_path / NAME).write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode())
    assert label_recordings(GIVEN, read_ground_truth(tmp_path))[1].condition is Condition.ANOMALY


UNPLACED = [
    replace(one, path=one.path.with_name(f"section_03_{number:04d}.wav"), domain_told=False)
    for number, one in enumerate(GIVEN)
]
"""As the evaluation sets since 2022 name them."""


def write_later(folder: Path, domains: str = "0\n1\n0\n") -> Path:
    """The ground truth of 2022 and later: conditions and domains, each in a folder of its own."""
    for kind, column in (("data", "0\n1\n1\n"), ("domain", domains)):
        (folder / f"ground_truth_{kind}").mkdir(exist_ok=True)
        lines = [f"section_03_{number:04d}.wav,{value}" for number, value in enumerate(column.split())]
        (folder / f"ground_truth_{kind}" / "ground_truth_fan_section_03_test.csv").write_text("\n".join(lines))
    return folder


def test_names_without_a_domain_are_joined_with_theirs(tmp_path: Path) -> None:
    """Since 2022 the ground truth tells it in a file of its own, and nothing else does."""
    truth = read_ground_truth(write_later(tmp_path))
    assert [(one.domain, one.domain_told, one.condition) for one in label_recordings(UNPLACED, truth)] == [
        (Domain.SOURCE, True, Condition.NORMAL),
        (Domain.TARGET, True, Condition.ANOMALY),
        (Domain.SOURCE, True, Condition.ANOMALY),
    ]
    with pytest.raises(DataError, match=r"0007\.wav: the ground truth of fan 03 source and target does not name it"):
        label_recordings([replace(UNPLACED[0], path=Path("section_03_0007.wav"))], truth)


def test_conditions_without_domains_are_refused(tmp_path: Path) -> None:
    """And so are domains of other recordings; and a recording that both domains' files name."""
    folder = write_later(tmp_path, "0\n1\n")
    with pytest.raises(DataError, match=r"do not name the same recordings: section_03_0002\.wav"):
        read_ground_truth(folder)
    (folder / "ground_truth_domain" / "ground_truth_fan_section_03_test.csv").unlink()
    with pytest.raises(DataError, match=r"tells no domain, and .*ground_truth_domain.* does not exist"):
        read_ground_truth(folder)
    for domain in Domain:
        write(tmp_path, "section_03_0000.wav,0\n", f"ground_truth_fan_section_03_{domain}_test.csv")
    (folder / "ground_truth_data" / "ground_truth_fan_section_03_test.csv").unlink()
    with pytest.raises(DataError, match="names it for both domains"):
        label_recordings(UNPLACED[:1], read_ground_truth(folder))


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """A file of each form that tell of one recording: the same is welcome, and otherwise neither is believed."""
    folder = write_later(tmp_path)
    name = "ground_truth_fan_section_03_target_test.csv"
    alone = read_ground_truth(folder)
    assert read_ground_truth(write(folder, "section_03_0001.wav,1\n", name)) == alone
    for recording_name in ("section_03_0001.wav", "section_03_0001.flac"):
        with pytest.raises(
            DataError, match=rf"{name} says that section_03_0001\.wav is normal, and .*_data.* anomaly\."
        ):
            read_ground_truth(write(folder, f"{recording_name},0\n", name))


def test_other_sections_are_left_as_they_are(tmp_path: Path) -> None:
    """A folder may hold development and evaluation set."""
    labelled = recording(0, Condition.ANOMALY, section="00")
    assert label_recordings([labelled, *GIVEN], read_ground_truth(write(tmp_path)))[0] is labelled


def test_a_name_that_contradicts_the_ground_truth_is_refused(tmp_path: Path) -> None:
    odd = replace(GIVEN[0], condition=Condition.ANOMALY)
    with pytest.raises(DataError, match=r"0000\.wav is called anomaly and the ground truth says normal"):
        label_recordings([odd], read_ground_truth(write(tmp_path)))


def test_a_recording_that_the_ground_truth_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0009\.wav: the ground truth of fan 03 source does not name it"):
        label_recordings([recording(9, None, section="03")], read_ground_truth(write(tmp_path)))


def test_the_ground_truth_of_another_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tells nothing of these 1 test recordings: it is of fan 03"):
        label_recordings([recording(0, None, section="05")], read_ground_truth(write(tmp_path)))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """As an old spreadsheet writes umlauts: a sentence, and no traceback."""
    (tmp_path / NAME).write_bytes("L\u00fcfter.wav,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=rf"{NAME} is no CSV file in UTF-8 .*Export it again"):
        read_ground_truth(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("other.csv", LINES, "holds no ground_truth_"),
        ("ground_truth_fan_03.csv", LINES, "is not named as the challenge names it"),
        (NAME, "a.wav,0\nb.wav,2\n", r"line 2: 'b.wav,2' is not a file name and 0 \(normal\) or 1 \(anomaly\)"),
        (NAME, "a.wav\n", "line 1: 'a.wav' is not a file name and"),
        (NAME, "a.wav,0\na.wav,1\n", "line 2: 'a.wav' comes twice"),
    ],
)
def test_what_is_no_ground_truth_is_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    """With file, line and value."""
    with pytest.raises(DataError, match=words):
        read_ground_truth(write(tmp_path, content, name))
