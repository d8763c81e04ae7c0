"""What a system says of test clips: the one form in which bundles and baselines enter the tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from models.vocabulary import Decision
from training.progress import Advance
from training.recordings import Recording


class PartKind(StrEnum):
    """What of a score is measured apart: a term of Eqs. (2) to (4), or the members that were trained with one loss."""

    TERM = "term"
    LOSS = "loss"


PartName = tuple[PartKind, str]


class SystemName(StrEnum):
    """The systems that stand in tables."""

    EARWITNESS = "earwitness"
    AUTOENCODER = "autoencoder"
    MOBILENETV2 = "mobilenetv2"
    FLOOR = "floor"


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One test clip; a plant's longer recording gives several, each from ``start_s`` on.

    ``parts``: scores of each term and loss apart, nats; empty for a system that has none.
    """

    recording: Recording
    start_s: float
    anomaly_score: float
    decision_score: float
    threshold: float | None
    decision: Decision | None
    parts: Mapping[PartName, float]


class Contender(Protocol):
    """A system that is ready to score: a bundle on its device, or a trained baseline.

    ``bundle`` and ``recipe`` are None for a baseline.
    """

    name: SystemName
    bundle: str | None
    recipe: str | None
    seed: int | None

    def lacks(self, recording: Recording) -> str | None:
        """Why this recording cannot be scored ("it does not know the section"); None where it can."""

    def score(self, recordings: Sequence[Recording], advance: Advance) -> Iterator[Scored]:
        """The clips of ``recordings``, none of which it lacks, in any order.

        Raises
        ------
        DataError : for a recording that cannot be decoded, naming it.
        """

    def close(self) -> None:
        """Give back what it holds."""


@runtime_checkable
class Composed(Protocol):
    """A contender of several networks, of which a smaller one may stand beside it."""

    members: int
    """How many score a clip, at most."""


@runtime_checkable
class Descended(Protocol):
    """A contender that knows what it was made from, but for its seed: those of one lineage differ in the seed only."""

    @property
    def lineage(self) -> str:
        """Equal for equal recipes on equal recordings."""
