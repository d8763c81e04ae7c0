"""The recipe `plant` end to end on generated machines: trained, served, adapted, explained, extended."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, read_bundle, section_path, write_bundle
from models.compact import CompactSection
from models.detector import Detector
from models.encoder import Device
from models.errors import BundleDigestError, BundleError, NotTrainable
from models.explanation import ChangeKind
from models.systems import Features
from models.vocabulary import Domain, SectionKey, Split, SubSystem, ThresholdRule, WarningCode
from tests.service.servers import Server
from tests.studies import target_clips
from training.extend import extend
from training.metrics import auc
from training.pipeline import train
from training.recipe import RECIPES, Recipe
from training.recordings import Recording, read_recordings
from training.run import Run
from training.synthetic import synthesize

PUMP, OTHER, FAN = SectionKey("pump", "00"), SectionKey("pump", "01"), SectionKey("fan", "00")


def quick_plant(**changes: object) -> Recipe:
    """The recipe with few steps: these machines are easily told apart."""
    return replace(RECIPES["plant"], epochs=4, least_steps=0, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Two pumps and a fan, which has no sibling; fifteen source clips each, and three of the target domain."""
    folder = tmp_path_factory.mktemp("plant") / "made"
    synthesize(
        folder, seed=3, machine_types=["fan", "pump"], sections=2, train_clips=15, test_clips=5, advance=lambda _: None
    )
    return [one for one in read_recordings([folder]) if one.key != SectionKey("fan", "01")]


