"""A baseline from recordings to scores: its work folder, its thresholds, its clips, and what it refuses."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
from numpy.typing import NDArray

from models.audio import decode, windows
from models.commands import shell_line
from models.decision import decide
from models.errors import DataError
from models.frontend import LogMelSpec, log_mel
from models.vocabulary import Condition, Domain, SectionKey, Split
from training.baselines import autoencoder, open_baseline
from training.baselines.contender import BaselineContender
from training.baselines.folder import is_finished, read_trained
from training.baselines.run import BaselineRun, train_baseline
from training.baselines.scorers import make_scorer
from training.baselines.thresholds import gamma_threshold
from training.baselines.trained import BASELINES
from training.cli import main
from training.recordings import Recording
from training.scored import Contender, Scored, SystemName

FIRST, SECOND = SectionKey("fan", "00"), SectionKey("fan", "line-2")


def record(
    folder: Path,
    key: SectionKey,
    number: int,
    domain: Domain,
    split: Split,
    *,
    seconds: float = 2.0,
    challenge: bool = True,
) -> Recording:
    """A hum of the section in noise, a little higher in the target domain."""
    random = np.random.default_rng([number, len(key.section), domain is Domain.TARGET, split is Split.TEST])
    time = np.arange(round(seconds * 16_000)) / 16_000
    hum_hz = (200.0 if key == FIRST else 330.0) * (1.1 if domain is Domain.TARGET else 1.0)
    waveform = 0.1 * np.sin(2 * np.pi * hum_hz * time) + 0.01 * random.normal(size=len(time))
    path = folder / f"{key.machine_type}-{key.section}-{domain}-{split}-{number}-{seconds:g}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, 16_000, subtype="PCM_16")
    return Recording(
        path,
        key.machine_type,
        key.section,
        domain,
        split,
        Condition.NORMAL,
        "",
        recording=str(path),
        challenge=challenge,
    )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Two sections of one machine type; the first has target clips too."""
    folder = tmp_path_factory.mktemp("recordings")
    kinds = [
        (FIRST, Domain.SOURCE, 6),
        (SECOND, Domain.SOURCE, 6),
        (FIRST, Domain.TARGET, 3),
    ]
    return [record(folder, key, i, domain, Split.TRAIN) for key, domain, count in kinds for i in range(count)]


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory, recordings: list[Recording]) -> dict[SystemName, Path]:
    """A floor, and an autoencoder of two epochs, trained in folders of their own."""
    folder = tmp_path_factory.mktemp("works")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "BUDGET", replace(autoencoder.BUDGET, epochs=2))
        for kind in (SystemName.FLOOR, SystemName.AUTOENCODER):
            train_baseline(BaselineRun.of(recordings, kind, 5, folder / kind), workers=1)
    return {kind: folder / kind for kind in (SystemName.FLOOR, SystemName.AUTOENCODER)}


def log_mels_of(recording: Recording) -> NDArray[np.float32]:
    return log_mel(windows(decode(recording.path).waveform), LogMelSpec())


def score(baseline: Contender, *recordings: Recording) -> list[Scored]:
    done: list[int] = []
    scored = list(baseline.score(recordings, done.append))
    assert sum(done) == len(recordings)
    return scored


@pytest.mark.parametrize("kind", [SystemName.FLOOR, SystemName.AUTOENCODER])
def test_a_baseline_opened_from_its_folder_scores_as_trained(
    works: dict[SystemName, Path], tmp_path: Path, kind: SystemName
) -> None:
    """Score and threshold of a section under a condition, and the decision that they give."""
    baseline, trained = open_baseline(works[kind]), read_trained(works[kind])
    assert (baseline.name, baseline.bundle, baseline.recipe, baseline.seed) == (kind, None, None, 5)
    scorer = make_scorer(kind, trained.networks, trained.arrays)
    test = [
        record(tmp_path, key, 1, domain, Split.TEST)
        for key, domain in ((FIRST, Domain.SOURCE), (FIRST, Domain.TARGET), (SECOND, Domain.SOURCE))
    ]
    for clip in score(baseline, *test):
        one = clip.recording
        assert clip.anomaly_score == pytest.approx(float(scorer.score(log_mels_of(one), one.key, one.domain)[0]))
        assert clip.decision_score == clip.anomaly_score
        assert clip.threshold == trained.thresholds[one.key, one.domain]
        assert clip.threshold is not None
        assert clip.decision is decide(clip.anomaly_score, clip.threshold)
        assert (clip.start_s, clip.parts) == (0.0, {})
    baseline.close()


