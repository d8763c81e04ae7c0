"""From an archive to the tree: what is let in, what is not, and that nothing is ever half there."""

import hashlib
import io
import os
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from models.errors import ArchiveRefused, DownloadError
from models.vocabulary import Condition, Domain
from tests.training.zenodo import clips, noise, zipped
from training.download import unpacking, zips
from training.download.catalogue import Part
from training.download.places import Place
from training.download.records import Archive, RemoteFile
from training.download.unpacking import State, state_of, unpack
from training.recordings import read_recordings

TRAIN = "fan/train/section_00_source_train_normal_0000_low.wav"
TEST = "fan/source_test/section_00_source_test_normal_0000.wav"


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The disk of a machine that others work on is not synced for a test: that it would be is counted."""
    calls: list[bool] = []
    monkeypatch.setattr(os, "sync", lambda: calls.append(True))
    return calls


def fetched(
    out: Path, content: bytes, *, name: str = "dev_data_fan.zip", part: Part = Part.DEV
) -> tuple[Archive, Place]:
    """An archive that has been fetched."""
    place = Place(out, 5, name)
    place.archive.parent.mkdir(parents=True, exist_ok=True)
    place.archive.write_bytes(content)
    file = RemoteFile(name, len(content), hashlib.md5(content).hexdigest(), "")
    return Archive(part, 5, None if part is Part.LABELS else "fan", file), place


def put(out: Path, content: bytes, **words: Any) -> Place:
    """Fetch and unpack."""
    archive, place = fetched(out, content, **words)
    unpack(archive, place, keep=False, stopped=threading.Event())
    return place


def tree(out: Path) -> list[str]:
    """Its files, but for what is known of archives."""
    files = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.endswith(".json"))


def crafted(info: zipfile.ZipInfo | str, content: bytes = b"x" * 50) -> bytes:
    """An archive of one good clip and one crafted entry."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(TRAIN, noise(1000, 1))
        archive.writestr(info, content)
    return out.getvalue()