@pytest.fixture(scope="module")
def folder(recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of A and L, by both dealings."""
    made = tmp_path_factory.mktemp("bundle")
    train(Run.of(recordings, quick_plant(), 0, made / "work"), made / "bundle")
    return made / "bundle"


@pytest.fixture(scope="module")
def detector(folder: Path) -> Iterator[Detector]:
    with closing(Detector.load(folder, device=Device.CPU)) as loaded:
        loaded.check_canary()
        yield loaded


def section(bundle: Bundle, key: SectionKey) -> CompactSection:
    model = bundle.sections[key]
    assert isinstance(model, CompactSection)
    return model


def for_testing(recordings: list[Recording], key: SectionKey, domain: Domain) -> list[Recording]:
    return [one for one in recordings if (one.key, one.domain, one.split) == (key, domain, Split.TEST)]


def test_the_manifest_says_what_serves(detector: Detector) -> None:
    manifest = detector.bundle.manifest
    assert manifest.systems == ("statistics_networks", "dynamics")
    assert manifest.fusion == "p_values"
    assert sorted(path for path in manifest.files if path.startswith("statistics_networks/")) == sorted(
        f"statistics_networks/{kind}-{fold}.onnx" for kind in "AL" for fold in range(5)
    )
    assert section(detector.bundle, PUMP).counted == (SubSystem.A, SubSystem.L)
    assert section(detector.bundle, FAN).counted == (SubSystem.A, SubSystem.L, SubSystem.F), "it has no sibling"
    calibration = detector.calibrations[PUMP, Domain.SOURCE]
    assert (calibration.rule, len(calibration.scores)) == (ThresholdRule.CONDITIONS, 15)


@pytest.mark.parametrize("key", [PUMP, OTHER, FAN])
def test_faults_are_told_from_normal_sound(detector: Detector, recordings: list[Recording], key: SectionKey) -> None:
    for domain in Domain:
        scores: dict[str, list[float]] = {"normal": [], "anomaly": []}
        for one in for_testing(recordings, key, domain):
            answer = detector.score(detector.decode(one.path), key.machine_type, key.section, domain)
            scores[str(one.condition)].append(answer.anomaly_score)
        area = auc(np.array(scores["normal"]), np.array(scores["anomaly"]))
        assert area is not None
        assert area > 0.75


def test_a_score_is_made_of_its_terms(detector: Detector, recordings: list[Recording]) -> None:
    """Beside a sibling the mean of the networks; alone the dynamics are added. Its p-value counts the calibration."""
    (one, *_), (alone, *_) = (for_testing(recordings, key, Domain.SOURCE) for key in (PUMP, FAN))
    answer = detector.score(detector.decode(one.path), "pump", "00", Domain.SOURCE)
    terms = answer.systems["statistics_networks"].terms
    assert answer.decision_score == answer.anomaly_score
    assert answer.decision_score == pytest.approx(np.mean([terms["A"], terms["L"]]))
    assert set(answer.systems) == {"statistics_networks"}
    calibration = detector.calibrations[PUMP, Domain.SOURCE].scores
    assert answer.p_value == pytest.approx((1 + (calibration >= answer.decision_score).sum()) / 16)
    answer = detector.score(detector.decode(alone.path), "fan", "00", Domain.SOURCE)
    networks, dynamics = answer.systems["statistics_networks"], answer.systems["dynamics"]
    assert answer.decision_score == pytest.approx(networks.score + dynamics.score)
    assert dynamics.p_value == pytest.approx(np.exp(-dynamics.score))


def test_a_target_threshold_is_its_clips_mean_and_the_source_s_offsets(detector: Detector) -> None:
    """n of the source stand behind it, and the warning names the three target clips."""
    source, target = (detector.calibrations[PUMP, domain] for domain in Domain)
    np.testing.assert_allclose(np.diff(target.scores), np.diff(source.scores), atol=1e-9)
    rank = min(15, int(np.ceil(0.9 * 16)))
    assert target.threshold == target.scores[rank - 1]


def test_registered_clips_are_what_target_clips_are_compared_with(
    detector: Detector, recordings: list[Recording]
) -> None:
    """Of the test clips three are registered: they score at once, a copy of one of them lowest of all."""
    clips = [detector.decode(one.path) for one in for_testing(recordings, PUMP, Domain.TARGET)[:3]]
    features = Features.joined([detector.analyse(clip) for clip in clips])
    embeddings = detector.encode(detector.inputs(features), "pump")
    target = detector.fit_target(PUMP, features, embeddings, [clip.level_dbfs for clip in clips])
    own = [detector.score(clip, "pump", "00", Domain.TARGET, target=target) for clip in clips]
    assert max(answer.anomaly_score for answer in own) < target.calibration.scores[0]
    assert target.calibration.rule is ThresholdRule.CONDITIONS
    (warning,) = [one for one in own[0].warnings if one.code is WarningCode.FEW_CALIBRATION_CLIPS]
    assert warning.detail.startswith("3 clips of the target domain")
    assert "register about 20" in warning.detail


def test_the_study_of_target_clips_judges_real_and_made_domains(
    detector: Detector, recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line before and one after where there are target clips; else, of a made microphone, by rule and number."""
    monkeypatch.setattr(target_clips, "NUMBERS", (3, 4))
    monkeypatch.setattr(target_clips, "LEAST_SOURCE_CLIPS", 4)
    given = [one for one in recordings if one.key == PUMP or (one.key == OTHER and one.domain is Domain.SOURCE)]
    lines = list(target_clips.study(detector, given, tmp_path, draws=2))
    assert [line[:3] for line in lines] == [
        ("pump 00", "-", "before"),
        ("pump 00", "3", "registered"),
        ("pump 01", "-", "before"),
        ("pump 01", "3", "registered"),
        ("pump 01", "4", "ranks"),
        ("pump 01", "4", "registered"),
    ]
    assert len(list((tmp_path / "test").iterdir())) == 10
    assert all("(" in cell for cell in lines[-1][3:]), "a range over the draws"


def test_a_false_alarm_rate_moves_the_threshold_without_training(folder: Path, recordings: list[Recording]) -> None:
    """One that fifteen clips cannot support is said, with the least they can."""
    rates = {PUMP: 0.3, OTHER: 0.01, FAN: 0.1}
    with closing(Detector.load(folder, device=Device.CPU, false_alarm_rate=rates.__getitem__)) as detector:
        scores = detector.bundle.calibrations[PUMP, Domain.SOURCE].calibration.scores
        assert detector.calibrations[PUMP, Domain.SOURCE].threshold == pytest.approx(np.percentile(scores, 70))
        other = detector.calibrations[OTHER, Domain.SOURCE]
        assert other.threshold == pytest.approx(np.percentile(other.scores, 99))
        noise = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
        clip = replace(detector.decode(recordings[0].path), waveform=noise)
        said = {one.code: one.detail for one in detector.score(clip, "pump", "01", Domain.SOURCE).warnings}
        assert "0.01 was asked for; 15 calibration clips can promise 0.062" in said[WarningCode.RATE_NOT_SUPPORTED]


def test_what_is_written_is_read_and_no_byte_may_change(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    copy = write_bundle(tmp_path / "copy", replace(bundle, folder=None))
    assert copy.id == bundle.id
    network = tmp_path / "copy" / "statistics_networks" / "L-3.onnx"
    network.chmod(0o644)
    content = bytearray(network.read_bytes())
    content[1000] ^= 1
    network.write_bytes(content)
    with pytest.raises(BundleDigestError, match=r"L-3\.onnx"):
        read_bundle(tmp_path / "copy")


def test_the_service_gives_the_detector_s_answers(
    folder: Path, detector: Detector, recordings: list[Recording], tmp_path: Path
) -> None:
    """Offline and over HTTP the same score and decision, in both domains; an alarm comes with its reason."""
    with Server(folder, tmp_path / "db" / "targets.db", tmp_path / "log") as server:
        for domain in Domain:
            for one in for_testing(recordings, FAN, domain):
                form = {"machine_type": "fan", "section": "00", "domain": domain.value, "explain": "true"}
                answer = server.client.post("/score", data=form, files={"audio": one.path.read_bytes()})
                assert answer.status_code == 200, answer.text
                body = answer.json()
                offline = detector.score(detector.decode(one.path), "fan", "00", domain)
                assert body["decision_score"] == pytest.approx(offline.decision_score, rel=1e-4)
                assert body["decision"] == offline.decision
                assert body["explanation"]["changes"]


def test_an_explanation_points_at_a_change_of_known_band_and_rate(
    detector: Detector, recordings: list[Recording]
) -> None:
    """Noise between 3 and 4 kHz that pulsates 40 times a second, from the third second to the fifth."""
    clip = detector.decode(next(one.path for one in for_testing(recordings, FAN, Domain.SOURCE)))
    time_s = np.arange(160_000) / 16_000
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=160_000))
    hertz = np.fft.rfftfreq(160_000, 1 / 16_000)
    spectrum[(hertz < 3000) | (hertz > 4000)] = 0.0
    band = np.fft.irfft(spectrum, 160_000)
    pulses = 0.5 * (1 + np.sin(2 * np.pi * 40 * time_s)) * ((time_s > 3) & (time_s < 5))
    level = np.sqrt(np.mean(clip.waveform.astype(float) ** 2))
    changed = replace(clip, waveform=(clip.waveform + 3 * level * band / band.std() * pulses).astype(np.float32))
    features = detector.analyse(changed)
    embeddings = detector.encode(detector.inputs(features), "fan")
    scores = detector.rate(FAN, Domain.SOURCE, features, embeddings)
    found = detector.explain(FAN, Domain.SOURCE, changed, features, scores)
    assert all(2700 < band.low_hz < band.high_hz < 4400 for band in found.bands), "each of them within the noise"
    assert max(band.high_hz for band in found.bands) - min(band.low_hz for band in found.bands) > 400
    assert found.times[0].start_s == pytest.approx(3.0, abs=0.2)
    assert found.times[0].end_s == pytest.approx(5.0, abs=0.2)
    assert found.bands[0].deviation > 3
    assert found.times[0].deviation > 3
    modulations = [one for one in found.changes if one.kind is ChangeKind.MODULATION]
    assert modulations
    assert modulations[0].rate_hz == pytest.approx(40.0, rel=0.4)


