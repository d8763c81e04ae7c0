"""Evaluation of a tiny but real bundle on real files: its figures are those of the detector's own answers."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
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
from tests.training.told import ignore
from training import test_clips
from training.cli import main
from training.contenders import BundleContender
from training.evaluate import evaluate
from training.intervals import exact_interval
from training.official import write_csvs
from training.printed import as_text
from training.recordings import Recording
from training.scored import PartKind, SystemName
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
def contender(bundle: Path) -> Iterator[BundleContender]:
    with closing(BundleContender(bundle, device=Device.CPU)) as opened:
        yield opened


@pytest.fixture(scope="module")
def evaluation(contender: BundleContender, recordings: Sequence[Recording]) -> Evaluation:
    done: list[int] = []
    found = evaluate([contender], recordings, advance=done.append)
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
        assert row.official_pauc == pytest.approx(roc_auc_score(truth, scores, max_fpr=0.1))
        assert row.pauc is None  # of six normal clips
        assert (row.normal, row.anomalous) == (NORMAL, ANOMALOUS)
        assert row.false_alarm_rate == pytest.approx(np.mean(alarms[:NORMAL]))
        assert row.hit_rate == pytest.approx(np.mean(alarms[NORMAL:]))
        assert row.hit_interval == exact_interval(sum(alarms[NORMAL:]), ANOMALOUS)
        assert row.auc_interval is not None
        assert row.auc is not None
        assert 0.0 <= row.auc_interval[0] <= row.auc <= row.auc_interval[1] <= 1.0


def test_clips_scored_together_are_scored_as_alone(evaluation: Evaluation, answers: dict[Path, Assessment]) -> None:
    assert len(evaluation.first.scored) == len(answers)
    for clip in evaluation.first.scored:
        answer = answers[clip.recording.path]
        assert clip.anomaly_score == pytest.approx(answer.anomaly_score, rel=1e-4)
        assert clip.decision is answer.decision


def test_terms_and_losses_apart_add_up(evaluation: Evaluation) -> None:
    """The score is the sum of its terms and, for a machine type that all members score, of both losses."""
    for clip in evaluation.first.scored:
        terms = {name: value for (kind, name), value in clip.parts.items() if kind is PartKind.TERM}
        losses = {name: value for (kind, name), value in clip.parts.items() if kind is PartKind.LOSS}
        assert sum(terms.values()) == pytest.approx(clip.anomaly_score)
        assert sum(losses.values()) == pytest.approx(clip.anomaly_score)
        fan = clip.recording.machine_type == "fan"
        assert set(losses) == ({"both heads", "sections"} if fan else {"sections"})
        source = clip.recording.domain is Domain.SOURCE
        expected = {"section", "attribute"} if source else {"section", "target"}
        assert set(terms) == (expected if fan else {*expected, "temporal_maximum"})
    parts = {(part.machine_type, part.domain, part.name) for part in evaluation.first.parts}
    assert {("fan", Domain.TARGET, "target"), ("fan", Domain.SOURCE, "both heads")} <= parts
    assert ("valve", Domain.SOURCE, "temporal_maximum") in parts
    assert {part.name for part in evaluation.first.parts if part.machine_type == "valve"} >= {
        "section + attribute",
        "attribute + temporal_maximum",
    }
    assert all(part.auc is not None for part in evaluation.first.parts)


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
    areas = [area for row in evaluation.rows for area in (row.auc, row.official_pauc) if area is not None]
    assert means["official_score"] == pytest.approx(len(areas) / sum(1 / area for area in areas))
    assert means["machine_types"]["fan"]["target"] == {"auc": pytest.approx(found["rows"][1]["auc"]), "pauc": None}
    assert set(means) == {"official_score", "auc", "pauc", "domains", "machine_types"}
    assert found["mean_auc"] == pytest.approx(np.mean(areas[::2]))
    assert found["parts"][0] == {
        "label": "earwitness",
        **{name: found["rows"][0][name] for name in ("machine_type", "section", "domain")},
        **{name: getattr(evaluation.first.parts[0], name) for name in ("kind", "name", "auc", "pauc")},
    }


def test_csv_files_are_the_challenges(evaluation: Evaluation, answers: dict[Path, Assessment], tmp_path: Path) -> None:
    """A line a recording, no header; decisions are 0 and 1."""
    write_csvs(evaluation, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}_{name}_test.csv"
        for kind in ("anomaly_score", "decision_result")
        for name in ("fan_section_00_source", "fan_section_00_target", "valve_section_line-3.b_source")
    } | {"result.csv"}
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
    text = as_text(evaluation)
    lines = text.splitlines()
    assert lines[3].startswith("fan")
    assert lines[5].split()[:3] == ["valve", "line-3.b", "source"]
    score = evaluation.first.totals.official_score.value
    assert score is not None
    assert re.search(rf"official score +{100 * score:.1f} \(", text)
    assert "earwitness by term" in text
    assert "earwitness by loss" in text


def test_without_anomalies_there_are_false_alarms_with_their_interval(
    contender: BundleContender, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    """A plant's normal case: nothing is broken, so there is no AUC, and evaluation succeeds."""
    normal = [one for one in recordings if one.condition is Condition.NORMAL]
    evaluation = evaluate([contender], normal, advance=ignore)
    row = row_of(evaluation, FAN)
    assert (row.auc, row.pauc, row.auc_interval, row.pauc_interval, row.hit_rate) == (None,) * 5
    assert row.false_alarm_rate is not None
    assert row.false_alarm_interval == exact_interval(round(row.false_alarm_rate * NORMAL), NORMAL)
    evaluation.write_json(tmp_path / "table.json")
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["rows"][0]["auc"] is None
    assert found["harmonic_mean"]["official_score"] is None
    assert found["rates"][0]["false_alarm_interval"] == pytest.approx(row.false_alarm_interval)
    assert "official score" not in as_text(evaluation)


