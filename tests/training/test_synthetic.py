"""Generated recordings: the layout, the seeds, and faults that are what they claim to be."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import soundfile
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ, decode
from models.errors import DataError
from models.frontend import log_mel
from models.vocabulary import Condition, Domain, Split, check_name
from training.recordings import read_recordings
from training.synthetic import (
    MACHINE_TYPES,
    Fault,
    FaultKind,
    count_recordings,
    draw_fault,
    operating_conditions,
    render,
    synthesize,
)
from training.synthetic.machines import MACHINES

SHAPE = {"sections": 2, "train_clips": 4, "target_clips": 3, "test_clips": 2}
ADDITIVE = [FaultKind.BEARING, FaultKind.IMBALANCE, FaultKind.LEAK, FaultKind.LOOSENESS]


def ignore(_: int) -> None:
    """No bar."""


def clip(
    machine_type: str, *, section: str = "00", take: str = "one", fault: Fault | None = None
) -> NDArray[np.float32]:
    condition = operating_conditions(machine_type, section, Domain.SOURCE, seed=0)[0]
    return render(machine_type, section, Domain.SOURCE, condition, seed=0, take=take, fault=fault)


def drawn_fault(machine_type: str, kind: FaultKind) -> Fault:
    condition = operating_conditions(machine_type, "00", Domain.SOURCE, seed=0)[0]
    return draw_fault(machine_type, "00", condition, seed=0, take="one", kind=kind)


def power_by_hz(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Power of each bin of 0.1 Hz, (80001,)."""
    power: NDArray[np.float64] = np.abs(scipy.fft.rfft(waveform.astype(np.float64))) ** 2
    return power


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    done: list[int] = []
    synthesize(folder, seed=3, machine_types=["fan", "valve"], advance=done.append, **SHAPE)
    assert sum(done) == count_recordings(machine_types=["fan", "valve"], **SHAPE) == 2 * 2 * (4 + 3 + 8)
    return folder


def test_tree_is_one_of_dcase_2021(tree: Path) -> None:
    """The project's own reader finds every recording in its place, training ones with their attribute."""
    recordings = read_recordings([tree])
    assert len(recordings) == count_recordings(machine_types=["fan", "valve"], **SHAPE)
    for recording in recordings:
        assert recording.challenge
        if recording.split is Split.TRAIN:
            assert recording.condition is Condition.NORMAL
            assert check_name("attribute", recording.attribute)
        else:
            assert recording.attribute == ""
            assert recording.path.parent.name == f"{recording.domain}_test"
    trained = [recording for recording in recordings if recording.split is Split.TRAIN]
    for key in {recording.key for recording in recordings}:
        attributes = {domain: {r.attribute for r in trained if (r.key, r.domain) == (key, domain)} for domain in Domain}
        assert len(attributes[Domain.SOURCE]) == 4
        assert len(attributes[Domain.TARGET]) == 1
        assert not attributes[Domain.SOURCE] & attributes[Domain.TARGET]


def test_files_are_sixteen_bit_mono_at_16_khz_and_not_clipped(tree: Path) -> None:
    levels = []
    for recording in read_recordings([tree]):
        info = soundfile.info(recording.path)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (
            SAMPLE_RATE_HZ,
            1,
            CLIP_SAMPLES,
            "PCM_16",
        )
        decoded = decode(recording.path)
        assert decoded.clipped_share == 0.0
        levels.append(decoded.level_dbfs)
    assert -45.0 < min(levels) < max(levels) < -20.0


def test_truth_names_every_anomaly(tree: Path) -> None:
    for machine_type in ("fan", "valve"):
        with (tree / "faults" / f"{machine_type}.csv").open() as file:
            rows = list(csv.DictReader(file))
        anomalous = [
            recording.path
            for recording in read_recordings([tree])
            if recording.machine_type == machine_type and recording.condition is Condition.ANOMALY
        ]
        assert {(tree / row["path"]).absolute() for row in rows} == set(anomalous)
        assert {FaultKind(row["kind"]) for row in rows} <= set(MACHINES[machine_type].faults)


