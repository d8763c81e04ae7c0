"""Training a baseline: recordings -> features -> networks -> thresholds, resumable, in one work folder.

The features are those of `training.features`, at their own speed, so that a folder ``features`` of another run on the
same recordings serves (a symbolic link to it will do). ``run.json`` says whose folder it is, as for a bundle's run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.frontend import LogMelSpec
from models.vocabulary import SectionKey
from training.baselines import autoencoder, floor, mobilenetv2
from training.baselines.examples import Examples, epoch_steps
from training.baselines.folder import is_finished, write_trained
from training.baselines.scorers import make_scorer
from training.baselines.thresholds import gamma_thresholds
from training.baselines.trained import Arrays, Budget, Network, Trained
from training.check_report import numbered
from training.features import FeatureStore, extract_features, training_clips
from training.keras_backend import be_deterministic
from training.parallel import cores
from training.progress import Advance, Progress, Stage, as_duration, matrix_rate
from training.recordings import Recording, training_recordings
from training.scored import SystemName
from training.work import alone_in, claim


class NetworkKind(Protocol):
    """What a module that trains networks gives: `autoencoder` and `mobilenetv2` do."""

    EXAMPLE_FLOP: float
    STEP_EFFICIENCY: float
    SCORE_S: float

    def networks(self, clips: Mapping[SectionKey, int]) -> dict[str, Network]:
        """Which to train for so many clips of each section."""

    def fit(self, examples: Examples, budget: Budget, folder: Path, *, seed: int, advance: Advance) -> Arrays:
        """Train one of them."""


KINDS: Mapping[SystemName, NetworkKind] = {
    SystemName.AUTOENCODER: autoencoder,
    SystemName.MOBILENETV2: mobilenetv2,
}
"""The floor is none of them."""


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """A baseline's training: what decides its result, and its folder.

    ``clips``: training clips of each section. ``networks``: those to train; none for the floor.
    """

    recordings: tuple[Recording, ...]
    kind: SystemName
    seed: int
    work: Path
    clips: Mapping[SectionKey, int]
    networks: Mapping[str, Network]

    @classmethod
    def of(cls, recordings: Sequence[Recording], kind: SystemName, seed: int, work: Path) -> "BaselineRun":
        """A run on the training recordings among ``recordings``.

        Raises
        ------
        NotTrainable : where there are none, or none that this kind can learn from.
        """
        training = training_recordings(recordings)
        clips = Counter(clip.recording.key for clip in training_clips(training, contrast=False))
        return cls(training, kind, seed, work, clips, KINDS[kind].networks(clips) if kind in KINDS else {})

    @property
    def n_clips(self) -> int:
        """Training clips of all sections."""
        return sum(self.clips.values())

    def stages(self) -> list[Stage]:
        """What the run does, with estimated times on this machine."""
        stages = [Stage("features", self.n_clips, 0.02 / cores())]
        if self.kind not in KINDS:
            return [*stages, Stage("floor", self.n_clips, 0.003)]
        kind = KINDS[self.kind]
        example_s = kind.EXAMPLE_FLOP / (kind.STEP_EFFICIENCY * matrix_rate())
        stages += [
            Stage(
                f"network {name}",
                network.budget.epochs * epoch_steps(self._clips_of(network), network.budget),
                network.budget.batch_size * example_s,
            )
            for name, network in self.networks.items()
        ]
        return [*stages, Stage("thresholds", self.n_clips, kind.SCORE_S)]

    def describe(self, device: str) -> str:
        """The plan, for a person: device, data, networks, stages and estimated time."""
        stages = self.stages()
        lines = [
            f"device    {device}",
            f"data      {numbered(len(self.recordings), 'recording')} of {numbered(len(self.clips), 'section')}, "
            f"{numbered(self.n_clips, 'clip')}",
            f"baseline  {self.kind}, seed {self.seed}",
            *(f"          {line}" for line in self._network_lines()),
            f"work      {self.work}",
            *(f"  {stage.name:<28} about {as_duration(stage.estimate_s)}" for stage in stages),
            f"in all about {as_duration(sum(stage.estimate_s for stage in stages))}, less what is already done",
        ]
        return "\n".join(lines)

    def _clips_of(self, network: Network) -> int:
        return sum(self.clips[key] for key in network.sections)

    def _network_lines(self) -> list[str]:
        lines = [
            f"network {name}: {numbered(len(network.sections), 'section')}, {self._clips_of(network)} clips, "
            f"{network.budget.epochs} epochs of {epoch_steps(self._clips_of(network), network.budget)} steps"
            for name, network in self.networks.items()
        ]
        if mobilenetv2.TOGETHER in self.networks:
            alone = sorted({key.machine_type for key in self.clips} - self.networks.keys())
            lines.append(
                f"{', '.join(alone)}: a single section each has nothing to be told from, so {mobilenetv2.TOGETHER} "
                "tells all sections of the run apart"
            )
        return lines


def train_baseline(run: BaselineRun, *, workers: int | None = None) -> None:
    """Train a baseline in its work folder; one that is finished there costs nothing.

    Parameters
    ----------
    workers : processes for the features; None is one a core.

    Raises
    ------
    DataError : where the work folder belongs to another run, or a recording cannot be used.
    TrainingDiverged, NotTrainable : see there.
    """
    with alone_in(run.work), Progress(run.stages()) as progress:
        store = extract_features(
            run.recordings,
            run.work / "features",
            spec=LogMelSpec(),
            contrast=False,
            workers=workers,
            advance=progress.stage("features"),
        )
        claimed = _claim(run, store)
        if is_finished(run.work):
            return
        if run.kind in KINDS:
            arrays = _fit_networks(run, store, progress)
            scorer = make_scorer(run.kind, run.networks, arrays)
            thresholds = gamma_thresholds(store, scorer, progress.stage("thresholds"))
        else:
            arrays, thresholds = floor.fit(store, run.seed, progress.stage("floor"))
        write_trained(
            run.work,
            Trained(
                kind=run.kind,
                seed=run.seed,
                recordings=claimed,
                clips=len(store.clips),
                front_end=LogMelSpec(),
                networks=run.networks,
                thresholds=thresholds,
                arrays=arrays,
            ),
        )


def _claim(run: BaselineRun, store: FeatureStore) -> str:
    """Mark the work folder as this run's; the digest of its recordings, their sounds and what they are."""
    of = {name: i for i, name in enumerate(dict.fromkeys(clip.recording.recording for clip in store.clips))}
    places = [
        (clip.recording.machine_type, clip.recording.section, clip.recording.domain, of[clip.recording.recording])
        for clip in store.clips
    ]
    recordings = hashlib.sha256(json.dumps([store.digest, places]).encode()).hexdigest()
    budgets = {name: asdict(network.budget) for name, network in run.networks.items()}
    claim(run.work, {"baseline": run.kind, "budget": budgets, "seed": run.seed, "recordings": recordings})
    return recordings


def _fit_networks(run: BaselineRun, store: FeatureStore, progress: Progress) -> Arrays:
    be_deterministic()
    keys = [clip.recording.key for clip in store.clips]
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, network in run.networks.items():
        rows = np.flatnonzero([key in network.sections for key in keys])
        classes = np.array([network.sections.index(keys[row]) for row in rows], np.int32)
        fitted = KINDS[run.kind].fit(
            Examples(store.log_mels, rows, classes),
            network.budget,
            run.work / "networks" / name,
            seed=run.seed,
            advance=progress.stage(f"network {name}"),
        )
        arrays |= {f"{name}/{path}": array for path, array in fitted.items()}
    return arrays
