"""Evaluation of a tiny but real bundle on real files: its figures are those of the detector's own answers."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.assessment import Assessment
from models.bundle import write_bundle
from models.detector import Detector
from models.encoder import Device
from models.errors import DataError
from models.vocabulary import Condition, Decision, Domain, SectionKey, Split
from tests.models.tiny import FAN, VALVE, build_bundle, sound, with_canary
from training import evaluate as evaluating
from training.metrics import rate_interval
from training.recordings import Recording
from training.scored import PartKind, Scored
from training.tables import Evaluation, Row

ROW_FIELDS = [
    "system",
    "bundle",
    "recipe",
    "seed",
    "machine_type",
    "section",
    "domain",
    "auc",
    "auc_interval",
    "pauc",
    "pauc_interval",
    "normal",
    "anomalous",
    "false_alarm_rate",
    "hit_rate",
]
"""The contract of ``--json``."""
NORMAL, ANOMALOUS = 6, 5


def ignore(_: int) -> None:
    """No bar."""


def recording(path: Path, key: SectionKey, domain: Domain, condition: Condition | None, **other: bool) -> Recording:
    return Recording(
        path=path,
        machine_type=key.machine_type,
        section=key.section,
        domain=domain,
        split=Split.TEST,
        condition=condition,
        attribute="",
        recording=path.as_posix(),
        challenge=other.get("challenge", True),
    )


def write(folder: Path, name: str, waveform: NDArray[np.float32]) -> Path:
    path = folder / name
    soundfile.write(path, waveform, 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(folder, with_canary(build_bundle()))
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Normal test clips and ones with a rattle, weak in some, of all the bundle's sections and domains."""
    folder = tmp_path_factory.mktemp("recordings")
    made = []
    for key, domain in ((FAN, Domain.SOURCE), (FAN, Domain.TARGET), (VALVE, Domain.SOURCE)):
        for condition, count in ((Condition.NORMAL, NORMAL), (Condition.ANOMALY, ANOMALOUS)):
            for number in range(count):
                waveform = sound(key, 50 + number + 20 * (condition is Condition.ANOMALY), domain=domain)
                if condition is Condition.ANOMALY:
                    rattle = np.random.default_rng(number).normal(0, 0.002 * 2**number, len(waveform))
                    waveform = (waveform + rattle).astype(np.float32)
                name = f"{key.machine_type}_section_{key.section}_{domain}_test_{condition}_{number:04d}.wav"
                made.append(recording(write(folder, name, waveform), key, domain, condition))
    return made


@pytest.fixture(scope="module")
def answers(bundle: Path, recordings: Sequence[Recording]) -> dict[Path, Assessment]:
    """What the detector says of each recording by itself."""
    detector = Detector.load(bundle, device=Device.CPU)
    found = {
        one.path: detector.score(detector.decode(one.path), one.machine_type, one.section, one.domain)
        for one in recordings
    }
    detector.close()
    return found


@pytest.fixture(scope="module")
def evaluation(bundle: Path, recordings: Sequence[Recording]) -> Evaluation:
    done: list[int] = []
    found = evaluating.evaluate(bundle, recordings, advance=done.append, device=Device.CPU)
    assert sum(done) == len(recordings)
    return found


def row_of(evaluation: Evaluation, key: SectionKey, domain: Domain = Domain.SOURCE) -> Row:
    (row,) = [
        r for r in evaluation.rows if (r.machine_type, r.section, r.domain) == (key.machine_type, key.section, domain)
    ]
    return row


def test_rows_are_figures_of_the_detectors_answers(
    evaluation: Evaluation, recordings: Sequence[Recording], answers: dict[Path, Assessment]
) -> None:
    assert [(row.machine_type, row.section, row.domain) for row in evaluation.rows] == [
        ("fan", "00", Domain.SOURCE),
        ("fan", "00", Domain.TARGET),
        ("valve", "line-3.b", Domain.SOURCE),
    ]
    for row in evaluation.rows:
        own = [
            one
            for one in recordings
            if (one.machine_type, one.section, one.domain) == (row.machine_type, row.section, row.domain)
        ]
        truth = [one.condition is Condition.ANOMALY for one in own]
        scores = [answers[one.path].anomaly_score for one in own]
        alarms = [answers[one.path].decision is Decision.ANOMALOUS for one in own]
        assert row.auc == pytest.approx(roc_auc_score(truth, scores))
        assert row.pauc == pytest.approx(roc_auc_score(truth, scores, max_fpr=0.1))
        assert (row.normal, row.anomalous) == (NORMAL, ANOMALOUS)
        assert row.false_alarm_rate == pytest.approx(np.mean(alarms[:NORMAL]))
        assert row.hit_rate == pytest.approx(np.mean(alarms[NORMAL:]))
        assert row.hit_interval == rate_interval(sum(alarms[NORMAL:]), ANOMALOUS)
        assert row.auc_interval is not None
        assert row.auc is not None
        assert 0.0 <= row.auc_interval[0] <= row.auc <= row.auc_interval[1] <= 1.0