def special(kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("fan/train/section_00_source_train_normal_0001.wav")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    """With bytes that zipfile would not write."""
    assert old in content
    return content.replace(old, new)


def test_an_archive_becomes_a_tree(tmp_path: Path, synced: list[bool]) -> None:
    """Every byte of it, as the reader reads it; the archive goes."""
    content = clips(TRAIN, TEST)
    place = put(tmp_path, content)
    assert tree(tmp_path) == [f"dev_data/{TEST}", f"dev_data/{TRAIN}"]
    assert (tmp_path / "dev_data" / TRAIN).read_bytes() == noise(1000, TRAIN)
    assert [r.attribute for r in read_recordings([tmp_path])] == ["", "low"]
    assert state_of(place, hashlib.md5(content).hexdigest()) is State.UNPACKED
    assert state_of(place, "another") is State.WANTED
    assert synced == [True]


def test_an_archive_may_be_kept(tmp_path: Path) -> None:
    archive, place = fetched(tmp_path, clips(TRAIN))
    unpack(archive, place, keep=True, stopped=threading.Event())
    assert tree(tmp_path) == ["archives/5/dev_data_fan.zip", f"dev_data/{TRAIN}"]


def test_archives_of_one_machine_type_stand_side_by_side(tmp_path: Path) -> None:
    """Additional training and evaluation test clips are of one tree."""
    train, test = TRAIN.replace("_00_", "_03_"), "fan/target_test/section_03_target_test_0000.wav"
    put(tmp_path, clips(train), name="eval_data_fan_train.zip", part=Part.ADDITIONAL)
    put(tmp_path, clips(test), name="eval_data_fan_test.zip", part=Part.EVAL)
    assert tree(tmp_path) == [f"eval_data/{test}", f"eval_data/{train}"]
    assert {(r.domain, r.condition) for r in read_recordings([tmp_path])} == {
        (Domain.SOURCE, Condition.NORMAL),
        (Domain.TARGET, None),
    }


@pytest.mark.parametrize("path", [f"dev_data/{TRAIN}", f"./{TRAIN}", f"a/b/{TRAIN}", TRAIN.removeprefix("fan/")])
def test_folders_around_or_missing_do_not_matter(tmp_path: Path, path: str) -> None:
    """The machine type, which the archive's name says too, is the folder above train."""
    put(tmp_path, clips(path))
    assert tree(tmp_path) == [f"dev_data/{TRAIN}"]


def test_what_the_challenge_and_desktops_put_beside_clips_is_left_out(tmp_path: Path) -> None:
    """And is no reason to refuse the clips; FLAC and OGG are clips, too."""
    others = ("README.md", "LICENSE", "fan/attributes_00.csv", "fan/train/.DS_Store", "__MACOSX/fan/train/._a.wav")
    wanted = [TRAIN, TRAIN.replace("0000", "0001").replace("wav", "flac"), TRAIN.replace("0000", "0002")[:-3] + "ogg"]
    put(tmp_path, clips(*wanted, *others, "fan/", "fan/train/"))
    assert tree(tmp_path) == [f"dev_data/{name}" for name in wanted]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (clips(TRAIN, "../../../evil.wav"), "'../../../evil.wav' leads out"),
        (clips(TRAIN, "fan/train/../../../../evil.wav"), "leads out"),
        (clips(TRAIN, "../readme.txt"), "leads out"),
        (clips(TRAIN, "/tmp/evil.wav"), "'/tmp/evil.wav' leads out"),
        (clips(TRAIN, "C:/evil.wav"), "'C:/evil.wav' leads out"),
        (clips(TRAIN, "c:evil.wav"), "leads out"),
        (patched(clips(TRAIN, "..#evil.wav"), b"..#evil", b"..\\evil"), "backslash"),
        (patched(clips(TRAIN, "fan/train/a#.wav"), b"a#.wav", b"a\0.wav"), "control character"),
        (clips(TRAIN, "fan/train/a\x1b.wav"), "control character"),
        (crafted(special(stat.S_IFLNK), b"/etc/passwd"), "a link or a special file"),
        (crafted(special(stat.S_IFCHR)), "a link or a special file"),
        (crafted("fan/train/setup.exe"), "'fan/train/setup.exe' is no clip"),
        (crafted("fan/train/run.sh"), "is no clip"),
        (crafted("fan/train/wav"), "is no clip"),
        (clips(TRAIN, f"a/{TRAIN}"), "2 times"),
        (clips(TRAIN, TRAIN.replace("source_train", "SOURCE_train")), "2 times"),
        (clips("fan/section_00_source_train_normal_0000.wav"), "no recordings in a layout"),
        (clips("fan/train/monday.wav"), "no recordings in a layout"),
        (zipped({"README.md": b"nothing"}), "no recordings in a layout"),
        (b"<html>Not found</html>", "cannot be unpacked"),
        (clips(TRAIN)[:-30], "cannot be unpacked"),
        (patched(clips(TRAIN), noise(1000, TRAIN)[300:310], b"0123456789"), "cannot be unpacked"),
    ],
)
def test_what_must_not_be_unpacked_is_not(tmp_path: Path, content: bytes, said: str) -> None:
    """Not the entry, and nothing beside it; the archive stays for a person to look into."""
    with pytest.raises(ArchiveRefused, match=said.replace(".", r"\.")) as refused:
        put(tmp_path / "out", content)
    assert "dev_data_fan.zip" in str(refused.value)
    assert tree(tmp_path) == ["out/archives/5/dev_data_fan.zip"]
    assert not Path("/tmp/evil.wav").exists()


def test_an_encrypted_or_strangely_compressed_entry_is_refused(tmp_path: Path) -> None:
    """Each said as what it is."""
    content = bytearray(clips(TRAIN))
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 8] |= 1
    with pytest.raises(ArchiveRefused, match="is encrypted"):
        put(tmp_path, bytes(content))
    content[directory + 8] &= ~1
    content[directory + 10] = 9
    with pytest.raises(ArchiveRefused, match="compressed by method 9"):
        put(tmp_path, bytes(content))


