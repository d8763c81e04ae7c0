"""The paper's system with thresholds of operating conditions that nothing has heard, on generated machines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, read_bundle
from models.frontend import LogMelSpec
from models.vocabulary import Domain, ThresholdRule
from tests.training.small import quick_embedder
from training import ensemble, fit, recipe
from training import folds as dealing
from training import run as planned
from training.calibration import LeftOut, left_out_scores
from training.features import extract_features
from training.fit import Lesson, fit_network
from training.folds import condition_folds
from training.pipeline import train
from training.recipe import RECIPES, LeftOutNetwork, Network, Recipe
from training.recordings import Recording, read_recordings
from training.run import Run
from training.synthetic import synthesize

FEW_FOLDS = 2
"""Each fold is a network more: five would be minutes."""


def quick() -> Recipe:
    """Two steps, one snapshot."""
    return replace(
        RECIPES["smoke"], steps=2, snapshots=1, batch_size=16, calibration=ThresholdRule.CONDITIONS, sub_clusters=(2,)
    )


@pytest.fixture(scope="module")
def few_folds() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for module in (dealing, ensemble, planned, recipe):
            patch.setattr(module, "FOLDS", FEW_FOLDS)
        for module in (fit, ensemble):
            patch.setattr(module, "build_embedder", quick_embedder)
        yield


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    made = tmp_path_factory.mktemp("conditions") / "made"
    synthesize(made, seed=5, machine_types=["fan"], sections=2, train_clips=8, test_clips=1, advance=lambda _: None)
    return read_recordings([made])


@pytest.fixture(scope="module")
def work(few_folds: None, recordings: list[Recording], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which a bundle has been made."""
    folder = tmp_path_factory.mktemp("run")
    heard: dict[Network, np.ndarray[Any, Any]] = {}

    def spy(lesson: Lesson, network: Network, *rest: Any, **options: Any) -> list[Path]:
        heard[network] = lesson.rows
        return fit_network(lesson, network, *rest, **options)

    run = Run.of(recordings, quick(), 0, folder / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "fit_network", spy)
        train(run, folder / "bundle")
    assert [network.name for network in heard] == ["both-heads-s2", *(f"both-heads-s2-without-{f}" for f in range(2))]
    clips = extract_features(
        run.recordings,
        folder / "work" / "features",
        spec=LogMelSpec(),
        contrast=False,
        workers=1,
        advance=lambda _: None,
    ).clips
    dealt = condition_folds(clips, 0)
    for network, rows in heard.items():
        left_out = set(range(len(clips))) - set(rows.tolist())
        fold = network.fold if isinstance(network, LeftOutNetwork) else None
        assert left_out == set(np.flatnonzero(dealt == fold).tolist()), "a network hears all but its fold"
    return folder


@pytest.fixture(scope="module")
def bundle(work: Path) -> Bundle:
    return read_bundle(work / "bundle")


def test_what_only_calibrates_does_not_serve(bundle: Bundle) -> None:
    """One member, and thresholds of the rule, each score with the condition fold it was held out with."""
    assert [member.id for member in bundle.manifest.members] == ["both-heads-s2-e0001"]
    for key in bundle.manifest.sections:
        calibration = bundle.calibrations[key, Domain.SOURCE].calibration
        assert calibration.rule is ThresholdRule.CONDITIONS
        assert len(calibration.scores) == 8
        assert calibration.folds is not None
        assert set(calibration.folds.tolist()) == {0, 1}
        assert bundle.calibrations[key, Domain.TARGET].calibration.rule is ThresholdRule.PAPER


def test_scores_are_those_of_the_networks_that_have_not_heard_the_fold(
    few_folds: None, bundle: Bundle, work: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The back end is given each fold's own embeddings; the serving network's would give other scores."""
    seen: list[LeftOut] = []

    def spy(training: Any, left_out: LeftOut, *fitting: Any, **options: Any) -> Any:
        seen.append(left_out)
        return left_out_scores(training, left_out, *fitting, **options)

    monkeypatch.setattr("training.calibration.left_out_scores", spy)
    monkeypatch.setattr("training.fit.build_training_model", lambda *_: pytest.fail("trained again"))
    train(Run.of(recordings, quick(), 0, work / "work"), work / "again")
    (left_out,) = seen
    for fold, (embeddings, _) in enumerate(left_out.hearings):
        kept = np.load(work / "work" / "embeddings" / f"without-{fold}" / "000000.npy")
        np.testing.assert_array_equal(embeddings, kept)
    assert not np.array_equal(left_out.hearings[0][0], left_out.hearings[1][0])
    for key in bundle.manifest.sections:
        again = read_bundle(work / "again").calibrations[key, Domain.SOURCE].calibration
        np.testing.assert_array_equal(again.scores, bundle.calibrations[key, Domain.SOURCE].calibration.scores)


def test_the_plan_says_what_it_costs(few_folds: None, recordings: list[Recording], tmp_path: Path) -> None:
    """Every network once more for each fold, each a stage with its time; another rule trains none of them."""
    run = Run.of(recordings, quick(), 0, tmp_path / "work")
    names = [stage.name for stage in run.stages() if stage.name.startswith("network")]
    assert names == ["network both-heads-s2", *(f"network both-heads-s2-without-{fold}" for fold in range(2))]
    assert {stage.name: stage.units for stage in run.stages()}["embeddings"] == 3 * run.n_clips
    other = replace(run, recipe=replace(quick(), calibration=ThresholdRule.HELD_OUT))
    assert [network.name for network in other.networks] == ["both-heads-s2"]
    assert other.recipe.decides_networks() == run.recipe.decides_networks(), "its networks serve again"