def test_thresholds_of_networks_are_of_the_gamma_distribution_of_all_training_clips(
    works: dict[SystemName, Path], recordings: list[Recording]
) -> None:
    """One a machine type, as the official code has it, for each section and both domains."""
    trained = read_trained(works[SystemName.AUTOENCODER])
    scorer = make_scorer(trained.kind, trained.networks, trained.arrays)
    scores = [float(scorer.score(log_mels_of(one), one.key, one.domain)[0]) for one in recordings]
    threshold = gamma_threshold(scores)
    assert threshold is not None
    assert min(scores) < threshold
    assert set(trained.thresholds) == {(key, domain) for key in (FIRST, SECOND) for domain in Domain}
    assert list(trained.thresholds.values()) == pytest.approx([threshold] * 4, rel=1e-6)


def test_the_gamma_threshold_is_a_quantile_of_what_was_drawn() -> None:
    """Shape 3, scale 2, moved by 50: to a tenth of the spread of what was drawn; and exactly what scipy's fit gives."""
    drawn = 50.0 + 2.0 * np.random.default_rng(1).gamma(3.0, size=2000)
    threshold = gamma_threshold(drawn)
    assert threshold == pytest.approx(scipy.stats.gamma.ppf(0.9, 3.0, 50.0, 2.0), abs=0.1 * drawn.std())
    assert threshold == scipy.stats.gamma.ppf(0.9, *scipy.stats.gamma.fit(drawn))
    assert gamma_threshold([1.0, 2.0]) is None
    assert gamma_threshold([1.0] * 10) is None


def test_a_dozen_clips_do_not_leave_the_threshold_to_chance() -> None:
    """Scores that crowd at their lowest: scipy's search has no end, and another millionth of noise another result."""
    scores = np.array([15.19, 15.45, 15.62, 16.48, 16.51, 16.67, 17.41, 17.83, 18.42, 18.62, 19.14, 20.88, 21.54])
    noise = np.random.default_rng(0).normal(1.0, 1e-6, (6, 13))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fitted = [scipy.stats.gamma.fit(scores * factors) for factors in noise]
    assert np.ptp([scipy.stats.gamma.ppf(0.9, *one) for one in fitted]) > 0.1
    thresholds = [gamma_threshold(scores * factors) for factors in noise]
    assert thresholds == pytest.approx([15.19 + np.log(10.0) * (scores.mean() - 15.19)] * 6, rel=1e-5)


def test_a_baseline_says_what_it_lacks(works: dict[SystemName, Path], recordings: list[Recording]) -> None:
    """An unknown section; for the floor a target domain without target clips, where a network needs none."""
    floor, encoder = open_baseline(works[SystemName.FLOOR]), open_baseline(works[SystemName.AUTOENCODER])
    unknown, unadapted = replace(recordings[0], section="07"), replace(recordings[-1], section=SECOND.section)
    assert floor.lacks(unknown) == "the floor does not know the section, only 00, line-2"
    assert encoder.lacks(unknown) == "the autoencoder does not know the section, only 00, line-2"
    assert encoder.lacks(replace(unknown, machine_type="pump")) == (
        "the autoencoder does not know the machine type, only fan"
    )
    assert floor.lacks(unadapted) == "the floor has no target clips there"
    assert encoder.lacks(unadapted) is None
    assert [floor.lacks(one) for one in recordings] == [None] * len(recordings)


def test_clips_are_those_that_a_bundle_scores(works: dict[SystemName, Path], tmp_path: Path) -> None:
    """A challenge's 15 s recording whole, the mean over its windows; a plant's 25 s as two clips of ten."""
    floor, trained = open_baseline(works[SystemName.FLOOR]), read_trained(works[SystemName.FLOOR])
    scorer = make_scorer(trained.kind, trained.networks, trained.arrays)
    long = record(tmp_path, FIRST, 0, Domain.SOURCE, Split.TEST, seconds=15.0)
    (whole,) = score(floor, long)
    expected = scorer.score(log_mels_of(long), FIRST, Domain.SOURCE)
    assert len(expected) == 2
    assert whole.anomaly_score == pytest.approx(expected.mean())
    plants = record(tmp_path, FIRST, 0, Domain.SOURCE, Split.TEST, seconds=25.0, challenge=False)
    cut = score(floor, plants)
    assert [clip.start_s for clip in cut] == [0.0, 10.0]
    waveform = decode(plants.path).waveform
    for clip, start in zip(cut, (0, 160_000), strict=True):
        alone = scorer.score(log_mel(waveform[None, start : start + 160_000]), FIRST, Domain.SOURCE)
        assert clip.anomaly_score == pytest.approx(float(alone[0]))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(long.path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"broken\.wav cannot be scored: The clip is truncated"):
        score(floor, long, replace(long, path=broken))