def test_clips_scored_together_are_scored_as_alone(evaluation: Evaluation, answers: dict[Path, Assessment]) -> None:
    assert len(evaluation.scored) == len(answers)
    for clip in evaluation.scored:
        answer = answers[clip.recording.path]
        assert clip.anomaly_score == pytest.approx(answer.anomaly_score, rel=1e-4)
        assert clip.decision is answer.decision


def test_who_watches_sees_each_clip_with_its_embeddings(bundle: Path, recordings: Sequence[Recording]) -> None:
    """In the order of the result, one row a window, and of the members that score the machine type."""
    seen: list[tuple[Scored, tuple[int, ...]]] = []
    given = [recordings[0], recordings[-1]]
    evaluation = evaluating.evaluate(
        bundle, given, advance=ignore, device=Device.CPU, watch=lambda clip, own: seen.append((clip, own.shape))
    )
    assert [clip for clip, _ in seen] == list(evaluation.scored)
    assert [shape for _, shape in seen] == [(1, 2, 128), (1, 1, 128)]


def test_terms_and_losses_apart_add_up(evaluation: Evaluation) -> None:
    """The score is the sum of its terms and, for a machine type that all members score, of both losses."""
    for clip in evaluation.scored:
        terms = {name: value for (kind, name), value in clip.parts.items() if kind is PartKind.TERM}
        losses = {name: value for (kind, name), value in clip.parts.items() if kind is PartKind.LOSS}
        assert sum(terms.values()) == pytest.approx(clip.anomaly_score)
        assert sum(losses.values()) == pytest.approx(clip.anomaly_score)
        fan = clip.recording.machine_type == "fan"
        assert set(losses) == ({"both heads", "sections"} if fan else {"sections"})
        source = clip.recording.domain is Domain.SOURCE
        expected = {"section", "attribute"} if source else {"section", "target"}
        assert set(terms) == (expected if fan else {*expected, "temporal_maximum"})
    parts = {(part.machine_type, part.domain, part.name) for part in evaluation.parts}
    assert {("fan", Domain.TARGET, "target"), ("fan", Domain.SOURCE, "both heads")} <= parts
    assert ("valve", Domain.SOURCE, "temporal_maximum") in parts
    assert all(part.auc is not None and part.pauc is not None for part in evaluation.parts)


def test_json_has_the_fields_of_the_contract(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write_json(tmp_path / "deep" / "table.json")
    found = json.loads((tmp_path / "deep" / "table.json").read_text())
    for row in found["rows"]:
        assert list(row) == ROW_FIELDS
        assert row["system"] == "earwitness"
        assert len(row["bundle"]) == 64
        assert row["recipe"] == "tiny"
        assert row["seed"] is None
    means = found["harmonic_mean"]
    areas = [row[name] for row in found["rows"] for name in ("auc", "pauc")]
    assert means["official_score"] == pytest.approx(len(areas) / sum(1 / area for area in areas))
    assert means["machine_types"]["fan"]["target"]["auc"] == pytest.approx(found["rows"][1]["auc"])
    assert found["mean_auc"] == pytest.approx(np.mean(areas[::2]))


def test_csv_files_are_the_challenges(evaluation: Evaluation, answers: dict[Path, Assessment], tmp_path: Path) -> None:
    """A line a recording, no header; decisions are 0 and 1."""
    evaluation.write_csvs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}_{name}_test.csv"
        for kind in ("anomaly_score", "decision_result")
        for name in ("fan_section_00_source", "fan_section_00_target", "valve_section_line-3.b_source")
    }
    by_name = {path.name: answer for path, answer in answers.items()}
    for name in ("fan_section_00_target", "valve_section_line-3.b_source"):
        with (tmp_path / f"anomaly_score_{name}_test.csv").open() as file:
            scores = list(csv.reader(file))
        with (tmp_path / f"decision_result_{name}_test.csv").open() as file:
            decisions = list(csv.reader(file))
        assert len(scores) == len(decisions) == NORMAL + ANOMALOUS
        for (clip, score), (same, decision) in zip(scores, decisions, strict=True):
            assert clip == same
            assert float(score) == pytest.approx(by_name[clip].anomaly_score, rel=1e-4)
            assert decision == str(int(by_name[clip].decision is Decision.ANOMALOUS))


def test_text_shows_every_row_and_the_official_score(evaluation: Evaluation) -> None:
    text = evaluation.as_text()
    lines = text.splitlines()
    assert lines[2].startswith("fan")
    assert lines[4].split()[:3] == ["valve", "line-3.b", "source"]
    score = evaluation.official_score()
    assert score is not None
    assert f"official score {100 * score:.1f}" in text
    assert "temporal_maximum term" in text
    assert "both heads loss" in text


