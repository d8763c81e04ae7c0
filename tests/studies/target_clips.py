"""What registering a few target clips does: false alarms and hits before and after, by rule and number of clips.

``python -m tests.studies.target_clips BUNDLE RECORDINGS --work W`` measures the target domains that the recordings
have, and a made one of each section that has none and thirty source clips: the same recordings through another
microphone (`tests.studies.copies.other_microphone`), training clips to register and test clips to judge. Clips are
registered as the service registers them, by `Detector.fit_target`.

Rules: ``before``, the source references and threshold. ``registered``, the rule in force: the clips' mean, and the
offsets of the bundle's source scores. ``ranks``, of the registered clips' own scores alone, each against the others;
n of them promise no less than 1/(n + 1).
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.audio import Clip
from models.decision import Calibration
from models.detector import MIN_TARGET_CLIPS, Detector
from models.encoder import Device
from models.systems import Embeddings, Features, TargetModel, joined
from models.vocabulary import Condition, Domain, SectionKey, Split
from tests.studies.copies import copied, other_microphone
from training.layout import columns
from training.metrics import auc
from training.recordings import Recording, read_recordings

NUMBERS = (3, 5, 9, 19, 29)
"""Of 9, 19 and 29 clips ranks can promise 10, 5 and 3.3 %."""
RATE = 0.1
LEAST_SOURCE_CLIPS = 30
HEADER = ("target domain", "clips", "rule", "AUC", "false alarms", "hits")


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A clip as the detector takes it in."""

    recording: Recording
    clip: Clip
    features: Features
    embeddings: Embeddings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the test clips: AUC, shares of normal and of anomalous clips that alarm."""

    auc: float
    false_alarms: float
    hits: float


class Section:
    """A section of a bundle, and clips of its target domain."""

    def __init__(self, detector: Detector, key: SectionKey, testing: Iterable[Recording]) -> None:
        self._detector, self._key = detector, key
        self._testing = [self.hear(recording) for recording in testing]

    def hear(self, recording: Recording) -> Heard:
        """Decode, analyse and encode."""
        clip = self._detector.decode(recording.path)
        features = self._detector.analyse(clip)
        embeddings = self._detector.encode(self._detector.inputs(features), self._key.machine_type)
        return Heard(recording, clip, features, embeddings)

    def register(self, clips: Sequence[Heard]) -> TargetModel:
        """As the service does."""
        return self._detector.fit_target(
            self._key,
            Features.joined([one.features for one in clips]),
            joined([one.embeddings for one in clips]),
            [one.clip.level_dbfs for one in clips],
        )

    def before(self) -> Outcome:
        """By the source references and threshold."""
        return self._outcome(Domain.SOURCE, None, self._detector.calibrations[self._key, Domain.SOURCE].threshold)

    def registered(self, clips: Sequence[Heard]) -> Outcome:
        """By the rule in force."""
        target = self.register(clips)
        return self._outcome(Domain.TARGET, target, target.calibration.threshold)

    def ranked(self, clips: Sequence[Heard]) -> Outcome | None:
        """By the ranks of the clips' own scores; None where they are too few to leave one out."""
        if len(clips) <= MIN_TARGET_CLIPS:
            return None
        scores = []
        for place, one in enumerate(clips):
            target = self.register([*clips[:place], *clips[place + 1 :]])
            scores.append(self._score(one, Domain.TARGET, target))
        rule = self._detector.calibrations[self._key, Domain.SOURCE].rule
        threshold = Calibration.from_scores(scores, rule, 100.0 * (1.0 - RATE), ranked=True).threshold
        return self._outcome(Domain.TARGET, self.register(clips), threshold)

    def _score(self, one: Heard, domain: Domain, target: TargetModel | None) -> float:
        scores = self._detector.rate(self._key, domain, one.features, one.embeddings, target=target)
        return self._detector.assess(self._key, domain, one.clip, scores, target=target).decision_score

    def _outcome(self, domain: Domain, target: TargetModel | None, threshold: float | None) -> Outcome:
        assert threshold is not None
        normal, anomalous = (
            np.array(
                [self._score(one, domain, target) for one in self._testing if one.recording.condition is condition]
            )
            for condition in (Condition.NORMAL, Condition.ANOMALY)
        )
        area = auc(normal, anomalous)
        assert area is not None
        return Outcome(area, float((normal > threshold).mean()), float((anomalous > threshold).mean()))


def study(detector: Detector, recordings: Sequence[Recording], work: Path, draws: int) -> Iterator[tuple[str, ...]]:
    """The lines of the table; the made domain's clips are drawn ``draws`` times for each number."""
    for key in sorted({recording.key for recording in recordings} & set(detector.sections)):
        own = [recording for recording in recordings if recording.key == key]
        training = [recording for recording in own if recording.split is Split.TRAIN]
        target = [recording for recording in training if recording.domain is Domain.TARGET]
        source = [recording for recording in training if recording.domain is Domain.SOURCE]
        if len(target) >= MIN_TARGET_CLIPS:
            testing = [one for one in own if (one.split, one.domain) == (Split.TEST, Domain.TARGET)]
            section = Section(detector, key, testing)
            clips = [section.hear(one) for one in target]
            yield _line(key, "-", "before", [section.before()])
            yield _line(key, str(len(clips)), "registered", [section.registered(clips)])
        elif not target and len(source) >= LEAST_SOURCE_CLIPS:
            yield from _made(detector, key, own, source, work, draws)


def _made(
    detector: Detector,
    key: SectionKey,
    own: Sequence[Recording],
    source: Sequence[Recording],
    work: Path,
    draws: int,
) -> Iterator[tuple[str, ...]]:
    """The section's recordings through another microphone; noise of seed 0 to register, of seed 1 to judge."""
    testing = [one for one in own if one.split is Split.TEST]
    section = Section(detector, key, copied(testing, work / "test", other_microphone, 1))
    yield _line(key, "-", "before", [section.before()])
    most = max(NUMBERS)
    outcomes: dict[tuple[int, str], list[Outcome]] = {}
    for draw in range(draws):
        rows = np.random.default_rng(draw).permutation(len(source))[:most]
        drawn = copied([source[row] for row in rows], work / "register", other_microphone, 0)
        clips = [section.hear(one) for one in drawn]
        for n in NUMBERS:
            outcomes.setdefault((n, "registered"), []).append(section.registered(clips[:n]))
            if (ranked := section.ranked(clips[:n])) is not None:
                outcomes.setdefault((n, "ranks"), []).append(ranked)
    for (n, rule), found in sorted(outcomes.items()):
        yield _line(key, str(n), rule, found)


def _line(key: SectionKey, clips: str, rule: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    columns_ = ([one.auc for one in outcomes], [one.false_alarms for one in outcomes], [one.hits for one in outcomes])
    cells = []
    for values in columns_:
        several = f" ({100 * min(values):.0f}-{100 * max(values):.0f})" if len(values) > 1 else ""
        cells.append(f"{100 * float(np.mean(values)):.0f}{several}")
    return f"{key.machine_type} {key.section}", clips, rule, *cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.target_clips", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("--work", type=Path, required=True, metavar="W")
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args(arguments)
    with closing(Detector.load(options.bundle, device=Device.CPU, false_alarm_rate=lambda _: RATE)) as detector:
        table = list(study(detector, read_recordings([options.recordings]), options.work, options.draws))
    print("\n".join(columns(HEADER, table)))
    print(f"per cent, at {100 * RATE:g} % asked; mean and range of {options.draws} draws")


if __name__ == "__main__":
    main()
