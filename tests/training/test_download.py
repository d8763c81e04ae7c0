"""`python -m training download` against a real server: years, parts, stops of every kind, and what a person reads."""

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.commands import shell_line
from models.vocabulary import SectionKey, Split
from tests.training.zenodo import Asked, Cut, Hold, Instead, Refuse, Zenodo, clips, names_of, noise, zipped
from training.cli import main
from training.download import year
from training.download.catalogue import RECORDS, Part
from training.download.places import ARCHIVES, as_size
from training.recordings import read_recordings
from training.work import alone_in

ROOT = Path(__file__).parents[2]
DEV, ADDITIONAL, EVAL, LABELS = RECORDS[2021].values()
TRUTH = "evaluator/ground_truth_data/ground_truth_fan_section_03_source_test.csv"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sync", lambda: None)  # others work on this disk, too
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def archive_2021(part: Part, machine_type: str, size: int = 1000) -> bytes:
    """Each split of a part with one clip."""
    names = {
        Part.DEV: (
            "train/section_00_source_train_normal_0000_strength_1.wav",
            "train/section_00_target_train_normal_0000_strength_2.wav",
            "source_test/section_00_source_test_anomaly_0000.wav",
            "target_test/section_00_target_test_normal_0000.wav",
        ),
        Part.ADDITIONAL: ("train/section_03_source_train_normal_0000_strength_1.wav",),
        Part.EVAL: ("source_test/section_03_source_test_0000.wav", "target_test/section_03_target_test_0000.wav"),
    }[part]
    return clips(*(f"{machine_type}/{name}" for name in names), size=size)


def year_2021(size: int = 1000) -> dict[int, dict[str, bytes]]:
    """All records of 2021, small."""
    records = {
        number: {name: archive_2021(part, re.split(r"[_.]", name)[2], size) for name in names_of(number)}
        for part, number in list(RECORDS[2021].items())[:3]
    }
    return {**records, LABELS: {"y-kawagu/evaluator-v1.zip": zipped({TRUTH: b"section_03_source_test_0000.wav,1\n"})}}


@pytest.fixture(scope="module")
def contents() -> dict[int, dict[str, bytes]]:
    return year_2021()


@pytest.fixture
def zenodo(contents: dict[int, dict[str, bytes]]) -> Iterator[Zenodo]:
    with Zenodo(contents) as server:
        yield server


def download(zenodo: Zenodo, out: Path, *options: object, year: int = 2021) -> int:
    return main(["download", str(out), "--year", str(year), "--api", zenodo.api, *map(str, options)])


def tree(out: Path) -> set[str]:
    """Relative paths of all files but markers."""
    files = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name for name in files if not name.endswith(".json")}


def fan(out: Path) -> set[str]:
    """What the development archive of one machine type becomes."""
    return {name for name in tree(out) if name.startswith("dev_data/fan/")}


FAN = ("--part", "dev", "--machine-type", "fan")


