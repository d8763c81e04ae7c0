"""The study's run: train each network with each seed, keep what its snapshots make of every clip, and score.

Everything lies under one work folder, and what is there is not done again: a study that was killed goes on with the
same command, and a system that is added later needs only the trainings that are new. Unlike a bundle's, embeddings come
from Keras, not from exported networks, which differ from them by 1e-6.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
from numpy.typing import NDArray

from models.encoder import l2_normalised
from models.errors import DataError
from training.assemble import class_centers
from training.fit import Lesson, Snapshot, fit_network, load_snapshot
from training.keras_backend import be_deterministic
from training.labels import label
from training.networks import build_embedder
from training.parallel import cores
from training.progress import Advance, Progress, Stage, as_duration, step_s
from training.recipe import Recipe, ServedWeights
from training.storage import write_atomically
from training.study.clips import Division, StudyClips, count_features, study_clips
from training.study.figures import Figures, measure
from training.study.members import MemberScores, Scorer
from training.study.modifications import MODIFICATIONS
from training.study.plan import SYSTEMS, TRAININGS, StudiedSystem
from training.work import alone_in, claim

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Study:
    """What decides a study's figures, and the folder that it works in.

    ``trainings``: by name. ``systems``: made of them, the default first.
    """

    division: Division
    steps: int
    seeds: tuple[int, ...]
    work: Path
    trainings: Mapping[str, Recipe] = field(default_factory=lambda: TRAININGS)
    systems: tuple[StudiedSystem, ...] = SYSTEMS

    @property
    def runs(self) -> Iterator[tuple[int, str]]:
        """Every (seed, training), training by training: what is done is comparable, should time run out."""
        return ((seed, training) for training, seed in product(self.trainings, self.seeds))

    def recipe(self, training: str) -> Recipe:
        """The recipe of one training at this study's budget."""
        return replace(self.trainings[training], steps=self.steps)

    def folder(self, seed: int, training: str) -> Path:
        """Where a training keeps its network, its embeddings and its scores."""
        return self.work / f"seed-{seed}" / training

    def embeddings_path(self, seed: int, training: str, place: int, weights: ServedWeights) -> Path:
        """Where the embeddings of all clips by one snapshot lie; ``place`` is its place, from 0."""
        return self.folder(seed, training) / "embeddings" / f"{place}-{weights}.npz"

    def wanted(self, training: str) -> list[tuple[int, ServedWeights]]:
        """Which snapshots of a training, and which weights of them, some system is made of."""
        own = [system for system in self.systems if training in system.trainings]
        return sorted({(place, system.weights) for system in own for place in system.snapshot_places})

    def stages(self) -> list[Stage]:
        """What is done, with estimated times on this machine."""
        features = count_features(self.division)
        clips = features + (len(MODIFICATIONS) - 1) * len(self.division.held)
        recipe = next(iter(self.trainings.values()))
        step = step_s(recipe.networks[0], recipe.batch_size)
        return [
            Stage("features", features, 0.03 / cores()),
            Stage("scores", len(self.seeds) * len(self.systems), 10.0),
            *(
                stage
                for seed, training in self.runs
                for stage in (
                    Stage(f"{training}, seed {seed}", self.steps, step),
                    Stage(f"{training}, seed {seed}, clips", len(self.wanted(training)), clips * step / (3 * _BATCH)),
                )
            ),
        ]

    def describe(self) -> str:
        """The plan, for a person."""
        division, stages = self.division, self.stages()
        return (
            f"data      {len(division.train)} recordings to train on, {len(division.held)} held out, "
            f"{len(division.test)} for testing\n"
            f"study     {len(self.trainings)} trainings of {self.steps} steps with {len(self.seeds)} seeds, "
            f"{len(self.systems)} systems made of them\n"
            f"in all about {as_duration(sum(stage.estimate_s for stage in stages))}, less what is already done"
        )


def run_study(study: Study, *, workers: int | None = None) -> list[Figures]:
    """Train, embed and score what is not there yet, and return the figures of every system with every seed.

    Raises
    ------
    DataError : where the work folder holds another study, or one of an earlier version, or a recording cannot be used.
    TrainingDiverged : see there.
    """
    _refuse_earlier(study.work)
    with alone_in(study.work), Progress(study.stages()) as progress:
        clips = study_clips(
            study.division, study.work / "features", workers=workers, advance=progress.stage("features")
        )
        _claim(study, clips)
        _train(study, clips, progress)
        return _score(study, clips, progress.stage("scores"))


