"""The clips that the study listens to: training clips, held-out ones, their modified copies, and test clips.

One fifth of the recordings of each section's usual condition is held out of everything: of networks, back ends and
thresholds. Target clips all stay in training, for a section has three and its mixture needs as many.
"""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.audio import SAMPLE_RATE_HZ, decode, first_clip
from models.errors import AudioError, DataError
from models.frontend import N_FRAMES, N_MELS, LogMelSpec, log_mel
from models.vocabulary import Domain, SectionKey, Split
from training.features import FeatureStore, TrainingClip, count_clips, extract_features
from training.labels import needs_contrast
from training.parallel import spread
from training.progress import Advance
from training.recordings import Recording
from training.study.modifications import MODIFICATIONS, modified

FOLDS = 5
"""One of so many is held out."""

_SPLIT_SEED = 0  # the same clips are held out whatever the networks' seed


@dataclass(frozen=True, slots=True)
class Division:
    """Recordings to train on, held-out ones and test ones."""

    train: tuple[Recording, ...]
    held: tuple[Recording, ...]
    test: tuple[Recording, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StudyClips:
    """Features of all clips.

    ``test``: None without test recordings. ``copied``: the held-out clips and then the target training clips;
    ``modified``: their modified copies, (copied, modifications, 313, 128) dB, memory-mapped.
    """

    train: FeatureStore
    held: FeatureStore
    test: FeatureStore | None
    copied: tuple[TrainingClip, ...]
    modified: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Of all contents together."""
        parts = [self.train.digest, self.held.digest, self.test.digest if self.test else ""]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def divide(recordings: Iterable[Recording]) -> Division:
    """Hold out the first of five folds: recordings shuffled and dealt within section and attribute class.

    The count runs on from one class of a section to the next, so that each section gives about a fifth. What belongs
    to one ``recording`` stays together. A section of a single recording keeps it. Test recordings whose domain is not
    told are left out, as `training.evaluate` leaves them out.

    Raises
    ------
    DataError : where nothing can be held out.
    """
    recordings = sorted(recordings)
    train = [one for one in recordings if one.split is Split.TRAIN]
    groups: defaultdict[SectionKey, defaultdict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in train:
        if one.domain is Domain.SOURCE:
            groups[one.key][one.attribute_class].add(one.recording)
    held: set[tuple[SectionKey, str]] = set()
    random = np.random.default_rng(_SPLIT_SEED)
    for key, classes in sorted(groups.items()):
        order = list(dict.fromkeys(name for _, names in sorted(classes.items()) for name in _shuffled(names, random)))
        if len(order) > 1:
            held |= {(key, name) for name in order[::FOLDS]}
    out = {one for one in train if one.domain is Domain.SOURCE and (one.key, one.recording) in held}
    if not out:
        raise DataError(
            f"None of the {len(train)} training recordings can be held out: a section needs two recordings of its "
            "usual condition at least. Add recordings."
        )
    return Division(
        train=tuple(one for one in train if one not in out),
        held=tuple(sorted(out)),
        test=tuple(one for one in recordings if one.split is Split.TEST and one.domain_told),
    )


def _shuffled(names: Iterable[str], random: np.random.Generator) -> list[str]:
    return [str(name) for name in random.permutation(sorted(names))]


def study_clips(division: Division, folder: Path, *, workers: int | None, advance: Advance) -> StudyClips:
    """Compute what is missing of the features under ``folder``, and open them.

    Parameters
    ----------
    workers : processes; None is one a core.
    advance : called with the number of clips done, in all `count_features`; a modified clip counts once.

    Raises
    ------
    DataError : naming every recording that cannot be used.
    """

    def features(recordings: Sequence[Recording], *, contrast: bool = False) -> FeatureStore:
        return extract_features(
            recordings, folder, spec=LogMelSpec(), contrast=contrast, workers=workers, advance=advance
        )

    train = features(division.train, contrast=_contrast(division))
    held = features(division.held)
    targets = [one for one in train.clips if one.recording.domain is Domain.TARGET and one.speed == 1.0]
    copied = (*held.clips, *targets)
    return StudyClips(
        train=train,
        held=held,
        test=features(division.test) if division.test else None,
        copied=copied,
        modified=_modified(copied, folder / f"modified-{_name(train, held)}.npy", workers, advance),
    )


def count_features(division: Division) -> int:
    """How many clips `study_clips` is done with in the end."""
    targets = [one for one in division.train if one.domain is Domain.TARGET]
    plain = (division.held, division.test, division.held, targets)  # held-out and target clips are modified, too
    return count_clips(division.train, contrast=_contrast(division)) + sum(
        count_clips(recordings, contrast=False) for recordings in plain
    )


def _contrast(division: Division) -> bool:
    return needs_contrast(division.train, attribute_head=True)


def _name(*stores: FeatureStore) -> str:
    return hashlib.sha256("".join(store.digest for store in stores).encode()).hexdigest()[:16]


def _modified(clips: Sequence[TrainingClip], path: Path, workers: int | None, advance: Advance) -> NDArray[np.float32]:
    if not path.exists():
        partial_path = path.with_name(f".{path.name}.partial")
        shape = (len(clips), len(MODIFICATIONS), N_FRAMES, N_MELS)
        rows = np.lib.format.open_memmap(partial_path, mode="w+", dtype=np.float32, shape=shape)
        for row, log_mels in enumerate(spread(_modified_log_mels, list(clips), workers)):
            rows[row] = log_mels
            advance(1)
        rows.flush()
        partial_path.replace(path)
    else:
        advance(len(clips))
    copies: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return copies


def _modified_log_mels(clip: TrainingClip) -> NDArray[np.float32]:
    """(modifications, 313, 128) dB; equal clips give equal copies, wherever their recordings lie."""
    try:
        waveform = decode(clip.recording.path, max_clip_s=clip.recording.max_duration_s).waveform
    except (AudioError, OSError) as error:
        raise DataError(f"{clip.recording.path}: {error}") from error
    start = round(clip.start_s * SAMPLE_RATE_HZ)
    seed = zlib.crc32(f"{clip.recording.path.name} {start}".encode())
    waveforms = modified(first_clip(waveform[start:]), seed)
    copies: NDArray[np.float32] = log_mel(waveforms, LogMelSpec())
    return copies
