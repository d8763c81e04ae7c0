"""The challenge's files and what its evaluator makes of them, against scikit-learn and SciPy."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from models.errors import DataError
from models.vocabulary import Condition, Domain
from tests.training.told import Told, ignore, noisy, recordings
from training.evaluate import evaluate
from training.metrics import harmonic_mean
from training.official import Figures, mean_figures, official_figures, require_own_names, score_of, write_csvs
from training.recordings import Place
from training.scored import SystemName

FAN: Place = ("fan", "00", Domain.SOURCE)
SHAPES = {FAN: (12, 9), ("fan", "00", Domain.TARGET): (8, 8), ("pump-2", "01", Domain.SOURCE): (7, 11)}
GIVEN = {
    place: recordings(*shape, machine_type=place[0], section=place[1], domain=place[2])
    for place, shape in SHAPES.items()
}
TRUTH = {place: {one.path.name: one.condition for one in given if one.condition} for place, given in GIVEN.items()}
ALL = [one for given in GIVEN.values() for one in given]


def system(**other: object) -> Told:
    return replace(Told(noisy(1.5, 0), threshold=0.7), **other)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The first system's files."""
    write_csvs(evaluate([system()], ALL, advance=ignore), tmp_path)
    return tmp_path


def expected(place: Place) -> list[float]:
    """What scikit-learn gives."""
    truth = np.array([one.condition is Condition.ANOMALY for one in GIVEN[place]])
    scores = np.array([system().score_of(one, 0) for one in GIVEN[place]])
    called = scores > 0.7
    return [
        roc_auc_score(truth, scores),
        roc_auc_score(truth, scores, max_fpr=0.1),
        precision_score(truth, called),
        recall_score(truth, called),
        f1_score(truth, called),
    ]


def figures_of(one: Figures) -> list[float | None]:
    return [one.auc, one.pauc, one.precision, one.recall, one.f1]


def test_figures_are_the_evaluators(folder: Path) -> None:
    """Of each machine type, section and domain."""
    found = official_figures(folder, TRUTH)
    assert list(found) == sorted(TRUTH)
    for place, figures in found.items():
        assert figures_of(figures) == pytest.approx(expected(place))


def test_means_and_official_score_are_the_evaluators(folder: Path) -> None:
    """Harmonic means of what is at least the machine's epsilon, the score of AUCs and pAUCs together."""
    found = list(official_figures(folder, TRUTH).values())
    table = np.maximum([expected(place) for place in sorted(TRUTH)], sys.float_info.epsilon)
    assert figures_of(mean_figures(found, harmonic_mean)) == pytest.approx(scipy.stats.hmean(table, axis=0))
    assert score_of(found) == pytest.approx(scipy.stats.hmean(table[:, :2], axis=None))


def test_nothing_called_has_precision_recall_and_f1_of_zero(tmp_path: Path) -> None:
    """And a harmonic mean that is as good as zero, not an error."""
    write_csvs(evaluate([system(threshold=99.0)], ALL, advance=ignore), tmp_path)
    found = official_figures(tmp_path, TRUTH)
    assert figures_of(found[FAN])[2:] == [0.0, 0.0, 0.0]
    mean = mean_figures(found.values(), harmonic_mean)
    assert mean.recall == pytest.approx(sys.float_info.epsilon)