def test_a_recording_is_the_same_whatever_else_is_made(tree: Path, tmp_path: Path) -> None:
    synthesize(
        tmp_path, seed=3, machine_types=["fan"], sections=1, train_clips=2, target_clips=1, test_clips=1, advance=ignore
    )
    made = sorted((tmp_path / "dev_data").rglob("*.wav"))
    assert len(made) == 2 + 1 + 4
    for path in made:
        assert path.read_bytes() == (tree / path.relative_to(tmp_path)).read_bytes()


def test_another_seed_is_another_machine(tree: Path, tmp_path: Path) -> None:
    synthesize(
        tmp_path, seed=4, machine_types=["fan"], sections=1, train_clips=1, target_clips=0, test_clips=0, advance=ignore
    )
    (made,) = (tmp_path / "dev_data").rglob("*.wav")
    theirs = next(tree.rglob(f"fan/train/{made.name.split('_rpm')[0]}*"))
    assert made.read_bytes() != theirs.read_bytes()


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_recordings_of_a_section_vary_about_the_same_sound(machine_type: str) -> None:
    """Two takes differ in every sample but hardly in their bands; another section and the target domain differ more."""
    takes = [log_mel(clip(machine_type, take=str(i))).mean(axis=0) for i in range(4)]
    other = log_mel(clip(machine_type, section="01")).mean(axis=0)
    target = operating_conditions(machine_type, "00", Domain.TARGET, seed=0)[0]
    shifted = log_mel(render(machine_type, "00", Domain.TARGET, target, seed=0, take="0")).mean(axis=0)
    near = max(float(np.abs(before - after).mean()) for before, after in pairwise(takes))
    assert 0.1 < near < 3.0
    assert np.abs(takes[0] - other).mean() > 1.5 * near
    assert np.abs(takes[0] - shifted).mean() > 1.5 * near
    one, two = (clip(machine_type, take=str(i)) for i in range(2))
    assert abs(float(one @ two)) < 0.5 * float(np.linalg.norm(one) * np.linalg.norm(two))


