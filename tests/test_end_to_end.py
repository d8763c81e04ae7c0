"""The README's walk on generated clips, by its own commands: record, manifest, check, train, evaluate, serve, adapt."""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_bundle
from models.detector import Detector
from models.vocabulary import Domain, SectionKey
from tests.service.servers import Server
from training.curves import curves_of

ROOT = Path(__file__).parents[1]
SECTIONS = 2
TRAIN_CLIPS = 12
SHORT = ("--recipe", "smoke", "--set", "steps=40")
"""A third of its steps: what is shown needs no good networks."""


def command(*arguments: object, status: int = 0) -> str:
    """Run a Python module of the project as a user would and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stdout + result.stderr


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a plant's own recordings, ``<machine type>/<section>/<domain>/*``, and its test clips beside it."""
    folder = tmp_path_factory.mktemp("plant")
    command(
        *("training", "synthesize", folder / "made", "--seed", 5, "--machine-types", "pump"),
        *("--sections", SECTIONS, "--train-clips", TRAIN_CLIPS, "--test-clips", 3),
    )
    pump = folder / "made" / "dev_data" / "pump"
    for clip in sorted((pump / "train").iterdir()):
        _, section, domain = clip.name.split("_")[:3]
        place = folder / "recordings" / "pump" / f"hall-{section}" / domain
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, place / f"{clip.stem.split('_')[5]}.wav")
    return folder


@pytest.fixture(scope="module")
def bundle(plant: Path) -> Path:
    """Manifest, check, plan and training, by the README's commands."""
    manifest, bundle = plant / "recordings.csv", plant / "bundles" / "first"
    drafted = command("training", "manifest", plant / "recordings", manifest)
    assert f"{SECTIONS * (TRAIN_CLIPS + 3)} recordings" in drafted
    checked = command("training", "check", manifest)
    assert "usable, provisional" in checked
    options = ("train", manifest, *SHORT, "--work", plant / "work", "--bundle", bundle)
    plan = command("training", *options, "--dry-run")
    assert "in all about" in plan
    assert not bundle.exists()
    command("training", *options)
    assert "whole and unaltered" in command("models.bundle", "verify", bundle)
    return bundle


@pytest.fixture(scope="module")
def server(bundle: Path, plant: Path) -> Iterator[Server]:
    """The service over the bundle that was just trained."""
    with Server(bundle, plant / "data" / "earwitness.db", plant / "log") as running:
        yield running


def kill_when(sign: Path, arguments: tuple[object, ...], delay_s: float = 0.0) -> int:
    """Start a command, kill it a while after it has written ``sign``, and return its exit status."""

    def written() -> dict[str, int]:
        return {path: os.stat(path).st_mtime_ns for path in glob.glob(str(sign))}

    before = written()
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and written() == before:
        time.sleep(0.002)
    time.sleep(delay_s)
    process.kill()
    return process.wait()