def test_a_finished_folder_costs_nothing_and_belongs_to_its_run(
    works: dict[SystemName, Path], recordings: list[Recording]
) -> None:
    """Neither another kind nor another seed is trained into it."""
    work = works[SystemName.FLOOR]
    before = (work / "baseline.json").stat().st_mtime_ns
    train_baseline(BaselineRun.of(recordings, SystemName.FLOOR, 5, work), workers=1)
    assert (work / "baseline.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="another seed"):
        train_baseline(BaselineRun.of(recordings, SystemName.FLOOR, 6, work), workers=1)
    with pytest.raises(DataError, match="another baseline and another budget"):
        train_baseline(BaselineRun.of(recordings, SystemName.AUTOENCODER, 5, work), workers=1)


def test_baselines_that_differ_in_their_seed_alone_are_of_one_lineage(
    works: dict[SystemName, Path], recordings: list[Recording], tmp_path: Path
) -> None:
    train_baseline(BaselineRun.of(recordings, SystemName.FLOOR, 6, tmp_path / "seed"), workers=1)
    train_baseline(BaselineRun.of(recordings[1:], SystemName.FLOOR, 5, tmp_path / "data"), workers=1)
    lineages = [BaselineContender(work).lineage for work in (*works.values(), tmp_path / "seed", tmp_path / "data")]
    floor, encoder, seed, data = lineages
    assert floor == seed
    assert len({floor, encoder, data}) == 3


def test_a_folder_without_a_whole_baseline_is_refused_with_the_command(
    works: dict[SystemName, Path], tmp_path: Path
) -> None:
    """Nothing there, arrays that were altered, a document of another version."""
    command = shell_line(f"training baseline {'|'.join(BASELINES)} DATA... --work {tmp_path}")
    assert not is_finished(tmp_path)

    def refused(words: str) -> None:
        with pytest.raises(DataError) as error:
            open_baseline(tmp_path)
        assert str(error.value) == f"{tmp_path} {words}. Train one there: {command}"

    refused("holds no finished baseline")
    document, arrays = ((works[SystemName.FLOOR] / name).read_bytes() for name in ("baseline.json", "arrays.npz"))
    (tmp_path / "baseline.json").write_bytes(document)
    with pytest.raises(DataError, match=r"cannot be read .*arrays\.npz"):
        open_baseline(tmp_path)
    (tmp_path / "arrays.npz").write_bytes(arrays[:-1] + b"x")
    refused("holds a damaged baseline: arrays.npz is not what baseline.json names")
    (tmp_path / "arrays.npz").write_bytes(arrays)
    open_baseline(tmp_path)
    (tmp_path / "baseline.json").write_text(json.dumps({**json.loads(document), "format_version": 2}))
    refused("holds no baseline that this Earwitness reads (format_version: Input should be 1)")


def test_the_plan_says_what_is_told_apart(recordings: list[Recording], tmp_path: Path) -> None:
    """A machine type with one section is told from all others; time is estimated for each network."""
    pump = [replace(one, machine_type="pump") for one in recordings if one.key == FIRST and one.domain is Domain.SOURCE]
    run = BaselineRun.of([*recordings, *pump], SystemName.MOBILENETV2, 0, tmp_path / "work")
    plan = run.describe("a device")
    assert "network fan: 2 sections, 15 clips, 20 epochs of 4 steps" in plan
    assert "network _together: 3 sections, 21 clips" in plan
    assert "pump: a single section each has nothing to be told from" in plan
    assert "in all about" in plan
    assert not (tmp_path / "work").exists()


def test_the_command_plans_trains_and_refuses_in_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plant's one microphone: the floor is trained, a classifier of sections is not, and says what to do."""
    for number in range(3):
        record(tmp_path / "clips", FIRST, number, Domain.SOURCE, Split.TRAIN)
    manifest = tmp_path / "recordings.csv"
    names = [path.name for path in sorted((tmp_path / "clips").iterdir())]
    manifest.write_text("path\n" + "".join(f"clips/{name}\n" for name in names))
    data, work = [str(manifest), "--machine-type", "pump", "--section", "hall"], tmp_path / "work"
    assert main(["baseline", "floor", *data, "--work", str(work), "--dry-run"]) == 0
    assert "3 recordings of 1 section, 3 clips\nbaseline  floor, seed 0" in capsys.readouterr().out
    assert not work.exists()
    assert main(["baseline", "mobilenetv2", *data, "--work", str(work)]) == 2
    assert "All training recordings are of one section, pump hall" in capsys.readouterr().err
    assert not work.exists()
    assert main(["baseline", "floor", *data, "--work", str(work), "--workers", "1"]) == 0
    assert f"{work}: floor finished." in capsys.readouterr().out
    assert read_trained(work).thresholds.keys() == {(SectionKey("pump", "hall"), Domain.SOURCE)}