@pytest.mark.parametrize(
    ("machine_type", "kind"), [(name, kind) for name in MACHINE_TYPES for kind in MACHINES[name].faults]
)
def test_fault_changes_its_band_and_time_only(machine_type: str, kind: FaultKind) -> None:
    """Against the same clip without it; slipping moves the tones too, so there only the squeal's rise is asked for."""
    fault = drawn_fault(machine_type, kind)
    fault = Fault(kind, fault.low_hz, fault.high_hz, fault.rate_hz, 3.0, 8.5, fault.level_db)
    healthy, faulty = clip(machine_type), clip(machine_type, fault=fault)
    hz = np.arange(CLIP_SAMPLES // 2 + 1) / 10.0
    inside = (hz > 0.85 * fault.low_hz) & (hz < 1.15 * fault.high_hz)
    if kind is FaultKind.SLIPPING:
        assert power_by_hz(faulty)[inside].sum() > 1.1 * power_by_hz(healthy)[inside].sum()
        return
    change = faulty - healthy
    spectrum = power_by_hz(change)
    assert spectrum[inside].sum() > 0.9 * spectrum.sum()
    lasting = slice(3 * SAMPLE_RATE_HZ, round(9.0 * SAMPLE_RATE_HZ))  # the room rings on for a moment
    assert np.square(change[lasting]).sum() > 0.95 * np.square(change).sum()


@pytest.mark.parametrize("kind", ADDITIVE)
def test_fault_has_its_level(kind: FaultKind) -> None:
    """At 6 dB the fault's sound has four times the power that the healthy clip has in the fault's band."""
    machine_type = "pump" if kind is FaultKind.LEAK else "fan"  # no strong tone lies at the edge of the band
    drawn = drawn_fault(machine_type, kind)
    fault = Fault(kind, drawn.low_hz, drawn.high_hz, drawn.rate_hz, level_db=6.0)
    healthy = clip(machine_type)
    hz = np.arange(CLIP_SAMPLES // 2 + 1) / 10.0
    inside = (hz > 0.95 * fault.low_hz) & (hz < 1.05 * fault.high_hz)
    ratio = power_by_hz(clip(machine_type, fault=fault) - healthy)[inside].sum() / power_by_hz(healthy)[inside].sum()
    assert 10 * np.log10(ratio) == pytest.approx(6.0, abs=1.5)  # the band's edges are soft


def test_bearing_is_struck_at_its_defect_frequency() -> None:
    """The envelope of the fault's sound has a line at ``rate_hz``, and its strongest there or at a small multiple."""
    drawn = drawn_fault("fan", FaultKind.BEARING)
    fault = Fault(FaultKind.BEARING, drawn.low_hz, drawn.high_hz, drawn.rate_hz, level_db=6.0)
    envelope = np.abs(clip("fan", fault=fault) - clip("fan"))
    lines = power_by_hz(envelope - envelope.mean())
    rate = round(10 * fault.rate_hz)
    assert lines[rate - 10 : rate + 11].max() > 30 * np.median(lines[10:4000])
    strongest_hz = (10 + lines[10:4000].argmax()) / 10.0
    multiple = strongest_hz / fault.rate_hz
    assert round(multiple) in {1, 2, 3}
    assert multiple == pytest.approx(round(multiple), rel=0.01)


def test_clogging_surges_at_its_rate() -> None:
    fault = Fault(FaultKind.CLOGGING, 200.0, 3000.0, 1.5, level_db=-6.0)
    healthy, faulty = (
        np.square(clip("fan", fault=one)).reshape(1000, -1).mean(axis=1) for one in (None, fault)
    )  # power a hundredth of a second
    lines = np.abs(np.fft.rfft(faulty / faulty.mean() - healthy / healthy.mean()))
    assert (5 + lines[5:40].argmax()) / 10.0 == pytest.approx(fault.rate_hz, abs=0.1)


def test_faults_are_detectable_and_not_absurd(tmp_path: Path) -> None:
    """Nearest neighbours of mean log-mels hear most faults, but not as if they were another machine."""
    synthesize(
        tmp_path,
        seed=0,
        machine_types=["pump"],
        sections=1,
        train_clips=16,
        target_clips=0,
        test_clips=12,
        advance=ignore,
    )
    means = {
        recording: log_mel(decode(recording.path).waveform).mean(axis=0)
        for recording in read_recordings([tmp_path])
        if recording.domain is Domain.SOURCE
    }
    normal = np.array([mean for recording, mean in means.items() if recording.split is Split.TRAIN])
    tested = {recording: mean for recording, mean in means.items() if recording.split is Split.TEST}
    distances = [np.sqrt(((normal - mean) ** 2).mean(axis=1)).min() for mean in tested.values()]
    truth = [recording.condition is Condition.ANOMALY for recording in tested]
    assert 0.6 < roc_auc_score(truth, distances) <= 1.0
    assert max(distances) < 10.0


def test_unknown_machine_type_is_refused_with_the_known() -> None:
    with pytest.raises(DataError, match=r"'lathe' cannot be generated.*ToyCar, ToyTrain, fan, gearbox"):
        operating_conditions("lathe", "00", Domain.SOURCE, seed=0)


def test_nothing_is_written_over(tree: Path, tmp_path: Path) -> None:
    """A folder that holds a machine type keeps it; another one joins it."""
    with pytest.raises(DataError, match="fan exists already"):
        synthesize(tree, seed=9, machine_types=["pump", "fan"], advance=ignore, **SHAPE)
    assert not (tree / "dev_data" / "pump").exists()


def test_impossible_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 sections"):
        synthesize(tmp_path, seed=0, machine_types=None, sections=0, train_clips=1, test_clips=1, advance=ignore)
