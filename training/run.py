"""What a run is: recordings, recipe, seed and work folder; its stages and the plan for a person."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

from models.compact import FOLDS
from models.vocabulary import LossChoice
from training.choices import departures
from training.curves import Curve
from training.features import CONTRAST_SPEEDS, count_clips
from training.fit import limited_epochs, training_curve
from training.labels import needs_contrast
from training.parallel import cores
from training.progress import Stage, as_duration, step_s
from training.recipe import Backend, FoldNetwork, LeftOutNetwork, Network, Recipe, Schedule
from training.recordings import Recording, training_recordings


class Until(IntEnum):
    """How far a run goes."""

    FEATURES = 1
    FIT = 2
    EXPORT = 3
    BUNDLE = 4


@dataclass(frozen=True)
class Run:
    """A training run: what decides its result, and the folder where its stages meet."""

    recordings: tuple[Recording, ...]
    recipe: Recipe
    seed: int
    work: Path

    @classmethod
    def of(cls, recordings: Sequence[Recording], recipe: Recipe, seed: int, work: Path) -> "Run":
        """A run on the training recordings among ``recordings``.

        Raises
        ------
        NotTrainable : where there are none, or none of a section's usual condition.
        """
        return cls(training_recordings(recordings), recipe, seed, work)

    @cached_property
    def contrast(self) -> bool:
        """Whether a head would have a single class, so that copies at other speeds join the training."""
        if self.recipe.backend is Backend.FOLDS:
            return False  # the dynamics need nothing to be told apart from
        return needs_contrast(self.recordings, attribute_head=LossChoice.BOTH_HEADS in self.recipe.heads)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The networks to train: with the back end `folds` none where they would have nothing to tell apart."""
        alone = len({recording.attribute_class for recording in self.recordings}) < 2
        return () if alone and self.recipe.backend is Backend.FOLDS else self.recipe.networks

    @cached_property
    def n_clips(self) -> int:
        """Training clips, contrast copies included."""
        return count_clips(self.recordings, contrast=self.contrast)

    def schedule(self, network: Network) -> Schedule:
        """A network's schedule; one that leaves a fold out hears about four clips of five."""
        leaves_out = isinstance(network, FoldNetwork | LeftOutNetwork)
        return self.recipe.schedule(self.n_clips * (FOLDS - 1) // FOLDS if leaves_out else self.n_clips)

    def stages(self, until: Until = Until.BUNDLE) -> list[Stage]:
        """What a run up to ``until`` does, with estimated times on this machine."""
        members = len(self.networks) * self.recipe.snapshots
        own_clips = self.n_clips // (1 + len(CONTRAST_SPEEDS) * self.contrast)
        ensembles = 1 + FOLDS * any(isinstance(network, LeftOutNetwork) for network in self.networks)
        stages = [
            (Until.FEATURES, Stage("features", self.n_clips, 0.02 / cores())),
            *(
                (
                    Until.FIT,
                    Stage(
                        f"network {network.name}",
                        self.schedule(network).steps,
                        step_s(network, self.recipe.batch_size),
                    ),
                )
                for network in self.networks
            ),
            (Until.EXPORT, Stage("export", members, 1.0 if self.recipe.backend is Backend.FOLDS else 5.0)),
            (Until.BUNDLE, Stage("embeddings", ensembles * own_clips, 0.002 * members / ensembles)),
            (Until.BUNDLE, Stage("back end", 2 * own_clips, 0.008 * max(1, members))),
        ]
        return [stage for place, stage in stages if place <= until]

    def describe(self, device: str, until: Until = Until.BUNDLE) -> str:
        """The plan, for a person: device, data, stages and estimated time."""
        stages = self.stages(until)
        schedule = self.schedule(self.networks[0]) if self.networks else self.recipe.schedule(self.n_clips)
        sections = {recording.key for recording in self.recordings}
        lines = [
            f"device    {device}",
            f"data      {len(self.recordings)} recordings of {len(sections)} sections, {self.n_clips} clips"
            + (", copies at four other speeds as contrast classes among them" if self.contrast else ""),
            f"recipe    {self.recipe.name}: "
            + (
                f"{len(self.networks)} networks, {schedule.epochs} epochs of {schedule.epoch_steps} steps, snapshots "
                f"after {', '.join(map(str, schedule.snapshot_epochs))}"
                if self.networks
                else "no networks, which would have nothing to tell apart; how the sound moves (F) scores alone"
            )
            + "".join(f", {departure}" for departure in departures(self.recipe)),
            f"work      {self.work}",
            *(f"  {stage.name:<28} about {as_duration(stage.estimate_s)}" for stage in stages),
            f"in all about {as_duration(sum(stage.estimate_s for stage in stages))}, less what is already done",
        ]
        return "\n".join(lines)

    def curves(self, networks: Iterable[Network]) -> dict[str, Curve]:
        """How the training of each network went, by its name."""
        return {network.name: training_curve(self.work / "networks" / network.name) for network in networks}

    def limited_epochs(self) -> dict[str, int]:
        """By network, in how many epochs an AdaCos scale met its limit."""
        return {network.name: limited_epochs(self.work / "networks" / network.name) for network in self.networks}