def test_without_anomalies_there_are_false_alarms_with_their_interval(
    bundle: Path, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    """A plant's normal case: nothing is broken, so there is no AUC, and evaluation succeeds."""
    normal = [one for one in recordings if one.condition is Condition.NORMAL]
    evaluation = evaluating.evaluate(bundle, normal, advance=ignore, device=Device.CPU)
    row = row_of(evaluation, FAN)
    assert (row.auc, row.pauc, row.auc_interval, row.pauc_interval, row.hit_rate) == (None,) * 5
    assert row.false_alarm_rate is not None
    assert row.false_alarm_interval == rate_interval(round(row.false_alarm_rate * NORMAL), NORMAL)
    evaluation.write_json(tmp_path / "table.json")
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["rows"][0]["auc"] is None
    assert found["harmonic_mean"]["official_score"] is None
    assert found["rates"][0]["false_alarm_interval"] == pytest.approx(row.false_alarm_interval)
    assert "official score -" in evaluation.as_text()


def test_unlabelled_recordings_are_scored_and_not_counted(
    bundle: Path, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    """An evaluation set without its labels still gives the challenge's files."""
    unlabelled = [replace(one, condition=None) for one in recordings[:3]]
    evaluation = evaluating.evaluate(bundle, unlabelled, advance=ignore, device=Device.CPU)
    row = row_of(evaluation, FAN)
    assert (row.normal, row.anomalous, row.false_alarm_rate) == (0, 0, None)
    evaluation.write_csvs(tmp_path)
    assert len((tmp_path / "anomaly_score_fan_section_00_source_test.csv").read_text().splitlines()) == 3


def test_a_plants_long_recordings_count_as_consecutive_clips(bundle: Path, tmp_path: Path) -> None:
    """25 s are two clips, as in training; the resampling of recordings takes both; a file is one line of the CSV."""
    made = [
        recording(
            write(tmp_path, f"{condition}-{number}.wav", sound(FAN, number + 7, seconds=25.0)),
            FAN,
            Domain.SOURCE,
            condition,
            challenge=False,
        )
        for condition in Condition
        for number in range(2)
    ]
    evaluation = evaluating.evaluate(bundle, made, advance=ignore, device=Device.CPU)
    row = row_of(evaluation, FAN)
    assert (row.normal, row.anomalous) == (4, 4)
    assert row.auc == pytest.approx(0.5)  # the very same sounds under both labels
    evaluation.write_csvs(tmp_path / "csv")
    lines = (tmp_path / "csv" / "anomaly_score_fan_section_00_source_test.csv").read_text().splitlines()
    assert len(lines) == 4
    first = [clip.anomaly_score for clip in evaluation.scored if clip.recording.path == made[0].path]
    (line,) = [line for line in lines if line.startswith(made[0].path.as_posix())]
    assert float(line.split(",")[-1]) == pytest.approx(np.mean(first))


def test_a_recording_that_cannot_be_decoded_is_named(
    bundle: Path, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(recordings[0].path.read_bytes()[:1000])
    given = [*recordings[:3], recording(broken, FAN, Domain.SOURCE, Condition.NORMAL)]
    with pytest.raises(DataError, match=r"broken\.wav cannot be scored: The clip is truncated"):
        evaluating.evaluate(bundle, given, advance=ignore, device=Device.CPU)


def test_what_the_bundle_cannot_score_is_left_out_with_a_note(bundle: Path, recordings: Sequence[Recording]) -> None:
    """Another machine's recordings, and target recordings of a section without target clips."""
    foreign = replace(recordings[0], machine_type="pump")
    unadapted = replace(recordings[-1], domain=Domain.TARGET)
    done: list[int] = []
    given = [foreign, unadapted, *recordings[:3]]
    evaluation = evaluating.evaluate(bundle, given, advance=done.append, device=Device.CPU)
    assert sum(done) == len(given)
    assert len(evaluation.scored) == 3
    assert [note.split(":")[0] for note in evaluation.notes] == ["pump 00", "valve line-3.b"]
    assert row_of(evaluation, VALVE, Domain.TARGET).auc is None
    assert "note: pump 00: 1 test recordings left out" in evaluation.as_text()


def test_a_bundle_that_can_score_nothing_is_refused(bundle: Path, recordings: Sequence[Recording]) -> None:
    with pytest.raises(DataError, match=r"none of the 1 test recordings.*fan 00, valve line-3\.b"):
        evaluating.evaluate(bundle, [replace(recordings[0], section="09")], advance=ignore)


def test_training_recordings_are_not_evaluated(recordings: Sequence[Recording]) -> None:
    training = replace(recordings[0], split=Split.TRAIN)
    assert evaluating.test_recordings([training, *recordings[1:]]) == list(recordings[1:])
    with pytest.raises(DataError, match="None of the 1 recordings is for testing"):
        evaluating.test_recordings([training])
