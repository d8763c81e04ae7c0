"""How often the warning `unlike_the_others` is right: of three honest clips, and of two with a foreign one.

``python -m tests.studies.foreign_clips BUNDLE RECORDINGS`` draws the clips from the training clips of source domain, by
chance, and appraises them as a registration does. Foreign is a clip of another section. The bundle's networks know the
clips; of clips that they do not know, honest ones too are farther from each other.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.audio import Clip
from models.detector import Detector
from models.encoder import Device
from models.systems import Embeddings, Features, joined
from models.vocabulary import Domain, SectionKey, Split, WarningCode
from training.layout import columns
from training.recordings import Recording, read_recordings

HEADER = ("section", "foreign", "warned of one of three, %", "foreign one found, %")
LEAST_CLIPS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A clip's first window as the detector takes it in."""

    clip: Clip
    features: Features
    embeddings: Embeddings


def hear(detector: Detector, recording: Recording) -> Heard:
    """Decode, analyse and encode."""
    clip = detector.decode(recording.path)
    features = detector.analyse(clip)
    return Heard(clip, features, detector.encode(detector.inputs(features), recording.key.machine_type))


def warned(detector: Detector, key: SectionKey, three: Sequence[Heard]) -> list[bool]:
    """Of each clip, whether it is said to be unlike the others."""
    appraisals = detector.appraise(
        key,
        [one.clip for one in three],
        Features.joined([one.features for one in three]),
        joined([one.embeddings for one in three]),
    )
    return [any(notice.code is WarningCode.UNLIKE_THE_OTHERS for notice in one.warnings) for one in appraisals]


def study(
    detector: Detector, heard: Mapping[SectionKey, Sequence[Heard]], draws: int
) -> Iterator[tuple[str, str, str, str]]:
    """The lines of the table; foreign are sections that the same networks hear."""
    random = np.random.default_rng(0)
    for key, own in heard.items():

        def drawn(clips: Sequence[Heard], count: int) -> list[Heard]:
            return [clips[place] for place in random.choice(len(clips), count, replace=False)]

        honest = [any(warned(detector, key, drawn(own, 3))) for _ in range(draws)]
        yield f"{key.machine_type} {key.section}", "-", f"{100 * np.mean(honest):.1f}", "-"
        for other, clips in heard.items():
            if other != key and detector.members_of(other.machine_type) == detector.members_of(key.machine_type):
                found = [warned(detector, key, [*drawn(own, 2), *drawn(clips, 1)])[2] for _ in range(draws)]
                yield "", f"{other.machine_type} {other.section}", "-", f"{100 * np.mean(found):.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.foreign_clips", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args(arguments)
    with closing(Detector.load(options.bundle, device=Device.CPU)) as detector:
        heard: dict[SectionKey, list[Heard]] = {key: [] for key in detector.sections}
        for recording in read_recordings([options.recordings]):
            if (recording.split, recording.domain) == (Split.TRAIN, Domain.SOURCE) and recording.key in heard:
                heard[recording.key].append(hear(detector, recording))
        enough = {key: clips for key, clips in heard.items() if len(clips) >= LEAST_CLIPS}
        print("\n".join(columns(HEADER, list(study(detector, enough, options.draws)))))


if __name__ == "__main__":
    main()
