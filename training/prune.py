"""A smaller ensemble: which members of a bundle are marginal, and a bundle of those that are not.

The choice is made on the training clips that calibrate the bundle, by what its run's work folder keeps of them; no
recording is read. Networks and mixtures stay as they are, and thresholds are those of the members that stay, by the
code that calibrates any ensemble: the smaller bundle is what training these members alone would have given. Nothing but
the finished bundle is written, so a run that was killed is run again, and comes to the same bundle.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from models.bundle import Bundle, CalibrationKey, read_bundle
from models.decision import Calibration
from models.errors import DataError
from models.manifest import Manifest
from models.scoring import SectionModel
from models.vocabulary import LossChoice
from training.bundling import write_with_canary
from training.calibration import CalibrationScores
from training.kept_scores import kept_scores
from training.pruning import Confirmed, Curve, Pruned, Step, eliminate, p_values


@dataclass(frozen=True, slots=True)
class Group:
    """Machine types that share members: only together can they lose one.

    ``left``: who is left at each step of ``curve``, by their places in the manifest, ascending; first all.
    """

    left: tuple[tuple[int, ...], ...]
    curve: Curve

    def kept(self, n_members: int) -> tuple[int, ...]:
        """The last ``n_members`` to be left: all where there are no more, and of a sum of losses one for each type."""
        return next((left for left in self.left if len(left) <= n_members), self.left[-1])


@dataclass(frozen=True)
class Pruning:
    """A bundle, what its members say of the clips that calibrate it, and how many of them shall score a clip.

    ``n_members``: None where the curve alone is asked for, and no smaller bundle.
    """

    whole: Bundle
    scores: Mapping[CalibrationKey, CalibrationScores]
    n_members: int | None

    @classmethod
    def of(cls, folder: Path, work: Path, n_members: int | None) -> "Pruning":
        """Of a bundle's folder, and the work folder of the run that has made it.

        Raises
        ------
        BundleError : where the bundle cannot be read.
        DataError : where it cannot be pruned to so many, or the work folder is not its own.
        """
        whole = read_bundle(folder)
        manifest = whole.manifest
        if manifest.fusion is not None:
            raise DataError(
                f"{folder} fuses systems by p-value: each of its networks stands for a fold of the training clips, and "
                "a score needs them all. Prune an ensemble, of the recipe paper, quick or smoke."
            )
        if (pruned := Pruned.of(manifest.training_data)) is not None:
            wanted = "" if n_members is None else f" to {n_members} members"
            raise DataError(f"{folder} is pruned already. Prune the whole bundle {pruned.bundle}{wanted}.")
        if "extended" in manifest.training_data:
            raise DataError(
                f"{folder} was extended, and nothing is kept of the new clips by member. Prune the bundle that it was "
                "extended from, and extend the smaller one."
            )
        most = max(len(manifest.members_of(machine_type)) for machine_type in manifest.machine_types)
        if n_members is not None and n_members >= most:
            remedy = f"ask for 1 to {most - 1}" if most > 1 else "there is nothing to leave out"
            raise DataError(
                f"In {folder} no more than {most} members score a clip, and {n_members} are asked: {remedy}."
            )
        return cls(whole, kept_scores(work, whole), n_members)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The machine types by the members that they share."""
        return tuple(map(self._group, _sharing(self.whole.manifest)))

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """The members that stay, by their places in the whole bundle's manifest, ascending."""
        return tuple(sorted(member for group in self.groups for member in group.kept(self._wanted)))

    @property
    def _wanted(self) -> int:
        assert self.n_members is not None, "the curve alone was asked for"
        return self.n_members

    def write(self, out: Path) -> Bundle:
        """Write the smaller bundle; raises `BundleError` where it cannot be written."""
        manifest = self.whole.manifest
        members = tuple(manifest.members[place] for place in self.kept)
        training_data = self._training_data({member.network for member in members})
        changes = {"members": members, "training_data": training_data, "metrics": None, "files": {}}
        return write_with_canary(
            out,
            replace(
                self.whole,
                manifest=manifest.model_copy(update=changes),
                embedders={member.file: self.whole.embedders[member.file] for member in members},
                sections={
                    key: self.model_of(key.machine_type, model, self.kept)
                    for key, model in self.whole.sections.items()
                    if isinstance(model, SectionModel)
                },
                calibrations={
                    place: replace(one, calibration=self._calibration(place, self.kept))
                    for place, one in self.whole.calibrations.items()
                },
                canary=None,
                folder=None,
            ),
        )

    def model_of(self, machine_type: str, model: SectionModel, members: Sequence[int]) -> SectionModel:
        """The part of a section's mixtures that belongs to some members of the manifest."""
        return replace(model, members=tuple(model.members[place] for place in self._columns(machine_type, members)))

    def _columns(self, machine_type: str, members: Sequence[int]) -> list[int]:
        """Where those of ``members`` that score a machine type stand among its members."""
        own = self.whole.manifest.members_of(machine_type)
        return [column for column, member in enumerate(own) if member in members]

    def _calibration(self, place: CalibrationKey, members: Sequence[int]) -> Calibration:
        percentile = self.whole.calibrations[place].calibration.percentile
        return self.scores[place].calibration(percentile, self._columns(place[0].machine_type, members))

    def _training_data(self, networks: set[str]) -> dict[str, JsonValue]:
        """The whole bundle's, of the networks that stay; of how many components were dropped only all members tell."""
        whole = self.whole.manifest.training_data
        told = {name: value for name, value in whole.items() if name != "dropped_components"}
        for name in ("curves", "scale_limited_epochs"):
            by_network = told.pop(name, None)
            if isinstance(by_network, dict) and (
                own := {one: by_network[one] for one in by_network if one in networks}
            ):
                told[name] = own
        pruned = Pruned(self.whole.id, self._wanted, tuple(group.curve for group in self.groups))
        return {**told, "pruned": pruned.as_json()}

    def _group(self, machine_types: Sequence[str]) -> Group:
        manifest = self.whole.manifest
        members = sorted({member for name in machine_types for member in manifest.members_of(name)})
        columns = {name: [members.index(member) for member in manifest.members_of(name)] for name in machine_types}
        places = [place for place in sorted(self.scores) if place[0].machine_type in columns]
        wide = []
        for place in places:
            wide.append(np.zeros((len(self.scores[place].by_member), len(members))))
            wide[-1][:, columns[place[0].machine_type]] = self.scores[place].by_member
        confirmed = Confirmed.of(wide, [manifest.members[member].network for member in members])
        left, steps = [], []
        for gone, rest in eliminate(confirmed, list(columns.values())):
            left.append(tuple(members[column] for column in rest))
            moved, changed = self._compared(places, left[-1])
            name = None if gone is None else manifest.members[members[gone]].id
            steps.append(Step(len(rest), name, round(confirmed.agreement(rest), 6), round(moved, 6), round(changed, 6)))
        return Group(tuple(left), Curve(tuple(machine_types), tuple(steps)))

    def _compared(self, places: Sequence[CalibrationKey], members: Sequence[int]) -> tuple[float, float]:
        """How far p-values move from the whole ensemble's, on average, and the share of clips decided otherwise."""
        moved, changed = [np.empty(0)], [np.empty(0)]
        for place in places:
            own = self._columns(place[0].machine_type, members)
            by_member = self.scores[place].by_member
            scores = by_member.sum(axis=1), np.take(by_member, own, axis=1).sum(axis=1)
            thresholds = (
                self.whole.calibrations[place].calibration.threshold,
                self._calibration(place, members).threshold,
            )
            moved.append(np.abs(p_values(scores[0]) - p_values(scores[1])))
            if thresholds[0] is not None and thresholds[1] is not None:
                changed.append((scores[0] > thresholds[0]) != (scores[1] > thresholds[1]))
        clips = np.concatenate(moved), np.concatenate(changed)
        return float(clips[0].mean()) if len(clips[0]) else 0.0, float(clips[1].mean()) if len(clips[1]) else 0.0


def _sharing(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """Machine types by whose members score them; where some are scored by the sum of all, all share their members."""
    by_loss: dict[LossChoice, list[str]] = {}
    for name, entry in sorted(manifest.machine_types.items()):
        by_loss.setdefault(entry.loss, []).append(name)
    if LossChoice.SUM in by_loss:
        yield tuple(sorted(manifest.machine_types))
    else:
        yield from map(tuple, by_loss.values())