def test_a_machine_is_added_without_training(folder: Path, recordings: list[Recording], tmp_path: Path) -> None:
    """A fan that the networks never heard: judged honestly, its dynamics count, and nothing else changes."""
    made = tmp_path / "made"
    synthesize(made, seed=9, machine_types=["fan"], sections=2, train_clips=12, test_clips=3, advance=lambda _: None)
    added = SectionKey("fan", "01")
    new = [one for one in read_recordings([made]) if one.key == added]
    done: list[int] = []
    extended = extend(folder, new, tmp_path / "out", tmp_path / "work", advance=done.append)
    assert sum(done) == 2 * 15
    for key in (PUMP, OTHER, FAN):
        path = section_path(key)
        assert (tmp_path / "out" / path).read_bytes() == (folder / path).read_bytes()
    assert section(extended, added).counted == (SubSystem.A, SubSystem.L, SubSystem.F)
    assert extended.manifest.training_data["extended"] == [{"sections": ["fan 01"], "clips": 15, "recordings": 15}]
    with closing(Detector.load(tmp_path / "out", device=Device.CPU)) as detector:
        detector.check_canary()
        assert len(detector.calibrations[added, Domain.SOURCE].scores) == 12
        for one in for_testing(new, added, Domain.SOURCE):
            detector.score(detector.decode(one.path), "fan", "01", Domain.SOURCE)
    with pytest.raises(BundleError, match="exists already"):
        extend(folder, new, tmp_path / "out", tmp_path / "work", advance=lambda _: None)
    with pytest.raises(NotTrainable, match="None of the"):
        extend(folder, [one for one in new if one.split is Split.TEST], tmp_path / "x", tmp_path / "w", advance=print)


