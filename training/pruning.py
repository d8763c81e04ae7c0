"""Which members of an ensemble are marginal, told from the scores of training clips alone (paper 3).

A member's score of a clip is what the clip's sound does to every network, and what this one alone makes of it. Of worth
to the sum is the first, which other networks confirm. `Confirmed.agreement` is how closely an ensemble's score follows
what the networks have in common, and `eliminate` leaves out, one by one, the member without which that is largest.
So a member that hears what nobody else hears goes early, and so does one of two equal snapshots. To resemble the whole
ensemble's score instead would keep the former to the last, for nothing else can replace its noise.

Conventions: scores are (clips, members), nats, of normal clips that the mixtures have not seen where the threshold rule
holds them out. Snapshots of one network share its whims as well, and do not confirm each other while there are others.
Every clip counts alike: scores are centred within a section and domain, in units of the whole ensemble's deviation.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter, ValidationError

from models.errors import DataError
from training.metrics import Scores


@dataclass(frozen=True, slots=True)
class Step:
    """An ensemble on its way from all members to one.

    ``members``: how many are left. ``gone``: which has just been left out. ``agreement``: see `Confirmed`.
    ``p_values_moved``: how far the p-values of the clips that calibrate lie from the whole ensemble's, on average.
    ``decisions_changed``: the share of those clips that are decided otherwise, by thresholds calibrated anew.
    """

    members: int
    gone: str | None
    agreement: float
    p_values_moved: float
    decisions_changed: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The steps of the machine types that share members."""

    machine_types: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """Where a smaller ensemble comes from: the whole bundle's id, how many members were asked for, and the curves."""

    bundle: str
    members: int
    curves: tuple[Curve, ...]

    @classmethod
    def of(cls, training_data: Mapping[str, Any]) -> Self | None:
        """What a manifest's ``training_data`` says of it; None in a bundle that was not pruned.

        Raises
        ------
        DataError : for a field ``pruned`` that holds something else.
        """
        told = training_data.get("pruned")
        try:
            return None if told is None else TypeAdapter(cls).validate_python(told)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, ("pruned", *wrong["loc"])))
            raise DataError(
                f"The bundle's manifest does not tell how it was pruned ({place}: {wrong['msg']}). It was changed by "
                "hand, or made by another release: prune the whole bundle again with this one."
            ) from error

    def as_json(self) -> JsonValue:
        """For the manifest."""
        value: JsonValue = TypeAdapter(type(self)).dump_python(self, mode="json")
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Confirmed:
    """How the members of an ensemble vary together.

    ``covariance``: (members, members) over all clips. ``confirmed``: (members,) the mean covariance with the members of
    other networks.
    """

    covariance: NDArray[np.float64]
    confirmed: NDArray[np.float64]

    @classmethod
    def of(cls, places: Sequence[Scores], networks: Sequence[str]) -> Self:
        """From the scores of each section and domain, 0 of a member that does not score there.

        Parameters
        ----------
        places : (clips, members) each; one whose clips score alike tells nothing.
        networks : of which each member is a snapshot.
        """
        members = len(networks)
        covariance, clips = np.zeros((members, members)), 0
        for scores in places:
            centred = scores - scores.mean(axis=0) if len(scores) else scores
            variance = float(np.mean(centred.sum(axis=1) ** 2)) if len(scores) else 0.0
            if variance > 0.0:
                covariance += centred.T @ centred / variance
                clips += len(scores)
        covariance /= max(1, clips)
        others = np.array([[one != other for other in networks] for one in networks])
        if not others.any():  # of a single network its snapshots are all there is
            others = ~np.eye(members, dtype=bool)
        confirmed = (covariance * others).sum(axis=1) / np.maximum(1, others.sum(axis=1))
        return cls(covariance, confirmed)

    def agreement(self, members: Sequence[int]) -> float:
        """How closely the sum of ``members`` follows what the networks have in common, 1 as the sum of all does.

        The ratio of both sums' correlations with it, whatever its scale: confirmed covariance over deviation. 0 where
        the networks have nothing in common.
        """
        own, whole = self._correlation(members), self._correlation(range(len(self.confirmed)))
        return own / whole if whole > 0.0 else 0.0

    def _correlation(self, members: Sequence[int]) -> float:
        """But for a factor that is the same for all choices."""
        variance = float(self.covariance[np.ix_(members, members)].sum())
        return float(self.confirmed[list(members)].sum()) / float(np.sqrt(variance)) if variance > 0.0 else 0.0


def eliminate(
    confirmed: Confirmed, needed: Sequence[Collection[int]] = ()
) -> Iterator[tuple[int | None, tuple[int, ...]]]:
    """Leave out one member after the other: who goes, and who is left; first nobody, and all of them.

    Of equally good choices the last in the members' order goes.

    Parameters
    ----------
    needed : sets of members of which one must stay, those that score a machine type.
    """
    left = tuple(range(len(confirmed.confirmed)))
    yield None, left
    while True:
        choices = {gone: tuple(member for member in left if member != gone) for gone in left}
        choices = {
            gone: rest
            for gone, rest in choices.items()
            if rest and not any(set(others).isdisjoint(rest) for others in needed)
        }
        if not choices:
            return
        gone = max(choices, key=lambda member: (confirmed.agreement(choices[member]), member))
        left = choices[gone]
        yield gone, left


def p_values(scores: Scores) -> Scores:
    """Of each clip among all, (clips,): `models.decision.p_value` of a calibration's own clips, in one go."""
    lower = np.searchsorted(np.sort(scores), scores, side="left")
    values: Scores = (1 + len(scores) - lower) / (len(scores) + 1)
    return values