def test_a_year_becomes_a_tree_that_the_reader_reads(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All four parts of 2021: seven machine types, test clips of the evaluation set without label, and its labels."""
    out = tmp_path / "2021"
    assert download(zenodo, out) == 0
    recordings = read_recordings([out])
    machine_types = {"ToyCar", "ToyTrain", "fan", "gearbox", "pump", "slider", "valve"}
    assert {r.key for r in recordings} == {SectionKey(m, s) for m in machine_types for s in ("00", "03")}
    assert len(recordings) == 7 * (4 + 1 + 2)
    assert {r.section for r in recordings if r.condition is None} == {"03"}
    assert sum(r.split is Split.TRAIN for r in recordings) == 7 * 3
    assert (out / "ground_truth" / TRUTH.rsplit("/", 1)[1]).read_text() == "section_03_source_test_0000.wav,1\n"
    assert len(tree(out)) == 49 + 1
    printed = capsys.readouterr()
    for number in RECORDS[2021].values():
        assert f"record {number}, DCASE Challenge Task 2, record {number}; licence cc-by-nc-sa-4.0" in printed.out
    assert "non-commercial use only (CC BY-NC-SA 4.0)" in printed.out
    assert f"{out}: 49 recordings. Next: {shell_line(f'training check {out}')}" in printed.out
    assert "100%" in printed.err


def test_what_is_done_is_not_done_again(zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run asks the records, and nothing else; a further part joins the first."""
    assert download(zenodo, tmp_path, *FAN) == 0
    assert download(zenodo, tmp_path, *FAN) == 0
    assert [asked.name for asked in zenodo.asked] == ["dev_data_fan.zip"]
    assert "unpacked already\n0 bytes to fetch" in capsys.readouterr().out
    assert download(zenodo, tmp_path, "--part", "dev", "--part", "eval", "--machine-type", "fan") == 0
    assert [asked.name for asked in zenodo.asked] == ["dev_data_fan.zip", "eval_data_fan_test.zip"]
    assert len(tree(tmp_path)) == 6


def test_archives_can_be_kept(zenodo: Zenodo, tmp_path: Path, contents: dict[int, dict[str, bytes]]) -> None:
    """Under their own names; a kept archive is no reason to unpack it again."""
    for _ in range(2):
        assert download(zenodo, tmp_path, *FAN, "--keep-archives") == 0
    kept = tmp_path / "archives" / str(DEV) / "dev_data_fan.zip"
    assert kept.read_bytes() == contents[DEV]["dev_data_fan.zip"]
    assert len(zenodo.asked) == 1


def test_a_dry_run_fetches_and_writes_nothing(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Licence, files and sizes, and what the disk needs."""
    out = tmp_path / "2021"
    assert download(zenodo, out, "--dry-run") == 0
    assert zenodo.asked == []
    assert not out.exists()
    printed = capsys.readouterr().out
    assert "non-commercial use only" in printed
    assert len(re.findall(r"^  \S+\.zip: \d+\.\d kB$", printed, re.MULTILINE)) == 21
    assert re.search(r"\d+\.\d kB to fetch; \d+\.\d kB needed on the disk, \d+\.\d GB free", printed)


@pytest.mark.parametrize("licence", [None, {"id": "other-open"}])
def test_a_record_says_its_licence_or_that_it_has_none(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str], licence: dict[str, str] | None
) -> None:
    """All of it is for non-commercial use, whatever the record says."""
    zenodo.metadata = {"license": licence}
    assert download(zenodo, tmp_path / "2021", *FAN, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"licence {'other-open' if licence else 'none stated'}" in printed
    assert "non-commercial use only" in printed


LAYOUTS: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    2020: {
        "dev_data_fan.zip": ("train/normal_id_00_00000000.wav", "test/anomaly_id_00_00000000.wav"),
        "eval_data_train_fan.zip": ("train/normal_id_01_00000000.wav",),
        "eval_data_test_fan.zip": ("test/id_01_00000000.wav",),
    },
    2022: {
        "dev_fan.zip": ("train/section_00_source_train_normal_0000_m-n_W.wav", "attributes_00.csv"),
        "eval_data_fan_train.zip": ("train/section_03_target_train_normal_0000_m-n_X.wav",),
        "eval_data_fan_test.zip": ("test/section_03_0000.wav",),
    },
    2023: {
        "dev_bearing.zip": ("train/section_00_source_train_normal_0000_vel_6.wav",),
        "eval_data_bandsaw_train.zip": ("train/section_00_source_train_normal_0000_noAttribute.wav",),
        "eval_data_bandsaw_test.zip": ("test/section_00_0000.wav",),
    },
    2024: {
        "dev_ToyCar.zip": ("test/section_00_source_test_normal_0000_car_A2.wav",),
        "eval_data_3DPrinter_train_r2.zip": ("train/section_00_source_train_normal_0000_.wav",),
        "eval_data_3DPrinter_test.zip": ("test/section_00_0000.wav",),
    },
    2025: {
        "dev_slider.zip": ("train/section_00_source_train_normal_0000.wav",),
        "eval_data_ToyPet_train.zip": (
            "train/section_00_source_train_normal_0000.wav",
            "supplemental/section_00_source_supplemental_clean_0000.wav",
        ),
        "eval_data_ToyPet_test.zip": ("test/section_00_0000.wav",),
    },
}


@pytest.mark.parametrize("when", sorted(LAYOUTS))
def test_every_year_has_its_layout(tmp_path: Path, when: int) -> None:
    """What the archives hold is what the reader finds, year by year."""
    records: dict[int, dict[str, bytes]] = {}
    expected = 0
    for number, (name, files) in zip(RECORDS[when].values(), LAYOUTS[when].items(), strict=False):
        machine_type = re.sub(r"dev_data_|dev_|eval_data_|train_|test_|_train|_test|_r2|\.zip", "", name)
        records[number] = {name: clips(*(f"{machine_type}/{file}" for file in files))}
        expected += sum("/" in file and "supplemental" not in file for file in files)
    if when == 2020:
        records[3951620] = {"eval_data_list.csv": b"fan\nid_01_00000000.wav,anomaly_id_01_00000000.wav,1\n"}
    with Zenodo(records) as zenodo:
        assert download(zenodo, tmp_path, year=when) == 0
    assert len(read_recordings([tmp_path])) == expected
    truth = tmp_path / "ground_truth" / "ground_truth_fan_section_01_source_test.csv"
    assert truth.exists() == (when == 2020)


@pytest.mark.parametrize("jobs", [1, 4])
def test_archives_come_as_many_at_once_as_asked_for(zenodo: Zenodo, tmp_path: Path, jobs: int) -> None:
    """Every answer waits until so many are under way, and no more than that ever are."""
    gate = threading.Barrier(jobs)
    under_way, most = 0, 0
    lock = threading.Lock()

    def together() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        gate.wait(180)
        time.sleep(0.05)
        with lock:
            under_way -= 1

    wanted = [f"dev_data_{m}.zip" for m in ("ToyCar", "ToyTrain", "fan", "gearbox")]
    for name in wanted:
        zenodo.troubles[name] = [Hold(((100, together),))]
    machines = [word for m in ("ToyCar", "ToyTrain", "fan", "gearbox") for word in ("--machine-type", m)]
    assert download(zenodo, tmp_path, "--part", "dev", *machines, "--jobs", jobs) == 0
    assert not gate.broken
    assert most == jobs
    assert len(tree(tmp_path)) == 16


def test_one_bad_archive_does_not_stop_the_others(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is not there, one is never right, one leads out of the folder: a sentence for each, and exit status 2."""
    evil = clips("fan/train/section_00_source_train_normal_0000.wav", "../../evil.wav")
    zenodo.records[DEV]["dev_data_fan.zip"] = evil
    zenodo.troubles["dev_data_ToyCar.zip"] = [Refuse(404)]
    zenodo.troubles["dev_data_pump.zip"] = [Instead(zenodo.records[DEV]["dev_data_pump.zip"][::-1])] * 2
    assert download(zenodo, tmp_path, "--part", "dev") == 2
    said = capsys.readouterr().err
    for words in ("dev_data_ToyCar.zip is not there", "dev_data_pump.zip", "'../../evil.wav' leads out of the folder"):
        assert words in said
    assert "Traceback" not in said
    assert {r.machine_type for r in read_recordings([tmp_path])} == {"ToyTrain", "gearbox", "slider", "valve"}
    assert {name for name in tree(tmp_path) if "archives" in name} == {f"archives/{DEV}/dev_data_fan.zip"}
    assert not list(tmp_path.parent.rglob("evil.wav"))


def test_a_full_disk_is_said_before_anything_is_fetched(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives and what they become, against what is free: with room for both it goes through."""
    size = len(zenodo.records[DEV]["dev_data_fan.zip"])
    needed = size + int(year.SWELLING * size)
    for free, status in ((needed - 1, 2), (needed, 0)):
        disk = shutil._ntuple_diskusage(10**9, 10**9 - free, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, disk=disk: disk)
        assert download(zenodo, tmp_path / "2021", *FAN) == status
        assert len(zenodo.asked) == (status == 0)
    said = capsys.readouterr().err
    assert f"2021 needs {as_size(needed)} " in said
    assert "--machine-type" in said


def test_kept_archives_take_more_room(zenodo: Zenodo, tmp_path: Path) -> None:
    """All of them, instead of as many as are fetched at once."""
    sizes = sorted(len(content) for content in zenodo.records[DEV].values())
    plans = [year.make_plan(2021, tmp_path, parts=[Part.DEV], jobs=2, keep=k, api=zenodo.api) for k in (False, True)]
    unpacked = int(year.SWELLING * sum(sizes))
    assert [plan.needed_bytes for plan in plans] == [sum(sizes[-2:]) + unpacked, sum(sizes) + unpacked]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--machine-type", "fam"), "'fam'. There are: ToyCar"),
        (("--jobs", "0"), "1 to 16"),
        (("--part", "train"), "invalid choice: 'train'"),
        (("--api", "zenodo.org/api"), "--api as https://"),
    ],
)
def test_slips_are_said(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    """And nothing is written."""
    try:
        status = download(zenodo, tmp_path / "2021", *options)
    except SystemExit as stop:
        status = int(str(stop.code))
    assert status == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "2021").exists()


def test_a_folder_belongs_to_one_year_and_one_process(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines and files of other years have the same names; two processes would write the same files."""
    mine = tmp_path / "mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert download(zenodo, mine.parent) == 2
    assert "holds something else" in capsys.readouterr().err
    assert download(zenodo, mine) == 2
    assert "holds something else" in capsys.readouterr().err
    out = tmp_path / "2021"
    assert download(zenodo, out, *FAN) == 0
    assert download(zenodo, out, year=2022) == 2
    assert f"holds record {DEV}, which is not of 2022" in capsys.readouterr().err
    with alone_in(out / ARCHIVES):
        assert download(zenodo, out, *FAN) == 2
    assert "Another process" in capsys.readouterr().err
    assert download(zenodo, out, *FAN) == 0


@contextmanager
def running(zenodo: Zenodo, out: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "training", "download", str(out), "--year", "2021", "--api", zenodo.api, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def strike_another_thread(process: int, end: signal.Signals) -> None:
    """As the system may choose: its main thread, which waits for the server, is not woken by that."""
    threads = {int(task.name) for task in Path(f"/proc/{process}/task").iterdir()} - {process}
    assert threads, "the bar has one"
    assert ctypes.CDLL(None).tgkill(process, threads.pop(), end) == 0


@pytest.mark.parametrize(("end", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_or_killed_the_same_command_goes_on(tmp_path: Path, end: signal.Signals, status: int) -> None:
    """In the middle of a file: the next run asks for the rest. And the licence stood there before the first byte."""
    content = archive_2021(Part.DEV, "fan", size=100_000)
    half = len(content) // 2
    asked_for, go_on, gone = threading.Event(), threading.Event(), threading.Event()

    def at_first() -> None:
        asked_for.set()
        go_on.wait(180)

    def in_the_middle() -> None:
        gone.wait(180)

    with Zenodo({DEV: {"dev_data_fan.zip": content}}) as zenodo:
        zenodo.troubles["dev_data_fan.zip"] = [Hold(((0, at_first), (half, in_the_middle)))]
        with running(zenodo, tmp_path, *FAN) as process:
            assert asked_for.wait(180)
            assert process.stdout is not None
            before = [process.stdout.readline() for _ in range(5)]
            assert any("non-commercial use only" in line for line in before)
            partial = tmp_path / "archives" / str(DEV) / "dev_data_fan.zip.partial"
            assert not partial.exists() or partial.stat().st_size == 0
            go_on.set()
            until = time.monotonic() + 180
            while not partial.exists() or partial.stat().st_size < half:
                assert time.monotonic() < until
                time.sleep(0.01)
            strike_another_thread(process.pid, end)
            _, said = process.communicate(timeout=180)
            assert process.returncode == status
            gone.set()
        assert "Traceback" not in said
        if end is signal.SIGINT:
            assert "the same command goes on from here" in said
        assert fan(tmp_path) == set()
        assert download(zenodo, tmp_path, *FAN) == 0
        assert zenodo.asked[-1] == Asked("dev_data_fan.zip", half, zenodo.asked[-1].if_range)
        assert len(zenodo.asked) == 2
    assert len(fan(tmp_path)) == 4
    for path in (tmp_path / "dev_data").rglob("*.wav"):
        assert path.read_bytes() == noise(100_000, path.relative_to(tmp_path / "dev_data").as_posix())


def test_killed_again_and_again_it_ends_whole(tmp_path: Path, soak: bool) -> None:
    """At moments that nobody has chosen, while archives are fetched, verified, unpacked and put in place."""
    moments = random.Random(2021)
    content = {f"dev_data_{m}.zip": archive_2021(Part.DEV, m, size=20_000) for m in ("ToyCar", "fan", "pump", "valve")}
    with Zenodo({DEV: content}) as zenodo:
        for _ in range(60 if soak else 2):
            for name in content:
                zenodo.troubles[name] = [Cut(moments.randrange(1, 80_000)) for _ in range(moments.randrange(4))]
            with running(zenodo, tmp_path, "--part", "dev") as process:
                before = len(zenodo.asked)
                until = time.monotonic() + moments.uniform(0.5, 2.5)
                while time.monotonic() < until and len(zenodo.asked) == before and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(moments.uniform(0.0, 0.8 if soak else 0.2))
                process.kill()
                process.wait(180)
            folders = [path for path in (tmp_path / "dev_data").glob("*/*") if path.is_dir()]
            for folder in folders:
                assert len(list(folder.iterdir())) == (2 if folder.name == "train" else 1)
            if moments.random() < 0.3:
                shutil.rmtree(tmp_path, ignore_errors=True)  # from the beginning again
        zenodo.troubles.clear()
        assert download(zenodo, tmp_path, "--part", "dev") == 0
    assert len(read_recordings([tmp_path])) == 16
    assert len(tree(tmp_path)) == 16
    for path in (tmp_path / "dev_data").rglob("*.wav"):
        assert path.read_bytes() == noise(20_000, path.relative_to(tmp_path / "dev_data").as_posix())
