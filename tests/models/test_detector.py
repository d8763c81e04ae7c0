"""The detector: the paper's scores of a clip, its decision, and what it warns of."""

import io
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import numpy_helper

from models.audio import windows
from models.bundle import Bundle, SectionCalibration, write_bundle
from models.decision import Calibration, p_value
from models.detector import Detector
from models.encoder import Device
from models.errors import (
    BundleError,
    BundleFormatError,
    CanaryError,
    NoTargetClips,
    TargetClipsError,
    UnknownMachineType,
    UnknownSection,
)
from models.frontend import log_mel
from models.manifest import MachineTypeEntry
from models.mixtures import Mixture, clip_mixture
from models.references import References, refer_to
from models.scoring import MemberModel, Normality, SectionModel, section_and_attribute_terms
from models.systems import Features, TargetModel, joined, places
from models.vocabulary import Decision, Domain, SectionKey, SubSystem, ThresholdRule, WarningCode
from tests.models.tiny import (
    DEVIATION,
    FAN,
    MEAN,
    N_CLIPS,
    VALVE,
    as_clip,
    build_bundle,
    embedder,
    mixtures_of,
    sound,
    with_canary,
)


def codes(detector: Detector, waveform: NDArray[np.float32], **facts: float) -> list[str]:
    answer = detector.score(as_clip(waveform, **facts), "fan", "00", Domain.SOURCE)
    assert all(len(notice.detail) > 20 for notice in answer.warnings)
    return [notice.code.value for notice in answer.warnings]


def registered(detector: Detector, n_clips: int, seed: int = 500) -> TargetModel:
    clips = [as_clip(sound(FAN, seed + i, domain=Domain.TARGET)) for i in range(n_clips)]
    features = Features.joined([detector.analyse(clip) for clip in clips])
    embeddings = detector.encode(detector.inputs(features), "fan")
    return detector.fit_target(FAN, features, embeddings, [clip.level_dbfs for clip in clips])


def mixtures_in(target: TargetModel) -> list[Mixture]:
    assert isinstance(target.reference, tuple)
    return [one for one in target.reference if isinstance(one, Mixture)]


def references_in(target: TargetModel) -> list[References]:
    assert isinstance(target.reference, tuple)
    return [one for one in target.reference if isinstance(one, References)]


def with_calibration(bundle: Bundle, calibration: Calibration) -> Bundle:
    name = (FAN, Domain.SOURCE)
    calibrations: Mapping[tuple[SectionKey, Domain], SectionCalibration] = {
        **bundle.calibrations,
        name: replace(bundle.calibrations[name], calibration=calibration),
    }
    return replace(bundle, calibrations=calibrations)


def test_sections_are_found_by_their_names(detector: Detector) -> None:
    assert detector.sections == (FAN, VALVE)
    assert detector.find("valve", "line-3.b") == VALVE


def test_unknown_names_are_refused_with_the_known(detector: Detector) -> None:
    with pytest.raises(UnknownMachineType) as refusal:
        detector.find("pump", "00")
    assert refusal.value.known == ("fan", "valve")
    with pytest.raises(UnknownSection) as other:
        detector.score(as_clip(sound(FAN, 1)), "fan", "../../etc", Domain.SOURCE)
    assert other.value.known == ("00",)


def best_of(mixtures: Sequence[Normality | None], x: NDArray[np.float32]) -> float:
    """-max_k of each member's mixture for one clip, summed over the members."""
    return -sum(
        float(mixture.weighted_log_likelihoods(x[:1, place]).max())
        for place, mixture in enumerate(mixtures)
        if isinstance(mixture, Mixture)
    )