def test_the_result_file_is_laid_out_as_the_evaluators(folder: Path) -> None:
    """A block a machine type, source before target, and the means over all."""
    with (folder / "result.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    heads = [line[0] if line else "" for line in lines]
    assert lines[:2] == [["fan"], ["section", "domain", "AUC", "pAUC", "precision", "recall", "F1 score"]]
    assert [line[:2] for line in lines[2:4]] == [["00", "source"], ["00", "target"]]
    assert [float(cell) for cell in lines[2][2:]] == pytest.approx(expected(FAN))
    assert heads[4:9] == ["arithmetic mean", "harmonic mean", "source harmonic mean", "target harmonic mean", ""]
    assert heads[9] == "pump-2"
    overall = next(line for line in lines if line and line[0].startswith("arithmetic mean over all machine types"))
    mean = np.mean([expected(place) for place in TRUTH], axis=0)
    assert [float(cell) for cell in overall[2:]] == pytest.approx(mean)
    found = official_figures(folder, TRUTH)
    assert lines[-1][:2] == ["official score", ""]
    assert float(lines[-1][2]) == pytest.approx(score_of(found.values()))


def test_each_further_system_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Named after its label."""
    other = system(name=SystemName.FLOOR, score_of=noisy(0.5, 3))
    seeds = [system(seed=1), system(seed=2), other]
    write_csvs(evaluate(seeds, ALL, advance=ignore), tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"earwitness-seed-2", "floor"}
    scores = (tmp_path / "floor" / "anomaly_score_fan_section_00_source_test.csv").read_text().splitlines()
    assert float(scores[0].split(",")[1]) == pytest.approx(other.score_of(min(GIVEN[FAN], key=lambda r: r.path), 0))


def test_labels_that_are_one_name_are_two_folders(tmp_path: Path) -> None:
    """What a file system does not take of a label may have been all that told two systems apart."""
    systems = [system(recipe=recipe) for recipe in ("own", "a b", "a/b")]
    write_csvs(evaluate(systems, ALL, advance=ignore), tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"earwitness-a-b", "earwitness-a-b-"}


def test_two_recordings_of_one_name_are_refused() -> None:
    """Of two trees of one year: one would take the other's line of the file. What a plant's files hold are paths."""
    require_own_names(ALL)
    again = replace(ALL[0], path=Path("/other") / ALL[0].path.name)
    with pytest.raises(DataError, match=rf"{ALL[0].path} and {again.path} have one name"):
        require_own_names([*ALL, again])
    require_own_names([*ALL, replace(again, challenge=False)])
    require_own_names([*ALL, replace(again, domain_told=False)])  # in no file, for it is left out


def test_without_a_threshold_there_are_no_decisions(tmp_path: Path) -> None:
    """The evaluator would stop; the AUCs are there all the same."""
    write_csvs(evaluate([system(threshold=None)], ALL, advance=ignore), tmp_path)
    assert not list(tmp_path.glob("decision_result_*"))
    assert figures_of(official_figures(tmp_path, TRUTH)[FAN])[2:] == [None, None, None]
    assert (tmp_path / "result.csv").exists()


def test_files_of_an_earlier_evaluation_decide_nothing(folder: Path) -> None:
    """The same folder, a bundle without thresholds, then names without labels: no decision and no result is stale."""
    write_csvs(evaluate([system(threshold=None)], ALL, advance=ignore), folder)
    assert not list(folder.glob("decision_result_*"))
    with (folder / "result.csv").open(newline="") as file:
        assert list(csv.reader(file))[2][4:] == ["", "", ""]
    write_csvs(evaluate([system()], [replace(one, condition=None) for one in ALL], advance=ignore), folder)
    assert not (folder / "result.csv").exists()


def test_without_labels_there_is_no_result(tmp_path: Path) -> None:
    """An evaluation set before its ground truth is out."""
    write_csvs(evaluate([system()], [replace(one, condition=None) for one in ALL], advance=ignore), tmp_path)
    assert len(list(tmp_path.glob("*_test.csv"))) == 2 * len(GIVEN)
    assert not (tmp_path / "result.csv").exists()


def test_a_recording_that_was_cut_counts_once(tmp_path: Path) -> None:
    """With the mean of its clips' scores, and the decision that this gives."""
    write_csvs(evaluate([system(clips=3)], ALL, advance=ignore), tmp_path)
    lines = (tmp_path / "anomaly_score_fan_section_00_source_test.csv").read_text().splitlines()
    assert len(lines) == sum(SHAPES[FAN])
    first = min(GIVEN[FAN], key=lambda one: one.path)
    mean = np.mean([system().score_of(first, clip) for clip in range(3)])
    assert float(lines[0].split(",")[1]) == pytest.approx(mean)
    decisions = (tmp_path / "decision_result_fan_section_00_source_test.csv").read_text().splitlines()
    assert decisions[0] == f"{first.path.name},{int(mean > 0.7)}"


def test_a_missing_file_and_a_missing_recording_are_named(folder: Path) -> None:
    """The evaluator pairs lines by their order, and would not know which is missing."""
    scores = folder / "anomaly_score_fan_section_00_source_test.csv"
    kept = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(kept[1:]))
    with pytest.raises(DataError, match=rf"do not name the same recordings: {kept[0].split(',')[0]}\. Score"):
        official_figures(folder, TRUTH)
    scores.unlink()
    with pytest.raises(DataError, match=r"anomaly_score_fan_section_00_source_test\.csv does not exist"):
        official_figures(folder, TRUTH)
