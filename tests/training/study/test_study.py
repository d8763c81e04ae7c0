"""A study of two small trainings on generated sound: its figures against plain loops, and its resuming."""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import DataError
from models.vocabulary import Condition, Domain, SectionKey
from tests.training.small import quick_embedder
from training import fit
from training.recipe import RECIPES, Backend, MixupLabels, ServedWeights
from training.recordings import read_recordings
from training.study import runner
from training.study.clips import Division, divide, study_clips
from training.study.figures import Figures
from training.study.modifications import MODIFICATIONS
from training.study.plan import SNAPSHOTS, StudiedSystem
from training.study.runner import Study, run_study
from training.synthetic import synthesize

SECTIONS = (SectionKey("fan", "00"), SectionKey("fan", "01"))
RECIPE = replace(RECIPES["quick"], sub_clusters=(1,), snapshots=SNAPSHOTS)
TRAININGS = {"weighted": RECIPE, "maximum": replace(RECIPE, mixup_labels=MixupLabels.MAXIMUM)}
SYSTEMS = (
    StudiedSystem("default", ("weighted",)),
    StudiedSystem("labels maximum", ("maximum",)),
    StudiedSystem("both", ("weighted", "maximum")),
    StudiedSystem("average", ("weighted",), snapshots=1, weights=ServedWeights.AVERAGE),
    StudiedSystem("centers", ("weighted",), snapshots=2, backend=Backend.CENTERS),
    StudiedSystem("smote", ("weighted",), snapshots=1, target_smote=3),
)


@dataclass(frozen=True)
class Done:
    """A study that has run."""

    study: Study
    figures: dict[str, Figures]

    def embeddings(self, training: str, place: int, weights: ServedWeights) -> dict[str, NDArray[np.float32]]:
        with np.load(self.study.embeddings_path(0, training, place, weights)) as kept:
            return {name: kept[name] for name in kept.files}


@pytest.fixture(scope="module", autouse=True)
def quick_networks() -> Iterator[None]:
    """What a study makes of embeddings is shown by any."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (fit, runner):
            patched.setattr(module, "build_embedder", quick_embedder)
        yield


@pytest.fixture(scope="module")
def done(quick_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("study")
    synthesize(
        folder / "sounds",
        seed=4,
        machine_types=["fan"],
        sections=2,
        train_clips=7,
        test_clips=2,
        advance=lambda _: None,
    )
    study = Study(
        divide(read_recordings([folder / "sounds"])), 4, (0,), folder / "work", trainings=TRAININGS, systems=SYSTEMS
    )
    return Done(study, {one.system: one for one in run_study(study, workers=1)})


def area(normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> float:
    """How often the second scores higher, pair by pair."""
    pairs = [(x, y) for x in normal.ravel() for y in anomalous.ravel()]
    return sum(1.0 if y > x else 0.5 if y == x else 0.0 for x, y in pairs) / len(pairs)


def nearest(points: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The smallest cosine distance of each of (..., 128)."""
    distances: NDArray[np.float64] = (1.0 - x.astype(np.float64) @ points.astype(np.float64).T).min(axis=-1)
    return distances


def test_figures_are_those_of_plain_loops(done: Done) -> None:
    """The system of nearest centres, of which a section has its few clips: every figure from the embeddings alone."""
    division, found = done.study.division, done.figures["centers"]
    assert len(division.held) == 4
    sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(()))
    own = {key: [one.key == key and one.domain is Domain.SOURCE for one in division.train] for key in SECTIONS}
    targets = [i for i, one in enumerate(division.train) if one.domain is Domain.TARGET]
    for place in (1, 3):
        kept = done.embeddings("weighted", place, ServedWeights.LAST)
        train, copies = kept["train"], kept["modified"]
        assert copies.shape == (len(division.held) + len(targets), len(MODIFICATIONS), 128)
        points = {key: train[own[key]] for key in SECTIONS}
        sums["held"] = sums["held"] + np.stack([nearest(points[key], kept["held"]) for key in SECTIONS])
        sums["modified"] = sums["modified"] + np.stack(
            [nearest(points[one.key], copies[i]) for i, one in enumerate(division.held)]
        )
        cross = [
            [nearest(np.delete(points[key], i, axis=0), x[None])[0] for i, x in enumerate(points[key])]
            for key in SECTIONS
        ]  # five clips in five folds
        sums["cross"] = sums["cross"] + np.array(cross)
        scores, of_copies = [], []
        for place_of, row in enumerate(targets):
            one = division.train[row]
            others = [other for other in targets if other != row and division.train[other].key == one.key]
            near = np.concatenate([points[one.key], train[others]])
            scores.append(nearest(near, train[row][None])[0])
            of_copies.append(nearest(near, copies[len(division.held) + place_of]))
        sums["target"] = sums["target"] + np.array(scores)
        sums["target copies"] = sums["target copies"] + np.array(of_copies)
        near_target = {
            key: np.concatenate([points[key], train[[i for i in targets if division.train[i].key == key]]])
            for key in SECTIONS
        }
        test = [
            nearest((points if one.domain is Domain.SOURCE else near_target)[one.key], kept["test"][i][None])[0]
            for i, one in enumerate(division.test)
        ]
        sums["test"] = sums["test"] + np.array(test)
    by_section, target_by_section, areas = [], [], []
    for place, key in enumerate(SECTIONS):
        held = np.array([one.key == key for one in division.held])
        figures = found.sections[f"{key.machine_type} {key.section}"]
        by_section.append(area(sums["held"][place][held], sums["modified"][held]))
        assert figures.changes == pytest.approx(by_section[-1])
        for i in range(len(MODIFICATIONS)):
            assert figures.by_change[i] == pytest.approx(area(sums["held"][place][held], sums["modified"][held, i]))
        assert figures.siblings == pytest.approx(area(sums["held"][place][held], sums["held"][place][~held]))
        assert figures.others is None, "there is one machine type"
        assert figures.held == 2
        threshold = np.percentile(sums["cross"][place], 90)
        assert figures.alarms == np.count_nonzero(sums["held"][place][held] > threshold)
        mine = [division.train[row].key == key for row in targets]
        target_by_section.append(area(sums["target"][mine], sums["target copies"][mine]))
        assert figures.target_changes == pytest.approx(target_by_section[-1])
        for i, domain in enumerate(Domain):
            groups = [
                np.array(
                    [
                        score
                        for score, one in zip(sums["test"], division.test, strict=True)
                        if (one.key, one.domain, one.condition) == (key, domain, condition)
                    ]
                )
                for condition in Condition
            ]
            assert [len(group) for group in groups] == [2, 2]
            areas.append(area(*groups))
            assert figures.test_aucs[i] == pytest.approx(areas[-1])
    assert found.criterion == pytest.approx(harmonic(by_section))
    assert found.target_changes == pytest.approx(harmonic(target_by_section))
    assert found.test_mean_auc == pytest.approx(np.mean(areas))