def test_bombs_are_refused_before_they_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says what it becomes, and no byte of it is written."""
    monkeypatch.setattr(unpacking, "extract", lambda *_: pytest.fail("something was unpacked"))
    with pytest.raises(ArchiveRefused, match=r"would become 1000\d{4}, \d{3} times as many"):
        put(tmp_path, zipped({TRAIN: bytes(10_000_000), TEST: b"x" * 1000}))


@pytest.mark.parametrize(("declared", "said"), [(10, "Bad CRC-32"), (1_000_000, "ends after 100000 of 1000000 bytes")])
def test_an_entry_of_another_length_than_declared_is_refused(tmp_path: Path, declared: int, said: str) -> None:
    """A bomb that says it is small is read no further than it says; one that is smaller than it says is no clip."""
    content = bytearray(zipped({TRAIN: noise(1000, 1) + bytes(99_000), TEST: noise(200_000, 2)}))
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = declared.to_bytes(4, "little")
    with pytest.raises(ArchiveRefused, match=said):
        put(tmp_path, bytes(content))
    assert tree(tmp_path) == ["archives/5/dev_data_fan.zip"]


def test_a_disk_too_small_for_an_archive_is_said_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the archive's own directory; with room the same archive goes on."""
    archive, place = fetched(tmp_path, clips(TRAIN, TEST))
    with monkeypatch.context() as small:
        small.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1500))
        with pytest.raises(DownloadError, match=r"becomes 2\.0 kB, and .* has 1\.5 kB free"):
            unpack(archive, place, keep=False, stopped=threading.Event())
    assert tree(tmp_path) == ["archives/5/dev_data_fan.zip"]
    unpack(archive, place, keep=False, stopped=threading.Event())
    assert len(tree(tmp_path)) == 2


def test_a_stopped_run_leaves_no_half_tree(tmp_path: Path) -> None:
    """Between two clips."""
    archive, place = fetched(tmp_path, clips(TRAIN, TEST))
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(DownloadError, match="same command again"):
        unpack(archive, place, keep=False, stopped=stopped)
    assert tree(tmp_path) == ["archives/5/dev_data_fan.zip"]


class Killed(BaseException):
    """What nothing handles."""