def test_a_source_score_is_eq_2(detector: Detector) -> None:
    """Section and attribute term, each summed over the members, recomputed from the mixtures."""
    waveform = sound(FAN, 50)
    answer = detector.score(as_clip(waveform), "fan", "00", Domain.SOURCE)
    x = detector.encode({SubSystem.R: log_mel(waveform[None])}, "fan")[SubSystem.R]
    members = mixtures_of(detector.bundle, FAN).members
    section = best_of([member.section for member in members], x)
    attribute = sum(
        min(-mixture.weighted_log_likelihoods(x[:, i]).max() for mixture in member.attributes.values())
        for i, member in enumerate(members)
    )
    system = answer.systems["adacos_resnet"]
    assert system.terms == {
        "section": pytest.approx(section, rel=1e-6),
        "attribute": pytest.approx(attribute, rel=1e-6),
        "target": None,
        "temporal_maximum": None,
    }
    assert answer.anomaly_score == answer.decision_score == system.score == pytest.approx(section + attribute, rel=1e-6)
    calibration = detector.bundle.calibrations[FAN, Domain.SOURCE].calibration
    assert (answer.threshold, answer.threshold_rule) == (calibration.threshold, ThresholdRule.PAPER)
    assert answer.p_value == system.p_value == p_value(answer.decision_score, calibration.scores)
    assert answer.calibration_clips == N_CLIPS
    assert (answer.machine_type, answer.section, answer.domain) == ("fan", "00", Domain.SOURCE)
    assert answer.window_scores is None
    assert answer.clip.windows == 1


def test_a_target_score_is_eq_3_and_its_first_term_decides(detector: Detector) -> None:
    waveform = sound(FAN, 50, domain=Domain.TARGET)
    answer = detector.score(as_clip(waveform), "fan", "00", Domain.TARGET)
    x = detector.encode({SubSystem.R: log_mel(waveform[None])}, "fan")[SubSystem.R]
    members = mixtures_of(detector.bundle, FAN).members
    first = best_of([member.section for member in members], x)
    second = best_of([member.target for member in members], x)
    terms = answer.systems["adacos_resnet"].terms
    assert answer.decision_score == terms["section"] == pytest.approx(first, rel=1e-6)
    assert terms["target"] == pytest.approx(second, rel=1e-6)
    assert terms["attribute"] is None
    assert answer.anomaly_score == pytest.approx(first + second, rel=1e-6)
    calibration = detector.bundle.calibrations[FAN, Domain.TARGET].calibration
    assert answer.threshold == calibration.threshold
    assert answer.p_value == p_value(answer.decision_score, calibration.scores)


def test_a_valve_has_the_temporal_maximum_term(detector: Detector) -> None:
    """Eq. (4), of the standardised maxima; one member, so once."""
    waveform = sound(VALVE, 50)
    terms = detector.score(as_clip(waveform), "valve", "line-3.b", Domain.SOURCE).systems["adacos_resnet"].terms
    gaussians = mixtures_of(detector.bundle, VALVE).temporal_maximum
    assert gaussians is not None
    t_max = (log_mel(waveform[None]).max(axis=1) - MEAN) / DEVIATION
    expected = -gaussians["noAttribute"].weighted_log_likelihoods(t_max).max()
    assert terms["temporal_maximum"] == pytest.approx(expected, rel=1e-6)


def test_normal_sound_is_normal_and_another_machine_is_not(detector: Detector) -> None:
    normal = detector.score(as_clip(sound(FAN, 0)), "fan", "00", Domain.SOURCE)
    strange = detector.score(as_clip(sound(VALVE, 50)), "fan", "00", Domain.SOURCE)
    assert (normal.decision, strange.decision) == (Decision.NORMAL, Decision.ANOMALOUS)
    assert strange.p_value == 1 / (N_CLIPS + 1)
    assert strange.deviation is not None
    assert normal.deviation is not None
    assert strange.deviation > normal.deviation


@pytest.mark.parametrize("domain", Domain)
def test_a_long_clip_has_the_mean_of_its_windows(detector: Detector, domain: Domain) -> None:
    """23 s: windows at 0, 5, 10 and 13 s, each scored as a clip of its own would be."""
    waveform = np.concatenate([sound(FAN, 60, seconds=12), sound(VALVE, 61, seconds=11)])
    answer = detector.score(as_clip(waveform), "fan", "00", domain)
    alone = [detector.score(as_clip(window), "fan", "00", domain) for window in windows(waveform)]
    assert answer.window_scores is not None
    assert [window.start_s for window in answer.window_scores] == [0.0, 5.0, 10.0, 13.0]
    scores = [one.decision_score for one in alone]
    assert [window.decision_score for window in answer.window_scores] == pytest.approx(scores, rel=1e-5)
    assert answer.decision_score == pytest.approx(np.mean(scores), rel=1e-5)
    assert answer.anomaly_score == pytest.approx(np.mean([one.anomaly_score for one in alone]), rel=1e-5)
    assert answer.clip.windows == 4
    terms = [term for term in answer.systems["adacos_resnet"].terms.values() if term is not None]
    assert sum(terms) == pytest.approx(answer.anomaly_score)