def harmonic(values: list[float]) -> float:
    return len(values) / sum(1.0 / max(value, 1e-15) for value in values)


def test_systems_differ_where_their_choice_acts(done: Done) -> None:
    """Other labels and other weights are other networks; synthetic target clips leave source scores as they are."""
    first = done.embeddings("weighted", 3, ServedWeights.LAST)["held"]
    assert np.abs(first - done.embeddings("maximum", 3, ServedWeights.LAST)["held"]).max() > 1e-4
    assert np.abs(first - done.embeddings("weighted", 3, ServedWeights.AVERAGE)["held"]).max() > 1e-4
    for name, figures in done.figures.items():
        kept = json.loads((done.study.work / "figures" / "seed-0" / f"{name.replace(' ', '-')}.json").read_text())
        assert kept == json.loads(json.dumps(figures.to_json()))
    unused = done.study.embeddings_path(0, "maximum", 3, ServedWeights.AVERAGE)
    assert not unused.exists(), "no system is made of it"


def test_what_is_done_is_not_done_again(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that has run only sums up; one that lost embeddings and scores makes those again, and trains nothing."""
    study = replace(done.study, work=Path(shutil.copytree(done.study.work, tmp_path / "work")))

    def figures() -> dict[str, Figures]:
        return {one.system: one for one in run_study(study, workers=1)}

    with monkeypatch.context() as patched:
        patched.setattr(runner, "_embed", lambda *_: pytest.fail("embedded again"))
        patched.setattr(runner, "fit_network", lambda *_, **__: pytest.fail("trained again"))
        assert figures() == done.figures
    study.embeddings_path(0, "weighted", 3, ServedWeights.LAST).unlink()
    shutil.rmtree(study.folder(0, "weighted") / "scores")
    monkeypatch.setattr("training.fit.train_epoch", lambda *_: pytest.fail("trained again"))
    again = figures()
    assert again.keys() == done.figures.keys()
    for name, one in again.items():
        assert one.criterion == pytest.approx(done.figures[name].criterion, abs=1e-6)


def test_another_study_is_refused(done: Done) -> None:
    """Other budgets and other clips; a further training is welcome."""
    clips = study_clips(done.study.division, done.study.work / "features", workers=1, advance=lambda _: None)
    with pytest.raises(DataError, match=r"seed-0/\S+ holds the networks of a run with another recipe"):
        runner._claim(replace(done.study, steps=8), clips)
    fewer = replace(done.study.division, test=done.study.division.test[1:])
    with pytest.raises(DataError, match="another recordings"):
        runner._claim(done.study, study_clips(fewer, done.study.work / "features", workers=1, advance=lambda _: None))
    more = replace(done.study, trainings={**TRAININGS, "more": replace(RECIPE, sub_clusters=(2,))})
    runner._claim(more, clips)
    assert (done.study.folder(0, "more") / "run.json").exists()


def test_a_study_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """Its networks lie where ours do and name no recipe: figures of 200 steps were printed as those of 400."""
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"holds a study of an earlier version \(.*study\.json\).*another --work folder"
    ):
        run_study(Study(Division((), (), ()), 4, (0,), tmp_path), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def test_the_bar_of_the_features_fills(done: Done, tmp_path: Path) -> None:
    """With each clip, whether it is read anew or is there already, and not beyond."""
    division = done.study.division
    (stage,) = [stage for stage in done.study.stages() if stage.name == "features"]
    for _ in range(2):
        counts: list[int] = []
        study_clips(division, tmp_path / "features", workers=1, advance=counts.append)
        assert sum(counts) == stage.units