def test_unlabelled_recordings_are_scored_and_not_counted(
    contender: BundleContender, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    """An evaluation set without its labels still gives the challenge's files."""
    unlabelled = [replace(one, condition=None) for one in recordings[:3]]
    evaluation = evaluate([contender], unlabelled, advance=ignore)
    row = row_of(evaluation, FAN)
    assert (row.normal, row.anomalous, row.false_alarm_rate) == (0, 0, None)
    write_csvs(evaluation, tmp_path)
    assert len((tmp_path / "anomaly_score_fan_section_00_source_test.csv").read_text().splitlines()) == 3


def test_a_plants_long_recordings_count_as_consecutive_clips(contender: BundleContender, tmp_path: Path) -> None:
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
    evaluation = evaluate([contender], made, advance=ignore)
    row = row_of(evaluation, FAN)
    assert (row.normal, row.anomalous) == (4, 4)
    assert row.auc == pytest.approx(0.5)  # the very same sounds under both labels
    write_csvs(evaluation, tmp_path / "csv")
    lines = (tmp_path / "csv" / "anomaly_score_fan_section_00_source_test.csv").read_text().splitlines()
    assert len(lines) == 4
    first = [clip.anomaly_score for clip in evaluation.first.scored if clip.recording.path == made[0].path]
    (line,) = [line for line in lines if line.startswith(made[0].path.as_posix())]
    assert float(line.split(",")[-1]) == pytest.approx(np.mean(first))


def test_a_recording_that_cannot_be_decoded_is_named(
    contender: BundleContender, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(recordings[0].path.read_bytes()[:1000])
    given = [*recordings[:3], recording(broken, FAN, Domain.SOURCE, Condition.NORMAL)]
    with pytest.raises(DataError, match=r"broken\.wav cannot be scored: The clip is truncated"):
        evaluate([contender], given, advance=ignore)


def test_what_the_bundle_cannot_score_is_left_out_with_a_note(
    contender: BundleContender, recordings: Sequence[Recording]
) -> None:
    """Another machine's recordings, and target recordings of a section without target clips."""
    foreign = replace(recordings[0], machine_type="pump")
    unadapted = replace(recordings[-1], domain=Domain.TARGET)
    done: list[int] = []
    given = [foreign, unadapted, *recordings[:3]]
    evaluation = evaluate([contender], given, advance=done.append)
    assert sum(done) == len(given)
    assert len(evaluation.first.scored) == 3
    assert evaluation.notes[:2] == (
        "1 test recordings of pump 00 source left out: the bundle does not know the machine type, only fan, valve.",
        "1 test recordings of valve line-3.b target left out: the bundle has no target clips there.",
    )
    assert [row.place for row in evaluation.rows] == [("fan", "00", Domain.SOURCE)]
    assert f"note: {evaluation.notes[0]}" in as_text(evaluation)


def test_a_bundle_that_can_score_nothing_is_refused(
    contender: BundleContender, recordings: Sequence[Recording]
) -> None:
    with pytest.raises(
        DataError, match=r"none of the 1 test recordings.*the bundle does not know the section, only 00"
    ):
        evaluate([contender], [replace(recordings[0], section="09")], advance=ignore)


def test_training_recordings_are_not_evaluated(recordings: Sequence[Recording]) -> None:
    training = replace(recordings[0], split=Split.TRAIN)
    assert test_clips.test_recordings([training, *recordings[1:]]) == list(recordings[1:])
    with pytest.raises(DataError, match="None of the 1 recordings is for testing"):
        test_clips.test_recordings([training])


def test_two_bundles_are_measured_on_the_same_clips(
    contender: BundleContender, bundle: Path, recordings: Sequence[Recording], tmp_path: Path
) -> None:
    """A bundle beside itself: the same figures to the bit, no difference, and all of it in the JSON."""
    done: list[int] = []
    with closing(BundleContender(bundle, device=Device.CPU)) as other:
        evaluation = evaluate([contender, other], recordings, advance=done.append)
    assert sum(done) == 2 * len(recordings)
    first, second = evaluation.systems
    assert (first.label, second.label) == ("earwitness", "earwitness (2)")
    assert first.rows == second.rows
    assert first.totals == second.totals
    evaluation.write_json(tmp_path / "table.json")
    found = json.loads((tmp_path / "table.json").read_text())
    assert len(found["rows"]) == 6
    assert [system["label"] for system in found["systems"]] == ["earwitness", "earwitness (2)"]
    system = found["systems"][0]
    assert system["system"] == "earwitness"
    assert system["bundle"] == found["rows"][0]["bundle"]
    assert system["official_score"] == pytest.approx(found["harmonic_mean"]["official_score"])
    assert system["harmonic_mean"] == found["harmonic_mean"]
    assert system["mean_auc"] == found["mean_auc"]
    low, high = system["official_score_interval"]
    assert low < system["official_score"] < high
    (difference,) = found["differences"]
    assert (difference["minuend"], difference["subtrahend"]) == ("earwitness", "earwitness (2)")
    assert (difference["official_score"], difference["official_score_interval"]) == (0.0, [0.0, 0.0])
    assert difference["groups"][0] == {
        **{name: found["rows"][0][name] for name in ("machine_type", "section", "domain")},
        "auc": 0.0,
        "auc_interval": [0.0, 0.0],
        "pauc": None,
        "pauc_interval": None,
    }
    assert found["spread"] == []
    assert found["dcase2021"] == {}


def test_a_lineage_is_what_a_bundle_was_made_from_but_for_its_seed(tmp_path: Path) -> None:
    """Another seed is the same lineage; another recipe or other recordings are not."""
    tiny = with_canary(build_bundle())
    made: dict[str, dict[str, dict[str, object]]] = {
        "one": {"recipe": {"name": "tiny", "seed": 0}},
        "seed": {"recipe": {"name": "tiny", "seed": 1}},
        "recipe": {"recipe": {"name": "tiny", "seed": 0, "scale": "fixed"}},
        "data": {"recipe": {"name": "tiny", "seed": 0}, "training_data": {"clips": 99}},
    }
    lineages = {}
    for name, change in made.items():
        write_bundle(tmp_path / name, replace(tiny, manifest=tiny.manifest.model_copy(update=change)))
        with closing(BundleContender(tmp_path / name, device=Device.CPU)) as opened:
            assert (opened.name, opened.recipe) == (SystemName.EARWITNESS, "tiny")
            assert opened.seed == change["recipe"]["seed"]
            lineages[name] = opened.lineage
    assert lineages["one"] == lineages["seed"]
    assert len({lineages[name] for name in ("one", "recipe", "data")}) == 3


def test_an_evaluation_set_and_its_ground_truth_by_the_command(
    bundle: Path, recordings: Sequence[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that carry no label, the challenge's labels beside, two bundles: text, JSON and both systems' files."""
    folder, truth = tmp_path / "eval_data" / "fan" / "source_test", tmp_path / "truth"
    folder.mkdir(parents=True)
    truth.mkdir()
    lines = []
    own = [one for one in recordings if (one.key, one.domain) == (FAN, Domain.SOURCE)]
    for number, one in enumerate(own):
        name = f"section_00_source_test_{number:04d}.wav"
        (folder / name).symlink_to(one.path)
        lines.append(f"{name},{int(one.condition is Condition.ANOMALY)}\n")
    (truth / "ground_truth_fan_section_00_source_test.csv").write_text("".join(lines))
    given = ["evaluate", str(bundle), str(tmp_path / "eval_data"), "--json", str(tmp_path / "table.json")]
    assert main(given) == 0
    assert "11 test recordings are scored and not counted" in capsys.readouterr().out
    given += ["--ground-truth", str(truth), "--beside", str(bundle), "--csv", str(tmp_path / "csv")]
    assert main(given) == 0
    assert "earwitness minus earwitness (2)" in capsys.readouterr().out
    row = json.loads((tmp_path / "table.json").read_text())["rows"][0]
    assert (row["normal"], row["anomalous"]) == (NORMAL, ANOMALOUS)
    for place in (tmp_path / "csv", tmp_path / "csv" / "earwitness-2"):
        with (place / "result.csv").open(newline="") as file:
            (line,) = [line for line in csv.reader(file) if line[:2] == ["00", "source"]]
        assert [float(cell) for cell in (line[2], line[5])] == pytest.approx([row["auc"], row["hit_rate"]])
