"""CSV manifests of a plant's own recordings: read with their defaults, refused by the line, drafted from folders."""

from pathlib import Path

import pytest

from models.errors import DataError, InvalidName
from models.vocabulary import Condition, Domain, Split
from training.manifests import COLUMNS, draft_manifest
from training.recordings import Recording, read_recordings, survey


def write(path: Path, *lines: str) -> Path:
    """A manifest in a folder with the files a.wav to d.wav in ``sounds``."""
    (path.parent / "sounds").mkdir(exist_ok=True)
    for name in "abcd":
        (path.parent / "sounds" / f"{name}.wav").touch()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_only_the_path_is_required(tmp_path: Path) -> None:
    """The rest is section 00, source, train, normal, no attribute, and the file itself."""
    manifest = write(tmp_path / "own.csv", "path", "sounds/a.wav")
    file = tmp_path / "sounds" / "a.wav"
    assert read_recordings([manifest], machine_type="pump") == [
        Recording(
            path=file,
            machine_type="pump",
            section="00",
            domain=Domain.SOURCE,
            split=Split.TRAIN,
            condition=Condition.NORMAL,
            attribute="",
            recording=str(file),
            challenge=False,
        )
    ]
    assert read_recordings([manifest], machine_type="pump", section="line-3")[0].section == "line-3"


def test_every_column_is_read_and_outweighs_the_options(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "own.csv",
        ",".join(reversed(COLUMNS)),
        "monday,speed_2,anomaly,test,target,line-3,pump,sounds/b.wav",
        "tuesday,none,,,,,,sounds/a.wav",
    )
    a, b = read_recordings([manifest], machine_type="fan", section="line-4")
    assert (a.machine_type, a.section, a.recording, a.attribute_class) == (
        "fan",
        "line-4",
        "tuesday",
        ("fan", "noAttribute", "line-4"),
    )
    assert (b.machine_type, b.section, b.domain, b.split, b.condition, b.attribute, b.recording) == (
        *("pump", "line-3", Domain.TARGET, Split.TEST, Condition.ANOMALY, "speed_2", "monday"),
    )


def test_paths_are_relative_to_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "own.csv", "path,machine_type", "sounds/../sounds/a.wav,pump", f"{tmp_path / 'sounds/b.wav'},pump")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert [r.path for r in read_recordings([Path("../own.csv")])] == [
        tmp_path / "sounds" / n for n in ("a.wav", "b.wav")
    ]