def test_killed_at_any_step_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each change that lasts on the disk; and no folder is ever in its place by half."""
    names = (TRAIN, TEST, TEST.replace("0000", "0001"))
    content, steps = clips(*names), 0
    for step in range(100):
        out = tmp_path / str(step)
        archive, place = fetched(out, content)
        with monkeypatch.context() as killing:
            _kill_at(step, killing)
            try:
                unpack(archive, place, keep=False, stopped=threading.Event())
            except Killed:
                steps += 1
            else:
                break
        folders = {path.parent.name: len(list(path.parent.iterdir())) for path in (out / "dev_data").rglob("*.wav")}
        assert folders.items() <= {"train": 1, "source_test": 2}.items()
        if state_of(place, archive.file.md5) is State.WANTED:
            assert place.archive.exists()
            assert not folders
        unpack(archive, place, keep=False, stopped=threading.Event())
        assert tree(out) == sorted(f"dev_data/{name}" for name in names)
        assert state_of(place, archive.file.md5) is State.UNPACKED
        assert [path.name for path in place.archive.parent.iterdir()] == [place.marker.name]
    assert steps > 10


def _kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die at the ``step``-th change of the disk, and clean nothing up: the dead do not."""
    done = 0

    def deadly(act: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **words: Any) -> Any:
            nonlocal done
            if done == step:
                raise Killed
            done += 1
            return act(*arguments, **words)

        return change

    for owner, name in ((os, "sync"), (os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
    monkeypatch.setattr(shutil, "rmtree", deadly(shutil.rmtree))
    monkeypatch.setattr(unpacking, "extract", deadly(zips.extract))


def test_what_is_there_already_is_not_touched(tmp_path: Path) -> None:
    """A folder of somebody else's stays as it is; without it the unpacked tree takes its place."""
    mine = tmp_path / "dev_data" / "fan" / "train" / "mine.wav"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    archive, place = fetched(tmp_path, clips(TRAIN, TEST))
    for _ in range(2):
        with pytest.raises(DownloadError, match=r"fan/train is there already"):
            unpack(archive, place, keep=False, stopped=threading.Event())
        assert mine.read_bytes() == b"mine"
    shutil.rmtree(mine.parent)
    unpack(archive, place, keep=False, stopped=threading.Event())
    assert tree(tmp_path) == [f"dev_data/{TEST}", f"dev_data/{TRAIN}"]


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """Its archive is not fetched again behind somebody's back."""
    content = clips(TRAIN, TEST)
    place = put(tmp_path, content)
    shutil.rmtree(tmp_path / "dev_data/fan/train")
    with pytest.raises(
        DownloadError, match=r"dev_data/fan/train, which dev_data_fan\.zip became, is gone.*source_test"
    ):
        state_of(place, hashlib.md5(content).hexdigest())


@pytest.mark.parametrize("content", ["", "[]", '{"md5": "x"}'])
def test_a_marker_of_somebody_else_is_said(tmp_path: Path, content: str) -> None:
    archive, place = fetched(tmp_path, clips(TRAIN))
    place.marker.write_text(content)
    with pytest.raises(DownloadError, match=r"dev_data_fan\.zip\.json is not what says"):
        state_of(place, archive.file.md5)


SNAPSHOT = "y-kawagu-dcase2021_task2_evaluator-0c11634"


def labels(out: Path, content: bytes, name: str = "evaluator-v1.0.0.zip") -> dict[str, str]:
    put(out, content, name=name, part=Part.LABELS)
    return {path.name: path.read_text() for path in (out / "ground_truth").iterdir()}


def test_labels_of_2021_are_taken_out_of_a_snapshot(tmp_path: Path) -> None:
    """Only the ground truth: its program and its examples stay where they are."""
    files: Mapping[str, bytes] = {
        f"{SNAPSHOT}/README.md": noise(500, 1),
        f"{SNAPSHOT}/dcase2021_task2_evaluator.py": b"import os",
        f"{SNAPSHOT}/teams/a/anomaly_score_fan_section_03_source_test.csv": b"section_03_source_test_0000.wav,0.5\n",
        f"{SNAPSHOT}/ground_truth_data/ground_truth_fan_section_03_source_test.csv": b"a.wav,1\n",
        f"{SNAPSHOT}/ground_truth_data/ground_truth_ToyCar_section_05_target_test.csv": b"x.wav,0\n",
    }
    assert labels(tmp_path, zipped(files)) == {
        "ground_truth_fan_section_03_source_test.csv": "a.wav,1\n",
        "ground_truth_ToyCar_section_05_target_test.csv": "x.wav,0\n",
    }


def test_a_snapshot_without_labels_or_with_a_way_out_is_refused(tmp_path: Path) -> None:
    """What is not taken is judged all the same."""
    with pytest.raises(ArchiveRefused, match="holds no ground_truth_"):
        labels(tmp_path / "none", zipped({f"{SNAPSHOT}/README.md": b"x"}))
    with pytest.raises(ArchiveRefused, match="leads out"):
        labels(tmp_path / "out", zipped({"../x.py": b"x", "ground_truth_fan_section_03_source_test.csv": b"x"}))


def test_the_list_of_2020_becomes_the_same_files(tmp_path: Path) -> None:
    """2020 has one list of all machines, and no domains."""
    text = (
        "fan\nid_01_00000000.wav,anomaly_id_01_00000000.wav,1\nid_01_00000001.wav,normal_id_01_00000000.wav,0\n"
        "id_03_00000000.wav,normal_id_03_00000000.wav,0\n\nToyCar\nid_05_00000000.wav,anomaly_id_05_00000000.wav,1.0\n"
    )
    assert labels(tmp_path, text.replace("\n", "\r\n").encode(), "eval_data_list.csv") == {
        "ground_truth_fan_section_01_source_test.csv": "id_01_00000000.wav,1\nid_01_00000001.wav,0\n",
        "ground_truth_fan_section_03_source_test.csv": "id_03_00000000.wav,0\n",
        "ground_truth_ToyCar_section_05_source_test.csv": "id_05_00000000.wav,1\n",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("id_01_00000000.wav,anomaly_id_01_00000000.wav,1\n", 1),
        ("fan\nid_01_00000000.wav,1\n", 2),
        ("fan\nid_01_00000000.wav,x,2\n", 2),
        ("fan\nid_01_00000000.wav,x,yes\n", 2),
        ("fan\n../id_01_00000000.wav,x,1\n", 2),
        ("../fan\n", 1),
    ],
)
def test_another_list_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    """Names in it become names of files."""
    with pytest.raises(DownloadError, match=rf"eval_data_list\.csv, line {line}: "):
        labels(tmp_path, text.encode(), "eval_data_list.csv")
    assert tree(tmp_path) == ["archives/5/eval_data_list.csv"]