def _train(study: Study, clips: StudyClips, progress: Progress) -> None:
    """Train each network, and embed every clip with those of its snapshots and weights that are wanted."""
    be_deterministic()
    for seed, training in study.runs:
        steps = progress.stage(f"{training}, seed {seed}")
        paths = {wanted: study.embeddings_path(seed, training, *wanted) for wanted in study.wanted(training)}
        if all(path.exists() for path in paths.values()):
            steps(study.steps)
            progress.stage(f"{training}, seed {seed}, clips")(len(paths))
            continue
        (network,) = study.recipe(training).networks
        snapshots = fit_network(
            Lesson.of_store(clips.train, label(clips.train.clips)),
            network,
            study.recipe(training),
            study.folder(seed, training) / "network",
            seed=seed,
            advance=steps,
        )
        done = progress.stage(f"{training}, seed {seed}, clips")
        embedder = build_embedder(clips.train.mean.tolist(), clips.train.deviation.tolist())
        for (place, weights), path in paths.items():
            if not path.exists():
                _embed(clips, embedder, load_snapshot(snapshots[place], network, weights), path)
            done(1)
        keras.utils.clear_session()  # a study makes dozens of networks in one process


def _embed(clips: StudyClips, embedder: keras.Model, snapshot: Snapshot, path: Path) -> None:
    """Write the L2-normalised embeddings of all clips at their own speed and of the modified copies, (..., 128)."""
    for variable, value in zip(embedder.variables, snapshot.weights, strict=True):
        variable.assign(value)
    own = np.flatnonzero([clip.speed == 1.0 for clip in clips.train.clips])
    modified = clips.modified
    arrays: dict[str, Any] = {
        "train": _encode(embedder, clips.train.log_mels[own]),
        "held": _encode(embedder, clips.held.log_mels),
        "modified": _encode(embedder, modified.reshape(-1, *modified.shape[2:])).reshape(*modified.shape[:2], -1),
    }
    if clips.test is not None:
        arrays["test"] = _encode(embedder, clips.test.log_mels)
    write_atomically(path, lambda file: np.savez(file, **arrays))


def _encode(embedder: keras.Model, log_mels: NDArray[np.float32]) -> NDArray[np.float32]:
    starts = range(0, len(log_mels), _BATCH)
    embeddings = [embedder.predict_on_batch(np.asarray(log_mels[start : start + _BATCH])) for start in starts]
    return l2_normalised(np.concatenate(embeddings))


def _score(study: Study, clips: StudyClips, advance: Advance) -> list[Figures]:
    """The figures of every system with every seed, each written into a file of its own too."""
    recipe = study.recipe(study.systems[0].trainings[0])
    scorer = Scorer(clips, recipe)
    figures = []
    for seed, system in product(study.seeds, study.systems):
        members = {
            training: MemberScores.summed(
                _member_scores(study, scorer, seed, training, place, system) for place in system.snapshot_places
            )
            for training in system.trainings
        }
        totals = {
            name: MemberScores.summed(members[used] for used in system.trainings_of(name, study.trainings))
            for name in {key.machine_type for key in scorer.sections}
        }
        found = measure(system, seed, scorer, totals, recipe.percentile)
        path = study.work / "figures" / f"seed-{seed}" / f"{system.name.replace(' ', '-')}.json"
        write_atomically(path, partial(_write_json, value=found.to_json()))
        figures.append(found)
        advance(1)
    return figures


def _member_scores(
    study: Study, scorer: Scorer, seed: int, training: str, place: int, system: StudiedSystem
) -> MemberScores:
    """The scores of one snapshot, computed once for all systems that share it."""
    kind = f"{place}-{system.weights}-{system.backend}-{system.target_smote}"
    path = study.folder(seed, training) / "scores" / f"{kind}.npz"
    if not path.exists():
        recipe = study.recipe(training)
        (network,) = recipe.networks
        due = recipe.schedule(len(scorer.clips.train.clips)).snapshot_epochs[place]
        snapshot = load_snapshot(
            study.folder(seed, training) / "network" / "snapshots" / f"{due:05d}.npz", network, system.weights
        )
        with np.load(study.embeddings_path(seed, training, place, system.weights)) as embeddings:
            scores = scorer.score(
                {name: embeddings[name] for name in embeddings.files},
                class_centers(snapshot),
                backend=system.backend,
                target_smote=system.target_smote,
                seed=seed,
            )
        arrays: dict[str, Any] = {each.name: getattr(scores, each.name) for each in fields(MemberScores)}
        write_atomically(path, lambda file: np.savez(file, **arrays))
    with np.load(path) as kept:
        return MemberScores(**{each.name: kept[each.name] for each in fields(MemberScores)})


def _refuse_earlier(work: Path) -> None:
    """Earlier versions kept all in ``study.json``; their networks and figures would be taken for this study's."""
    if (work / "study.json").exists() and not (work / "run.json").exists():
        raise DataError(
            f"{work} holds a study of an earlier version ({work / 'study.json'}), whose networks do not say for "
            "themselves by what recipe they were trained. Choose another --work folder, or delete this one to start "
            "anew."
        )


def _claim(study: Study, clips: StudyClips) -> None:
    """Mark the work folder as this study's, and each training's as that training's; further trainings may come."""
    claim(study.work, {"recordings": clips.digest, "modifications": list(MODIFICATIONS)})
    for seed, training in study.runs:
        claim(study.folder(seed, training), {"recipe": study.recipe(training).decides_networks()})


def _write_json(file: BinaryIO, value: Mapping[str, Any]) -> None:
    file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
