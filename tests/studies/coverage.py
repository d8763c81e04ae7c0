"""How often the tables' intervals hold the truth, for scores that are made and of which it is known.

``python -m tests.studies.coverage [--repetitions N] [--scores SHAPE]``: groups as large as those of the README's
recordings, scored by two systems that hear half of their noise alike. Beside what the tables show stand percentiles of
the draws alone. The intervals suppose normally distributed scores of one spread; the other shapes are not what they
suppose, each in the direction that hurts.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from models.vocabulary import Condition
from tests.training.told import Told, ignore, recordings
from training.comparison import difference, totals
from training.layout import columns
from training.measure import measure
from training.metrics import MAX_FALSE_POSITIVE_RATE, Interval, harmonic_means, standardised
from training.resampling import Draws, interval
from training.tables import Estimate, Totals

SHARED = 0.5
"""Of the variance of both systems' scores."""

LOUD_SHARE = 0.08
LOUD = 6.0
"""Standard deviations that so many normal recordings are the louder by."""

_RATES = (np.arange(20_000) + 0.5) / 20_000

_Draws: TypeAlias = Mapping[Condition, Draws | None]


class Shape(StrEnum):
    """How scores are distributed."""

    NORMAL = "normal"
    HALF = "half"
    """Faulty ones of half the spread of normal ones."""
    QUARTER = "quarter"
    TAILS = "tails"
    """Student's of two degrees of freedom."""
    LOUD = "loud"
    """`LOUD_SHARE` of normal recordings stand out."""

    def of(self, noise: NDArray[np.float64], distance: float, *, faulty: bool) -> NDArray[np.float64]:
        """Scores of recordings, of normally distributed noise."""
        if self is Shape.TAILS:
            noise = scipy.stats.t.ppf(ndtr(noise), 2)
        if faulty:
            return distance + {Shape.HALF: 0.5, Shape.QUARTER: 0.25}.get(self, 1.0) * noise
        return noise + LOUD * (noise > ndtri(1.0 - LOUD_SHARE)) if self is Shape.LOUD else noise

    def truth(self, distance: float) -> tuple[float, float]:
        """AUC and pAUC over all recordings that there could be."""
        normal, faulty = (self.of(ndtri(_RATES), distance, faulty=which) for which in (False, True))
        hits = 1.0 - np.searchsorted(faulty, normal) / len(faulty)
        loudest = hits[_RATES > 1.0 - MAX_FALSE_POSITIVE_RATE]
        return float(hits.mean()), standardised(float(loudest.mean()) * MAX_FALSE_POSITIVE_RATE)


@dataclass(frozen=True, slots=True)
class Group:
    """Normal and faulty recordings, and by how many standard deviations each system tells them apart."""

    normal: int
    faulty: int
    distances: tuple[float, float]


GROUPS = (
    Group(25, 25, (0.47, 0.35)),
    Group(25, 25, (0.47, 0.0)),
    Group(4, 13, (1.47, 1.8)),
    Group(5, 8, (2.8, 0.36)),
    Group(8, 20, (1.99, 1.19)),
    Group(30, 45, (4.6, 3.3)),
    Group(30, 45, (3.64, 1.35)),
)

NEAR = tuple(
    Group(normal, faulty, (distance, 1.0)) for normal, faulty in ((25, 25), (30, 45)) for distance in (1.5, 2.0)
)
"""Faulty scores among the loudest tenth of normal ones, where a pAUC hangs on the shape of both."""


@dataclass(slots=True)
class Count:
    """Of so many intervals of a figure, how many held it, and how wide they were together."""

    total: int = 0
    held: int = 0
    width: float = 0.0

    def add(self, found: Interval | None, truth: float) -> None:
        assert found is not None
        self.total += 1
        self.held += found[0] <= truth <= found[1]
        self.width += found[1] - found[0]

    def __str__(self) -> str:
        """Share held, mean width."""
        return f"{self.held / self.total:.2f} ({self.width / self.total:.2f})"


Counts: TypeAlias = Mapping[str, tuple[Count, Count]]
"""By figure: the draws alone, and as the tables have it."""


