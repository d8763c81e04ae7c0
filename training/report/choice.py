"""Which clips are shown: those most wrongly scored, and where none is wrong, normal ones that score highest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.decision import deviation
from models.vocabulary import Condition
from training.metrics import Scores
from training.report.contents import anomaly_scores, by_place, of_condition
from training.scored import Scored

SHOWN = 10


class Wrong(StrEnum):
    """How a clip stands out."""

    MISSED = "faulty, and scored low"
    ALARMED = "normal, and scored high"
    HIGHEST = "normal, among the highest scores"


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A clip to show: ``beaten`` of the ``others`` clips of the other condition in its place are on its wrong side."""

    clip: Scored
    wrong: Wrong
    beaten: int
    others: int


def on_the_wrong_side(normal: Scores, anomalous: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each normal clip how many anomalous ones do not score above it; for each anomalous one the reverse.

    Parameters
    ----------
    normal : (n,) scores of the normal clips of one place.
    anomalous : (m,) of the anomalous ones.

    Returns
    -------
    (n,) and (m,) counts: from 0 for a clip that is ranked right to m, or n, for one that could not be ranked worse.
    """
    below = np.searchsorted(np.sort(anomalous), normal, side="right")
    above = len(normal) - np.searchsorted(np.sort(normal), anomalous, side="left")
    return below.astype(np.int64), above.astype(np.int64)


def wrongness(beaten: int, others: int) -> float:
    """How wrongly a clip is ranked, comparable between places: (beaten + 1/2) / (others + 1).

    Being outscored by all of 25 clips says more than by all of 4.
    """
    return (beaten + 0.5) / (others + 1.0)


def choose(clips: Sequence[Scored], p_value: Callable[[Scored], float | None], count: int = SHOWN) -> list[Chosen]:
    """The ``count`` clips most wrongly scored; where fewer are wrong at all, filled up with the highest normal ones.

    Scores are compared within a place only. Equally wrong clips come by how far they lie from the normal clips of their
    place, then by path.

    Parameters
    ----------
    clips : of one system.
    p_value : how rarely a normal clip scores as high; says which normal clips are the highest.
    """
    wrong: list[tuple[float, float, Chosen]] = []
    highest: list[tuple[float, float, Chosen]] = []
    for own in by_place(clips).values():
        kinds = [of_condition(own, condition) for condition in (Condition.NORMAL, Condition.ANOMALY)]
        normal, anomalous = map(anomaly_scores, kinds)
        for kind, others, counts, name, sign in zip(
            kinds,
            (len(anomalous), len(normal)),
            on_the_wrong_side(normal, anomalous),
            (Wrong.ALARMED, Wrong.MISSED),
            (1.0, -1.0),
            strict=True,
        ):
            for clip, beaten in zip(kind, counts.tolist(), strict=True):
                distance = sign * (deviation(clip.anomaly_score, normal) or 0.0)
                if beaten:
                    wrong.append((-wrongness(beaten, others), -distance, Chosen(clip, name, beaten, others)))
                elif name is Wrong.ALARMED:
                    rarity = p_value(clip)
                    found = Chosen(clip, Wrong.HIGHEST, 0, others)
                    highest.append((1.0 if rarity is None else rarity, -distance, found))
    return [chosen for *_, chosen in [*sorted(wrong, key=_order), *sorted(highest, key=_order)][:count]]


def _order(ranked: tuple[float, float, Chosen]) -> tuple[float, float, str, float]:
    first, second, chosen = ranked
    return first, second, chosen.clip.recording.path.as_posix(), chosen.clip.start_s
