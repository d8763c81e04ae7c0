"""What a year consists of, by the real names of its files and the form in which Zenodo answers."""

import json
from typing import Any

import pytest

from models.errors import DataError, DownloadError
from tests.training.zenodo import EVALUATED, REAL, TOYS, answer, names_of
from training.download.catalogue import RECORDS, Part, numbers_of
from training.download.records import Record, parse_record, select

M2020 = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
M2021 = (*TOYS, "fan", "gearbox", "pump", "slider", "valve")
DEVELOPED = (*TOYS, "bearing", *REAL)


def records_of(year: int, parts: tuple[Part, ...] = ()) -> list[Record]:
    numbers = numbers_of(year, parts)
    answers = {part: answer(number, dict.fromkeys(names_of(number), b"")) for part, number in numbers.items()}
    return [parse_record(part, numbers[part], json.dumps(answers[part]).encode()) for part in numbers]


@pytest.mark.parametrize(
    ("year", "developed", "evaluated", "labels"),
    [
        (2020, M2020, M2020, 1),
        (2021, M2021, M2021, 1),
        (2022, DEVELOPED, DEVELOPED, 0),
        (2023, DEVELOPED, EVALUATED[2023], 0),
        (2024, DEVELOPED, EVALUATED[2024], 0),
        (2025, DEVELOPED, EVALUATED[2025], 0),
    ],
)
def test_every_year_names_its_machine_types(
    year: int, developed: tuple[str, ...], evaluated: tuple[str, ...], labels: int
) -> None:
    """Each archive is of one machine type, whichever way the year writes its name; labels are of all."""
    archives = select(records_of(year), ())
    of = {part: [a.machine_type for a in archives if a.part is part] for part in Part}
    assert sorted(map(str, of[Part.DEV])) == sorted(developed)
    assert sorted(map(str, of[Part.ADDITIONAL])) == sorted(map(str, of[Part.EVAL])) == sorted(evaluated)
    assert of[Part.LABELS] == [None] * labels
    assert {a.number for a in archives} == set(RECORDS[year].values())


def test_machine_types_and_parts_choose() -> None:
    """Labels stay: they are of all machine types."""
    chosen = select(records_of(2021), ["fan"])
    assert [a.file.name for a in chosen] == [
        "dev_data_fan.zip",
        "eval_data_fan_train.zip",
        "eval_data_fan_test.zip",
        "dcase2021_task2_evaluator-v1.0.0.zip",
    ]
    assert [a.file.name for a in select(records_of(2024, (Part.ADDITIONAL,)), ["3DPrinter", "Scanner"])] == [
        "eval_data_3DPrinter_train_r2.zip",
        "eval_data_Scanner_train.zip",
    ]
    assert list(numbers_of(2021, (Part.EVAL, Part.DEV))) == [Part.DEV, Part.EVAL]


def test_what_a_year_does_not_have_is_said_with_what_it_has() -> None:
    """A machine type of another year, labels that no record holds, a record of something else."""
    with pytest.raises(DataError, match=r"'bandsaw'. There are: ToyCar, .*, valve\."):
        select(records_of(2021), ["fan", "bandsaw"])
    with pytest.raises(DataError, match=r"labels of 2023 are in no record.*dcase2023_task2_evaluator"):
        numbers_of(2023, (Part.LABELS,))
    other = parse_record(Part.DEV, 1, json.dumps(answer(1, {"paper.pdf": b""})).encode())
    with pytest.raises(DownloadError, match=r"paper\.pdf"):
        select([other], ())


def test_a_record_is_read() -> None:
    """Size, checksum, address, licence and title, cleaned of what a terminal would obey."""
    told = answer(5, {"dev_data_fan.zip": b"abc"}, title="DCASE\x1b[31m \u7a7a", license={"id": "cc-by-4.0"})
    record = parse_record(Part.DEV, 5, json.dumps(told).encode())
    assert (record.title, record.licence) == ("DCASE [31m \u7a7a", "cc-by-4.0")
    assert [(f.name, f.size, f.md5, f.url) for f in record.files] == [
        (
            "dev_data_fan.zip",
            3,
            "900150983cd24fb0d6963f7d28e17f72",
            "https://zenodo.org/api/records/5/files/dev_data_fan.zip/content",
        )
    ]
    told["files"][0]["links"] = {"self": "https://mirror/metadata", "content": "https://mirror/bytes"}
    assert parse_record(Part.DEV, 5, json.dumps(told).encode()).files[0].url == "https://mirror/bytes"
    for licence, known in ((None, None), ("cc-by-sa-4.0", "cc-by-sa-4.0")):
        told["metadata"]["license"] = licence
        assert parse_record(Part.DEV, 5, json.dumps(told).encode()).licence == known
    del told["metadata"]["license"]
    assert parse_record(Part.DEV, 5, json.dumps(told).encode()).licence is None


def _with(field: str, value: Any) -> bytes:
    told = answer(5, {"dev_data_fan.zip": b"abc"})
    told["files"][0][field] = value
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>Log in to the network</html>", "the answer: Invalid JSON"),
        (b"{}", "files: Field required"),
        (_with("checksum", "sha1:00"), r"files\.0\.checksum"),
        (_with("size", -1), r"files\.0\.size"),
        (_with("links", {}), r"dev_data_fan\.zip has no link"),
    ],
)
def test_another_form_is_said_to_be_one(content: bytes, said: str) -> None:
    """A portal's page, another API, a checksum that cannot be checked."""
    with pytest.raises(DownloadError, match=f"Record 5 .*{said}.*--api"):
        parse_record(Part.DEV, 5, content)


def test_an_archive_cannot_name_another_place() -> None:
    """Names that would lead out of the folder are no archives' names."""
    for key in ("dev_data_../../x.zip", "..", "dev_data_a\\b.zip", "a/../dev_data_fan.zip"):
        record = parse_record(Part.DEV, 5, json.dumps(answer(5, {key: b"", "dev_data_pump.zip": b""})).encode())
        assert all("/" not in a.file.name and "\\" not in a.file.name for a in select([record], ()))
        assert {a.machine_type for a in select([record], ())} <= {"pump", "fan"}