def test_a_spreadsheet_s_byte_order_mark_quotes_and_blanks_are_read(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "own.csv", "\ufeffpath, machine_type ", '"sounds/a.wav", pump', "", '"sounds/b.wav",pump'
    )
    assert [r.machine_type for r in read_recordings([manifest])] == ["pump", "pump"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("sounds/a.wav,pump,00,sorce,train,normal", "'sorce' is no domain. Write 'source' or 'target'"),
        ("sounds/a.wav,pump,00,source,valid,normal", "'valid' is no split. Write 'train' or 'test'"),
        ("sounds/a.wav,pump,00,source,test,broken", "'broken' is no condition. Write 'normal' or 'anomaly'"),
        ("sounds/a.wav,pump,00,source,train,anomaly", "cannot be trained on"),
        ("sounds/a.wav,my pump,00,source,train,normal", "not a valid machine type"),
        ("sounds/a.wav,pump,../00,source,train,normal", "not a valid section"),
        ("sounds/a.wav,,00,source,train,normal", "--machine-type"),
        ("sounds/z.wav,pump,00,source,train,normal", "'sounds/z.wav' is no file"),
        ("sounds,pump,00,source,train,normal", "'sounds' is no file"),
        (",pump,00,source,train,normal", "path is empty"),
        ("sounds/../sounds/d.wav,pump,00,source,train,normal", "stands in line 2 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_the_remedy(tmp_path: Path, row: str, said: str) -> None:
    """The rows around it are known all the same, for the check to go on with."""
    manifest = write(
        tmp_path / "own.csv",
        "path,machine_type,section,domain,split,condition",
        "sounds/d.wav,pump,00,source,train,normal",
        row,
        "sounds/c.wav,pump,00,source,train,normal",
    )
    with pytest.raises(DataError) as refused:
        read_recordings([manifest])
    assert str(refused.value).startswith(f"{manifest}, line 3: ")
    assert said in str(refused.value)
    assert [r.path.name for r in survey([manifest]).recordings] == ["c.wav", "d.wav"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,machine_type", "sounds/a.wav,pump"], "line 1: the columns are 'file', 'machine_type'.*'file' may not"),
        (["path;machine_type", "sounds/a.wav;pump"], "Separated by commas"),
        (["path,path", "sounds/a.wav,sounds/a.wav"], "line 1.*once"),
        (["path,speed", "sounds/a.wav,3"], "'speed' may not"),
        (["path,machine_type", "sounds/a.wav,pump,00"], "line 2: 2 values are expected"),
        (["path,machine_type", "sounds/a.wav"], "line 2: 2 values are expected"),
        (["path,machine_type"], "names no recordings"),
        ([], "the columns are ''|missing"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_recordings([write(tmp_path / "own.csv", *lines)])


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "own.csv"
    manifest.write_bytes("path\nLüfter.wav\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_recordings([manifest])


def test_a_draft_of_folders_reads_back(tmp_path: Path) -> None:
    names = ("pump/line-3/source/b.wav", "pump/line-3/target/a.flac", "fan/00/source/a.ogg")
    for name in names:
        (tmp_path / "own" / name).parent.mkdir(parents=True)
        (tmp_path / "own" / name).touch()
    (tmp_path / "own" / "pump" / "notes.txt").touch()
    out = tmp_path / "manifests" / "own.csv"
    out.parent.mkdir()
    assert draft_manifest(tmp_path / "own", out) == 3
    assert out.read_text().splitlines()[:2] == [
        "path,machine_type,section,domain,split,condition,attribute,recording",
        "../own/fan/00/source/a.ogg,fan,00,source,train,normal,,",
    ]
    assert [
        (str(r.path.relative_to(tmp_path / "own")), r.machine_type, r.section, r.domain) for r in read_recordings([out])
    ] == [
        ("fan/00/source/a.ogg", "fan", "00", Domain.SOURCE),
        ("pump/line-3/source/b.wav", "pump", "line-3", Domain.SOURCE),
        ("pump/line-3/target/a.flac", "pump", "line-3", Domain.TARGET),
    ]


def test_a_draft_of_a_flat_folder_leaves_the_machine_type_to_the_options(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "monday, 8 o'clock.wav").touch()
    draft_manifest(tmp_path / "flat", tmp_path / "bare.csv")
    with pytest.raises(DataError, match="line 2: No machine_type"):
        read_recordings([tmp_path / "bare.csv"])
    assert read_recordings([tmp_path / "bare.csv"], machine_type="pump")[0].section == "00"
    draft_manifest(tmp_path / "flat", tmp_path / "named.csv", machine_type="fan", section="line-1")
    [recording] = read_recordings([tmp_path / "named.csv"])
    assert (recording.machine_type, recording.section) == ("fan", "line-1")


def test_a_draft_never_overwrites_and_refuses_what_it_cannot_name(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "pump" / "00" / "changed").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no WAV"):
        draft_manifest(own, tmp_path / "own.csv")
    (own / "pump" / "00" / "changed" / "a.wav").touch()
    with pytest.raises(DataError, match="not 'changed'"):
        draft_manifest(own, tmp_path / "own.csv")
    with pytest.raises(DataError, match="by hand"):
        draft_manifest(own / "pump", tmp_path / "own.csv")
    with pytest.raises(InvalidName):
        draft_manifest(own / "pump" / "00" / "changed", tmp_path / "own.csv", machine_type="my pump")
    assert not (tmp_path / "own.csv").exists()
    (tmp_path / "own.csv").write_text("mine")
    with pytest.raises(DataError, match="not overwritten"):
        draft_manifest(own / "pump" / "00" / "changed", tmp_path / "own.csv")
    assert (tmp_path / "own.csv").read_text() == "mine"
