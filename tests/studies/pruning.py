"""What leaving members out does to test clips: mean AUC of each step of `prune`, beside other ways to choose as many.

``python -m tests.studies.pruning BUNDLE RECORDINGS --work W``, with the bundle's own work folder. Ways: ``agreement``,
that of `prune`. ``resemblance``: the members whose sum of the calibration clips' scores correlates best with that of
all, by the same elimination. ``any``: drawn, mean and range. A member's share of an anomaly score is computed once, and
an ensemble's score is the sum.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import CalibrationKey
from models.detector import Detector
from models.encoder import Device
from models.scoring import SectionModel, score_section
from models.vocabulary import Condition, SubSystem
from training.layout import columns
from training.metrics import auc
from training.prune import Pruning
from training.pruning import Confirmed, eliminate
from training.recordings import Recording, read_recordings
from training.test_clips import test_recordings as only_test_recordings

Shares = Mapping[CalibrationKey, tuple[NDArray[np.float64], NDArray[np.bool_]]]
"""By section and domain: what each member adds to the anomaly scores, (clips, members), and which clips are faulty."""


class Resembling(Confirmed):
    """All that the whole ensemble says is taken for signal: what a member shares with the sum of all."""

    @classmethod
    def as_the_whole(cls, confirmed: Confirmed) -> "Resembling":
        """From how the members vary together."""
        return cls(confirmed.covariance, confirmed.covariance.mean(axis=1))


def shares(detector: Detector, recordings: Sequence[Recording]) -> Shares:
    """Of the test recordings whose condition is told."""
    found: defaultdict[CalibrationKey, list[tuple[NDArray[np.float64], bool]]] = defaultdict(list)
    for one in recordings:
        features = detector.analyse(detector.decode(one.path))
        embeddings = detector.encode(detector.inputs(features), one.machine_type)[SubSystem.R]
        model = detector.bundle.sections[one.key]
        assert isinstance(model, SectionModel)
        parts = [replace(model, members=(member,)) for member in model.members]
        own = [
            score_section(part, embeddings[:, [i]], features.t_max, one.domain).anomaly_score.mean()
            for i, part in enumerate(parts)
        ]
        found[one.key, one.domain].append((np.array(own), one.condition is Condition.ANOMALY))
    return {
        place: (np.stack([own for own, _ in clips]), np.array([faulty for _, faulty in clips]))
        for place, clips in sorted(found.items())
    }


def mean_auc(shares_: Shares, members: Sequence[int]) -> float:
    """Over the sections and domains."""
    areas = []
    for own, faulty in shares_.values():
        scores = own[:, list(members)].sum(axis=1)
        areas.append(auc(scores[~faulty], scores[faulty]))
    return float(np.mean([area for area in areas if area is not None]))


def lines(pruning: Pruning, shares_: Shares, draws: int) -> Iterator[tuple[str, ...]]:
    """A line a number of members; for a bundle whose machine types are all scored by the same."""
    (group,) = pruning.groups
    every = group.left[0]
    networks = [pruning.whole.manifest.members[member].network for member in every]
    confirmed = Confirmed.of([scores.by_member for scores in pruning.scores.values()], networks)
    resembling = [left for _, left in eliminate(Resembling.as_the_whole(confirmed))]
    random = np.random.default_rng(0)
    for left, resembles in zip(group.left, resembling, strict=True):
        chosen = [every.index(member) for member in left]
        drawn = [mean_auc(shares_, random.permutation(len(every))[: len(left)].tolist()) for _ in range(draws)]
        yield (
            str(len(left)),
            f"{100 * mean_auc(shares_, chosen):.1f}",
            f"{100 * mean_auc(shares_, resembles):.1f}",
            f"{100 * float(np.mean(drawn)):.1f} ({100 * min(drawn):.1f}-{100 * max(drawn):.1f})",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.pruning", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("--work", type=Path, required=True, metavar="W")
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args(arguments)
    pruning = Pruning.of(options.bundle, options.work, 1)
    with closing(Detector(pruning.whole, device=Device.CPU)) as detector:
        found = shares(detector, only_test_recordings(read_recordings([options.recordings])))
    print(
        "\n".join(columns(("members", "agreement", "resemblance", "any"), list(lines(pruning, found, options.draws))))
    )
    print(f"mean AUC of {len(found)} sections and domains, per cent; {options.draws} draws")


if __name__ == "__main__":
    main()