def test_one_machine_alone_without_conditions_is_scored_by_its_dynamics(
    recordings: list[Recording], tmp_path: Path
) -> None:
    """No network has anything to tell apart: none is trained, and the bundle needs none."""
    alone = [replace(one, attribute="") for one in recordings if one.key == FAN and one.domain is Domain.SOURCE]
    run = Run.of(alone, quick_plant(), 0, tmp_path / "work")
    assert run.networks == ()
    train(run, tmp_path / "bundle")
    with closing(Detector.load(tmp_path / "bundle", device=Device.CPU)) as detector:
        detector.check_canary()
        assert detector.bundle.manifest.systems == ("dynamics",)
        answer = detector.score(detector.decode(alone[-1].path), "fan", "00", Domain.SOURCE)
        assert set(answer.systems) == {"dynamics"}
        assert answer.calibration_clips == 15
        assert str(detector.device.running) == "cpu"


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_a_handful_of_clips_trains_and_says_what_it_cannot(
    recordings: list[Recording], tmp_path: Path, clips: int
) -> None:
    """Under three source clips there is no threshold; the score still ranks."""
    own = [one for one in recordings if one.key == FAN and one.domain is Domain.SOURCE and one.split is Split.TRAIN]
    few = [replace(one, attribute="") for one in own[:clips]]
    train(Run.of(few, quick_plant(), 0, tmp_path / "work"), tmp_path / "bundle")
    with closing(Detector.load(tmp_path / "bundle", device=Device.CPU)) as detector:
        answer = detector.score(detector.decode(own[-1].path), "fan", "00", Domain.SOURCE)
        assert (answer.decision is None) == (clips < 3)
        assert (WarningCode.NO_THRESHOLD in {one.code for one in answer.warnings}) == (clips < 3)
        assert np.isfinite(answer.anomaly_score)