def test_a_run_killed_again_and_again_ends_in_the_same_networks(bundle: Path, plant: Path, soak: bool) -> None:
    """SIGKILL in feature extraction, in epochs and while the bundle is written; embeddings agree to 1e-4 in the end.

    A kill that comes when the bundle is whole already finds nothing to go on with; `tests/models/test_bundle.py` kills
    the writing itself at every step.
    """
    work, resumed = plant / "killed", plant / "bundles" / "resumed"
    options = (*SHORT, "--work", work, "--bundle", resumed)
    arguments = ("training", "train", plant / "recordings.csv", *options)
    assert kill_when(work / "features" / "*" / "rows.npy", arguments) == -signal.SIGKILL
    checkpoint = work / "networks" / "both-heads-s2" / "checkpoint.npz"
    for i in range(8 if soak else 1):
        assert kill_when(checkpoint, arguments, delay_s=0.1 + 0.1 * i) == -signal.SIGKILL
    assert checkpoint.exists()
    kill_when(resumed.parent / ".resumed*", arguments)
    if not resumed.exists():
        command(*arguments)
    assert "whole and unaltered" in command("models.bundle", "verify", resumed)
    assert {path.name for path in resumed.parent.iterdir()} == {"first", "resumed"}
    ours, theirs = (np.load(folder / "embeddings" / "000000.npy") for folder in (work, plant / "work"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    thresholds = [json.loads((folder / "thresholds.json").read_text()) for folder in (resumed, bundle)]
    for one, other in zip(*thresholds, strict=True):
        assert one["threshold"] == pytest.approx(other["threshold"], rel=1e-3)


def test_the_bundle_knows_what_was_recorded(bundle: Path) -> None:
    """Two sections, both domains, two members of one network; thresholds by held-out clips."""
    read = read_bundle(bundle)
    assert read.manifest.sections == (SectionKey("pump", "hall-00"), SectionKey("pump", "hall-01"))
    assert [member.id.rsplit("-", 1)[0] for member in read.manifest.members] == ["both-heads-s2"] * 2
    assert read.manifest.recipe["name"] == "smoke"
    curve = curves_of(read.manifest.training_data)["both-heads-s2"]
    assert curve["epoch"][-1] == read.manifest.members[-1].snapshot_epoch
    assert len(curve["attribute_scale"]) == len(curve["epoch"])
    for key in read.manifest.sections:
        source, target = (read.calibrations[key, domain].calibration for domain in Domain)
        assert (source.rule, len(source.scores)) == ("held_out", TRAIN_CLIPS)
        assert (target.rule, len(target.scores)) == ("paper", 3)


def test_a_normal_evaluation_without_anomalies(bundle: Path, plant: Path) -> None:
    """A plant's usual case: no AUC, but the rate of false alarms and a report that shows the clips."""
    normal = plant / "normal.csv"
    clips = sorted((plant / "made" / "dev_data" / "pump" / "source_test").glob("section_00_*normal*.wav"))
    rows = [f"{clip},pump,hall-00,source,test,normal" for clip in clips]
    normal.write_text("\n".join(["path,machine_type,section,domain,split,condition", *rows]))
    options = ("--json", plant / "normal.json", "--report", plant / "report")
    assert "report.html: written" in command("training", "evaluate", bundle, normal, *options)
    (row,) = json.loads((plant / "normal.json").read_text())["rows"]
    assert (row["normal"], row["anomalous"], row["auc"], row["hit_rate"]) == (3, 0, None, None)
    assert 0.0 <= row["false_alarm_rate"] <= 1.0
    page = (plant / "report" / "report.html").read_text()
    assert f"python -m training evaluate {bundle} {normal} --json" in page
    assert page.count("data:audio/flac") == len(clips)
    assert (plant / "report" / "training-both-heads-s2.png").exists(), "the bundle carries its training curves"


def test_http_and_offline_scores_of_a_clip_agree(bundle: Path, server: Server, plant: Path) -> None:
    """In both domains, before and after registering three target clips, to 1e-4 with the same decision."""
    detector = Detector.load(bundle)
    key = SectionKey("pump", "hall-01")
    test = plant / "made" / "dev_data" / "pump"
    clips = {domain: sorted((test / f"{domain}_test").glob("section_01_*"))[::2] for domain in Domain}

    def agree(domain: Domain, version: int | None) -> None:
        for path in clips[domain]:
            answer = server.client.post(
                "/score",
                params={"machine_type": "pump", "section": "hall-01", "domain": domain.value},
                content=path.read_bytes(),
                headers={"Content-Type": "audio/wav"},
            ).json()
            offline = detector.score(detector.decode(path), "pump", "hall-01", domain)
            assert answer["anomaly_score"] == pytest.approx(offline.anomaly_score, rel=1e-4)
            assert answer["decision"] == offline.decision
            assert answer["target_version"] == version

    agree(Domain.SOURCE, None)
    agree(Domain.TARGET, 0)
    samples = sorted((plant / "recordings" / "pump" / "hall-01" / "target").iterdir())
    answer = server.client.post(
        "/target-samples",
        data={"machine_type": key.machine_type, "section": key.section},
        files=[("audio", (path.name, path.read_bytes())) for path in samples],
    )
    assert (answer.status_code, answer.json()["version"]) == (201, 1)
    agree(Domain.TARGET, 1)


def test_the_score_command_says_what_it_found(bundle: Path, plant: Path) -> None:
    """Exit status 0, 1 or 2, and a row a clip."""
    faults = sorted((plant / "made" / "dev_data" / "pump" / "source_test").glob("section_00_*"))
    out = plant / "monday.csv"
    options = ("--machine-type", "pump", "--section", "hall-00", "--domain", "source", "--bundle", bundle, "--csv", out)
    command("service", "score", *faults, *options, status=1)
    rows = out.read_text().splitlines()
    assert len(rows) == 1 + len(faults)
    assert any("anomalous" in row for row in rows)


def test_a_second_run_and_a_strange_work_folder_are_refused_with_a_sentence(bundle: Path, plant: Path) -> None:
    """A bundle is never changed, and networks of other recordings are never mixed in."""
    arguments = ("training", "train", plant / "recordings.csv", *SHORT, "--work", plant / "work")
    for options in (("--bundle", bundle), ("--bundle", plant / "other", "--seed", 1)):
        words = command(*arguments, *options, status=2)
        assert "error: " in words
        assert "Traceback" not in words
        assert not (plant / "other").exists()
