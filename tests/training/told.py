"""Contenders whose scores are told: for what is measured of scores, whoever gave them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Condition, Decision, Domain, Split
from training.progress import Advance
from training.recordings import Recording
from training.scored import PartName, Scored, SystemName

Score = Callable[[Recording, int], float]
"""A recording and the number of a clip in it to a score."""


def ignore(_: int) -> None:
    """No bar."""


def recording(
    number: int,
    condition: Condition | None = Condition.NORMAL,
    machine_type: str = "fan",
    section: str = "00",
    domain: Domain = Domain.SOURCE,
    folder: Path = Path("/told"),
) -> Recording:
    """As the development set of 2021 names it, or without label the evaluation set."""
    told = "" if condition is None else f"_{condition}"
    name = f"section_{section}_{domain}_test{told}_{number:04d}.wav"
    path = folder / machine_type / f"{domain}_test" / name
    return Recording(path, machine_type, section, domain, Split.TEST, condition, "", str(path), challenge=True)


def recordings(normal: int, anomalous: int, **place: object) -> list[Recording]:
    """So many of each, of one section and domain."""
    counts = {Condition.NORMAL: normal, Condition.ANOMALY: anomalous}
    return [
        recording(number, condition, **place)  # type: ignore[arg-type]
        for condition, count in counts.items()
        for number in range(count)
    ]


def noisy(shift: float, *seeds: int) -> Score:
    """Normal scores around 0, anomalous ones around ``shift``; each of ``seeds`` brings noise of its own."""

    def score(one: Recording, clip: int) -> float:
        key = [ord(letter) for letter in one.path.name]
        noise = sum(np.random.default_rng([seed, clip, *key]).normal() for seed in seeds)
        return shift * (one.condition is Condition.ANOMALY) + float(noise)

    return score


@dataclass
class Told:
    """A contender that says of a clip what ``score`` says; scores above ``threshold`` are anomalous."""

    score_of: Score
    name: SystemName = SystemName.EARWITNESS
    bundle: str | None = None
    recipe: str | None = None
    seed: int | None = None
    threshold: float | None = 1.0
    clips: int = 1
    parts: Mapping[PartName, Score] = field(default_factory=dict)
    lacking: Mapping[tuple[str, Domain], str] = field(default_factory=dict)

    def lacks(self, one: Recording) -> str | None:
        return self.lacking.get((one.machine_type, one.domain))

    def score(self, given: Sequence[Recording], advance: Advance) -> Iterator[Scored]:
        for one in given:
            for clip in range(self.clips):
                score = self.score_of(one, clip)
                called = None if self.threshold is None else score > self.threshold
                yield Scored(
                    recording=one,
                    start_s=10.0 * clip,
                    anomaly_score=score,
                    decision_score=score,
                    threshold=self.threshold,
                    decision=None if called is None else Decision.ANOMALOUS if called else Decision.NORMAL,
                    parts={name: part(one, clip) for name, part in self.parts.items()},
                )
            advance(1)

    def close(self) -> None:
        """It holds nothing."""


def scores(clips: Iterable[Scored], condition: Condition) -> NDArray[np.float64]:
    """Anomaly scores of the clips of one condition."""
    return np.array([clip.anomaly_score for clip in clips if clip.recording.condition is condition])
