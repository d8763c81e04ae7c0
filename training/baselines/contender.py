"""A trained baseline as a contender: its clips are those that a bundle scores, decoded and cut by the same function."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.audio import Clip, decode, windows
from models.decision import decide
from models.frontend import log_mel
from training.baselines.folder import read_trained
from training.baselines.scorers import make_scorer
from training.progress import Advance
from training.recordings import Recording
from training.scored import Contender, Scored
from training.test_clips import CutClip, ahead, read_clips


def open_baseline(work: Path) -> Contender:
    """Open the baseline that was trained in ``work``.

    Raises
    ------
    DataError : where the folder holds no finished one.
    """
    return BaselineContender(work)


class BaselineContender:
    """See `training.scored.Contender`.

    Parameters
    ----------
    work : the folder it was trained in.
    """

    def __init__(self, work: Path) -> None:
        trained = read_trained(work)
        self.name = trained.kind
        self.bundle: str | None = None
        self.recipe: str | None = None
        self.seed: int | None = trained.seed
        self._trained = trained
        self._scorer = make_scorer(trained.kind, trained.networks, trained.arrays)
        self._known = sorted({key for key, _ in trained.thresholds})

    @property
    def lineage(self) -> str:
        """Equal for baselines of one kind and budget on equal recordings, whatever their seeds."""
        told = [self.name, self._trained.recordings, *sorted(self._trained.networks.items())]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def lacks(self, recording: Recording) -> str | None:
        """Why this recording cannot be scored: its section was not trained on, or has no target clips to compare."""
        if (recording.key, recording.domain) in self._trained.thresholds:
            return None
        if recording.key in self._known:
            return f"the {self.name} has no {recording.domain} clips there"
        sections = [key.section for key in self._known if key.machine_type == recording.machine_type]
        if sections:
            return f"the {self.name} does not know the section, only {', '.join(sections)}"
        machine_types = sorted({key.machine_type for key in self._known})
        return f"the {self.name} does not know the machine type, only {', '.join(machine_types)}"

    def score(self, recordings: Sequence[Recording], advance: Advance) -> Iterator[Scored]:
        """Decode and analyse in threads, a few recordings ahead; score a clip at a time, its windows together."""
        for clips in ahead(self._analyse, recordings):
            for cut, log_mels in clips:
                yield self._assess(cut, log_mels)
            advance(1)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _analyse(self, recording: Recording) -> list[tuple[CutClip, NDArray[np.float32]]]:
        clips = read_clips(recording, self._decode)
        return [(cut, log_mel(windows(cut.clip.waveform), self._trained.front_end)) for cut in clips]

    def _decode(self, path: Path, max_clip_s: float) -> Clip:
        return decode(path, channel=self._trained.front_end.channel, max_clip_s=max_clip_s)

    def _assess(self, cut: CutClip, log_mels: NDArray[np.float32]) -> Scored:
        """The score of a long clip is the mean over its windows, as a bundle's."""
        key, domain = cut.recording.key, cut.recording.domain
        score = float(np.mean(self._scorer.score(log_mels, key, domain)))
        threshold = self._trained.thresholds[key, domain]
        return Scored(
            recording=cut.recording,
            start_s=cut.start_s,
            anomaly_score=score,
            decision_score=score,
            threshold=threshold,
            decision=decide(score, threshold),
            parts={},
        )