def test_no_target_clips_is_an_error_that_says_what_to_do(detector: Detector) -> None:
    assert detector.bundle_target(VALVE) is None
    with pytest.raises(NoTargetClips, match="Register three to fifty"):
        detector.score(as_clip(sound(VALVE, 1)), "valve", "line-3.b", Domain.TARGET)


def test_registered_target_clips_take_the_place_of_the_trained(detector: Detector) -> None:
    target = registered(detector, 5)
    clip = as_clip(sound(FAN, 503, domain=Domain.TARGET))
    trained = detector.score(clip, "fan", "00", Domain.TARGET)
    answer = detector.score(clip, "fan", "00", Domain.TARGET, target=target)
    assert answer.calibration_clips == 5
    assert answer.threshold == target.calibration.threshold
    assert trained.systems["adacos_resnet"].terms["target"] > answer.systems["adacos_resnet"].terms["target"]  # type: ignore[operator]
    assert trained.systems["adacos_resnet"].terms["section"] == answer.systems["adacos_resnet"].terms["section"]


def test_the_trained_clips_registered_give_the_trained_target(detector: Detector) -> None:
    """The same three clips, by training or by registration: the same mixtures and the same threshold."""
    trained = detector.bundle_target(FAN)
    assert trained is not None
    target = registered(detector, 3, seed=0)
    assert target.calibration.threshold == pytest.approx(trained.calibration.threshold, rel=1e-6)
    for one, other in zip(mixtures_in(target), mixtures_in(trained), strict=True):
        np.testing.assert_allclose(one.means, other.means, rtol=0, atol=1e-6)


def test_a_registered_threshold_is_the_papers(detector: Detector) -> None:
    """The 90th percentile of the first term over the registered clips (paper 2.6)."""
    clips = np.stack([sound(FAN, 700 + i, domain=Domain.TARGET) for i in range(4)])
    features = Features.joined([detector.analyse(as_clip(clip)) for clip in clips])
    embeddings = detector.encode(detector.inputs(features), "fan")
    target = detector.fit_target(FAN, features, embeddings, [-20.0, -30.0, -25.0, -22.0])
    x = embeddings[SubSystem.R]
    first = section_and_attribute_terms(mixtures_of(detector.bundle, FAN), x)[0].sum(axis=1)
    assert target.calibration.threshold == pytest.approx(np.percentile(first, 90), rel=1e-9)
    assert target.calibration.rule is ThresholdRule.PAPER
    assert target.lowest_level_dbfs == -30.0
    assert target.clips == 4
    np.testing.assert_array_equal(mixtures_in(target)[1].means, clip_mixture(x[:, 1]).means)