def coverage(repetitions: int, shape: Shape = Shape.NORMAL, groups: Sequence[Group] = GROUPS) -> Counts:
    """Make scores, measure them as `evaluate` does, and count."""
    random = np.random.default_rng(0)
    counts: defaultdict[str, tuple[Count, Count]] = defaultdict(lambda: (Count(), Count()))
    own = [recordings(group.normal, group.faulty, machine_type=f"{place}") for place, group in enumerate(groups)]
    draws: list[_Draws] = [
        {
            condition: Draws.of([one.recording for one in given if one.condition is condition], f"{place}", condition)
            for condition in Condition
        }
        for place, given in enumerate(own)
    ]
    truths = [np.array([shape.truth(group.distances[system]) for group in groups]).T for system in range(2)]
    for _ in range(repetitions):
        noise = [random.normal(size=len(given)) for given in own]
        measured = []
        for system in range(2):
            found = {}
            for group, given, shared, drawn in zip(groups, own, noise, draws, strict=True):
                heard = np.sqrt(SHARED) * shared + np.sqrt(1.0 - SHARED) * random.normal(size=len(given))
                scores = np.where(
                    [one.condition is Condition.ANOMALY for one in given],
                    *(shape.of(heard, group.distances[system], faulty=which) for which in (True, False)),
                )
                told = dict(zip(given, scores.tolist(), strict=True))
                contender = Told(lambda one, _, told=told: told[one])  # type: ignore[misc]
                found[given[0].place] = measure(contender, given[0].place, list(contender.score(given, ignore)), drawn)
            measured.append(found)
        areas = [[one.areas for one in found.values() if one.areas is not None] for found in measured]
        both = difference(("first", "other"), measured[0], measured[1])
        for place, group in enumerate(groups):
            name = f"{group.normal} normal, {group.faulty} faulty"
            mine, theirs = (found[place] for found in areas)
            for word, one, truth in (("AUC", mine.auc, truths[0][0]), ("pAUC", mine.pauc, truths[0][1])):
                _add(counts[f"{word} {truth[place]:.3f}, {name}"], interval(one.draws), one.interval, truth[place])
            truth = truths[0][0][place] - truths[1][0][place]
            drawn_apart = interval(mine.auc.draws - theirs.auc.draws)
            _add(counts[f"AUC {truth:+.3f} to the other, {name}"], drawn_apart, both.groups[place].auc.interval, truth)
        alone = [_totals(*(np.stack([getattr(a, w).draws for a in own]) for w in ("auc", "pauc"))) for own in areas]
        true = [{name: float(v[0]) for name, v in _totals(*truth[:, :, None]).items()} for truth in truths]
        for field in fields(Totals):
            name, words = field.name, field.name.replace("_", " ")
            shown: Estimate = getattr(totals(measured[0]), name)
            _add(counts[f"{words} {true[0][name]:.3f}"], interval(alone[0][name]), shown.interval, true[0][name])
            shown, truth = getattr(both.totals, name), true[0][name] - true[1][name]
            drawn_apart = interval(alone[0][name] - alone[1][name])
            _add(counts[f"{words} {truth:+.3f} to the other"], drawn_apart, shown.interval, truth)
    return counts


def _add(count: tuple[Count, Count], drawn: Interval, shown: Interval | None, truth: float) -> None:
    count[0].add(drawn, truth)
    count[1].add(shown, truth)


def _totals(aucs: NDArray[np.float64], paucs: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
    """`Totals` of (places, n) figures."""
    return {
        "official_score": harmonic_means(np.concatenate([aucs, paucs])),
        "harmonic_mean_auc": harmonic_means(aucs),
        "mean_auc": aucs.mean(axis=0),
    }


def lines(counts: Counts) -> Iterator[tuple[str, str, str]]:
    """A line a figure."""
    for name, (drawn, shown) in counts.items():
        yield name, str(drawn), str(shown)


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--scores", type=Shape, choices=list(Shape), default=Shape.NORMAL)
    options = parser.parse_args()
    for groups in (GROUPS, NEAR):
        found = coverage(options.repetitions, options.scores, groups)
        print("\n".join(columns(("figure", "draws alone: held (width)", "as shown"), list(lines(found)))), end="\n\n")


if __name__ == "__main__":
    main()