def test_a_bundle_of_references_is_served_like_any_other(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Written, read, scored and adapted: the nearest of the clips it was made of, and of those registered."""
    with closing(Detector(tiny_bundle, device=Device.CPU)) as detector:
        x, other = (
            detector.encode(
                {SubSystem.R: log_mel(np.stack([sound(key, i) for i in range(N_CLIPS)]))}, key.machine_type
            )[SubSystem.R]
            for key in (FAN, VALVE)
        )
    by_key = {FAN: x, VALVE: other}
    sections = {
        key: SectionModel(
            tuple(MemberModel(refer_to(own[:, i], neighbours=1), {}, None) for i in range(own.shape[1])), None
        )
        for key, own in by_key.items()
    }
    types = dict(tiny_bundle.manifest.machine_types)
    types["fan"] = without_target(types["fan"])
    manifest = tiny_bundle.manifest.model_copy(update={"machine_types": types, "target_smote": 4})
    calibrations = {name: one for name, one in tiny_bundle.calibrations.items() if name[1] is Domain.SOURCE}
    bundle = with_canary(replace(tiny_bundle, manifest=manifest, sections=sections, calibrations=calibrations))
    write_bundle(tmp_path / "bundle", bundle)
    with closing(Detector.load(tmp_path / "bundle", device=Device.CPU)) as detector:
        detector.check_canary()
        clip = as_clip(sound(FAN, 900, domain=Domain.TARGET))
        source = detector.score(clip, "fan", "00", Domain.SOURCE)
        again = detector.encode({SubSystem.R: log_mel(clip.waveform[None])}, "fan")[SubSystem.R][0]
        cosines = [1.0 - x[:, i].astype(float) @ again[i].astype(float) for i in range(2)]
        scales = [
            np.sort(1.0 - x[:, i].astype(float) @ x[:, i].T.astype(float), axis=1)[:, 1].clip(1e-6) for i in range(2)
        ]
        expected = sum(float((own / scale).min()) for own, scale in zip(cosines, scales, strict=True))
        assert source.anomaly_score == pytest.approx(expected, rel=1e-4)
        target = registered(detector, 3)
        assert [len(one.points) for one in references_in(target)] == [7, 7]
        adapted = detector.score(clip, "fan", "00", Domain.TARGET, target=target)
        assert adapted.anomaly_score < source.anomaly_score
        assert adapted.decision_score == pytest.approx(source.decision_score)


def without_target(entry: MachineTypeEntry) -> MachineTypeEntry:
    sections = {name: one.model_copy(update={"domains": (Domain.SOURCE,)}) for name, one in entry.sections.items()}
    return entry.model_copy(update={"sections": sections})


@pytest.mark.parametrize("n_clips", [0, 2, 51])
def test_three_to_fifty_target_clips_are_needed(detector: Detector, n_clips: int) -> None:
    with pytest.raises(TargetClipsError, match=f"{n_clips} target clips.*3 to 50"):
        detector.fit_target(FAN, detector.analyse(as_clip(sound(FAN, 1))), {}, [0.0] * n_clips)


def test_an_ordinary_clip_has_only_the_warning_about_few_clips(detector: Detector) -> None:
    assert codes(detector, sound(FAN, 50)) == ["few_calibration_clips"]


def test_a_clip_is_warned_of_for_what_it_is(detector: Detector) -> None:
    """Each limit from both sides."""
    few = ["few_calibration_clips"]
    waveform = sound(FAN, 50)
    assert codes(detector, waveform, level_dbfs=-29.9) == few
    assert codes(detector, waveform, level_dbfs=-30.1) == [*few, "level_below_normal"]
    assert codes(detector, waveform, clipped_share=0.001) == few
    assert codes(detector, waveform, clipped_share=0.0011) == [*few, "clipped"]
    assert codes(detector, waveform, sample_rate_hz=16_000) == few
    assert codes(detector, waveform, sample_rate_hz=8_000) == [*few, "rate_below_16_khz"]
    assert codes(detector, waveform[:-1]) == [*few, "repeated_to_10_s"]
    assert codes(detector, sound(FAN, 50, seconds=31)) == few


def test_the_level_of_registered_clips_is_the_normal_one(detector: Detector) -> None:
    clip = as_clip(sound(FAN, 50), level_dbfs=-40.0)
    target = replace(registered(detector, 3), lowest_level_dbfs=-38.0)
    for given, expected in ((target, False), (replace(target, lowest_level_dbfs=None), False), (None, True)):
        answer = detector.score(clip, "fan", "00", Domain.TARGET, target=given)
        warned = any(notice.code is WarningCode.LEVEL_BELOW_NORMAL for notice in answer.warnings)
        assert warned == expected


def test_without_calibration_nothing_is_decided(tiny_bundle: Bundle) -> None:
    """One source clip stands behind no threshold: a score, no decision, and a warning."""
    bundle = with_calibration(tiny_bundle, Calibration.from_scores([], ThresholdRule.HELD_OUT))
    answer = Detector(bundle, device=Device.CPU, threads=1).score(as_clip(sound(FAN, 50)), "fan", "00", Domain.SOURCE)
    assert (answer.decision, answer.threshold, answer.p_value, answer.deviation) == (None, None, None, None)
    assert answer.calibration_clips == 0
    assert answer.threshold_rule is ThresholdRule.HELD_OUT
    assert [notice.code.value for notice in answer.warnings] == ["no_threshold"]
    assert np.isfinite(answer.anomaly_score)


def test_thirty_clips_are_not_few(tiny_bundle: Bundle) -> None:
    for n_clips, expected in ((29, ["few_calibration_clips"]), (30, [])):
        calibration = Calibration.from_scores(np.arange(n_clips, dtype=np.float64), ThresholdRule.PAPER)
        detector = Detector(with_calibration(tiny_bundle, calibration), device=Device.CPU, threads=1)
        assert codes(detector, sound(FAN, 50)) == expected


def test_the_demonstration_bundle_says_so() -> None:
    detector = Detector(build_bundle(demonstration=True), device=Device.CPU, threads=1)
    assert codes(detector, sound(FAN, 50))[-1] == "demonstration_bundle"


def test_answers_do_not_depend_on_what_else_is_asked(detector: Detector) -> None:
    """Twelve threads at once, other clips, sections and domains: each answer as it is alone, to the last digit."""
    asked = [
        (as_clip(sound(FAN if i % 3 else VALVE, i, seconds=10 + i % 4 * 6)), *names)
        for i in range(24)
        for names in [("fan", "00", Domain.TARGET if i % 2 else Domain.SOURCE)]
    ]
    alone = [detector.score(*one) for one in asked]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda one: detector.score(*one), asked))
    assert together == alone


def test_clips_encoded_together_score_as_alone(detector: Detector) -> None:
    """As a batch of the service does it."""
    clips = [as_clip(sound(FAN, seed, seconds=seconds)) for seed, seconds in ((1, 10), (2, 25), (3, 4))]
    features = [detector.analyse(clip) for clip in clips]
    embeddings = detector.encode(joined([detector.inputs(one) for one in features]), "fan")
    scores = detector.rate(FAN, Domain.SOURCE, Features.joined(features), embeddings)
    rows = places([len(one.log_mels) for one in features])
    for clip, own in zip(clips, rows, strict=True):
        together = detector.assess(FAN, Domain.SOURCE, clip, scores.of(own))
        alone = detector.score(clip, "fan", "00", Domain.SOURCE)
        assert together.decision == alone.decision
        assert together.anomaly_score == pytest.approx(alone.anomaly_score, rel=1e-5)


def test_a_decoded_file_scores_as_its_waveform(detector: Detector) -> None:
    waveform = sound(FAN, 50)
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="FLOAT")
    found = detector.score(detector.decode(file.getvalue()), "fan", "00", Domain.SOURCE)
    assert found.anomaly_score == detector.score(as_clip(waveform), "fan", "00", Domain.SOURCE).anomaly_score


def test_the_channel_of_the_bundle_is_decoded(tiny_bundle: Bundle) -> None:
    front_end = tiny_bundle.manifest.front_end.model_copy(update={"channel": 1})
    bundle = replace(tiny_bundle, manifest=tiny_bundle.manifest.model_copy(update={"front_end": front_end}))
    file = io.BytesIO()
    right = sound(FAN, 2)
    soundfile.write(file, np.stack([sound(FAN, 1), right], axis=1), 16_000, format="WAV", subtype="FLOAT")
    clip = Detector(bundle, device=Device.CPU, threads=1).decode(file.getvalue())
    np.testing.assert_array_equal(clip.waveform, right)


def test_the_canary_is_reproduced(detector: Detector) -> None:
    """By the bundle read from disk, in another detector than the one that recorded it."""
    detector.check_canary()


@pytest.mark.parametrize(("relative", "refused"), [(5e-5, False), (2e-4, True), (np.nan, True)])
def test_a_canary_may_differ_by_1e_4(tiny_bundle: Bundle, relative: float, *, refused: bool) -> None:
    assert tiny_bundle.canary is not None
    expected = tiny_bundle.canary.expected * np.array([1.0, 1.0 + relative])
    bundle = replace(tiny_bundle, canary=replace(tiny_bundle.canary, expected=expected))
    detector = Detector(bundle, device=Device.CPU, threads=1)
    if refused:
        with pytest.raises(CanaryError, match=r"canary\.npz.*device=cpu"):
            detector.check_canary()
    else:
        detector.check_canary()


def test_a_swapped_network_is_noticed_by_the_canary(tiny_bundle: Bundle) -> None:
    first, second = tiny_bundle.embedders
    embedders = {first: tiny_bundle.embedders[second], second: tiny_bundle.embedders[first]}
    with pytest.raises(CanaryError):
        Detector(replace(tiny_bundle, embedders=embedders), device=Device.CPU, threads=1).check_canary()


def test_no_canary_is_no_check(tiny_bundle: Bundle) -> None:
    with pytest.raises(CanaryError, match="no canary"):
        Detector(replace(tiny_bundle, canary=None), device=Device.CPU, threads=1).check_canary()


def test_a_network_that_gives_nan_decides_nothing(tiny_bundle: Bundle) -> None:
    """A NaN would compare as normal for ever."""
    first, second = tiny_bundle.embedders
    model = onnx.load_from_string(embedder(2))
    weights = next(value for value in model.graph.initializer if value.name == "second")
    weights.CopyFrom(numpy_helper.from_array(np.full((64, 128), np.nan, np.float32), "second"))
    embedders = {first: tiny_bundle.embedders[first], second: model.SerializeToString()}
    detector = Detector(replace(tiny_bundle, embedders=embedders), device=Device.CPU, threads=1)
    with pytest.raises(BundleError, match="NaN or infinity"):
        detector.score(as_clip(sound(FAN, 50)), "fan", "00", Domain.SOURCE)


def test_a_network_that_cannot_be_loaded_is_named(tiny_bundle: Bundle) -> None:
    first, second = tiny_bundle.embedders
    bundle = replace(tiny_bundle, embedders={first: tiny_bundle.embedders[first], second: b"no network"})
    with pytest.raises(BundleFormatError, match=rf"embedders/{second}"):
        Detector(bundle, device=Device.CPU, threads=1)


@pytest.mark.parametrize("change", [{"systems": ("oracle",)}, {"fusion": "fisher"}])
def test_a_system_of_a_later_release_is_refused(tiny_bundle: Bundle, change: dict[str, object]) -> None:
    bundle = replace(tiny_bundle, manifest=tiny_bundle.manifest.model_copy(update=change))
    with pytest.raises(BundleFormatError, match=r"manifest\.json.*Use a later release"):
        Detector(bundle, device=Device.CPU, threads=1)


SERVING = """
import sys
from pathlib import Path
import models.detector
heavy = {"sklearn", "onnxruntime", "tensorflow", "keras", "scipy.stats", "onnx"} & set(sys.modules)
assert not heavy, heavy
from models.detector import Detector
from models.encoder import Device
from models.systems import Features
from models.vocabulary import Domain
detector = Detector.load(Path(sys.argv[1]), device=Device.CPU)
detector.check_canary()
canary = detector.bundle.canary
clip = detector.decode(Path(sys.argv[2]))
for domain in Domain:
    detector.score(clip, "fan", "00", domain)
features = Features.joined([detector.analyse(clip)] * 3)
embeddings = detector.encode(detector.inputs(features), "fan")
detector.fit_target(canary.key, features, embeddings, [clip.level_dbfs] * 3)
heavy = {"sklearn", "tensorflow", "keras", "onnx", "training", "service"} & set(sys.modules)
assert not heavy, heavy
"""


def test_serving_needs_no_scikit_learn(bundle_folder: Path, tmp_path: Path) -> None:
    """Nor anything else of training; importing the detector alone does not even load onnxruntime."""
    soundfile.write(tmp_path / "clip.wav", sound(FAN, 50), 16_000)
    command = [sys.executable, "-W", "error", "-c", SERVING, str(bundle_folder), str(tmp_path / "clip.wav")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
