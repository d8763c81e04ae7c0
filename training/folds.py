"""Dealing training clips to folds that leave out single recordings, or whole operating conditions.

A threshold promises what new days will do, so the clips that it is taken from must be as strange to what scores them as
new days are. Neighbouring clips resemble each other: no fold splits a recording. Where a section ran under several
conditions, a condition that was left out whole is stranger still, and nearer to what a plant will meet.

Conventions: a fold is a number from 0; the networks, geometry and references of fold f come from all clips outside it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.compact import FOLDS
from models.vocabulary import Domain, SectionKey
from training.features import TrainingClip

_log = logging.getLogger(__name__)

_Name = TypeVar("_Name", bound=Hashable)

Rows = list[int]
Folds = NDArray[np.int64]


def clip_folds(clips: Sequence[TrainingClip], seed: int) -> Folds:
    """Recordings shuffled and dealt in turn within section, domain and attribute class, (n,).

    The count runs on from class to class within a section and domain, so that small classes do not all begin at fold 0.
    """
    folds = np.zeros(len(clips), np.int64)
    for (key, domain), rows in _by_section(clips).items():
        random = _random(seed, key, domain, "clips")
        count = 0
        for _, own in sorted(_grouped(rows, lambda row: clips[row].recording.attribute_class).items()):
            units = _units(clips, own)
            for place in random.permutation(len(units)):
                folds[units[place]] = count % FOLDS
                count += 1
        _deal_single_recording(clips, rows, folds)
    return folds


def condition_folds(clips: Sequence[TrainingClip], seed: int) -> Folds:
    """Whole attribute classes where a section has several among its source clips, else recordings as `clip_folds`.

    The classes are shuffled, sorted by size and dealt in snake order, the largest first. Classes that share a recording
    stay together. Target clips are dealt one to a fold.
    """
    folds = clip_folds(clips, seed)
    for (key, domain), rows in _by_section(clips).items():
        conditions = _conditions(clips, rows)
        if domain is Domain.TARGET or len(conditions) < 2:
            continue
        random = _random(seed, key, domain, "conditions")
        shuffled = [conditions[place] for place in random.permutation(len(conditions))]
        for place, own in enumerate(sorted(shuffled, key=len, reverse=True)):
            turn, column = divmod(place, FOLDS)
            folds[own] = column if turn % 2 == 0 else FOLDS - 1 - column
    return folds


def condition_folds_with_copies(clips: Sequence[TrainingClip], seed: int) -> Folds:
    """`condition_folds`; a copy at another speed is left out with the clip that it is of."""
    own = [clip for clip in clips if clip.speed == 1.0]
    fold_of = {
        (clip.recording.path, clip.start_s): fold
        for clip, fold in zip(own, condition_folds(own, seed).tolist(), strict=True)
    }
    return np.array([fold_of[clip.recording.path, clip.start_s] for clip in clips], np.int64)


def _conditions(clips: Sequence[TrainingClip], rows: Rows) -> list[Rows]:
    """The rows of each operating condition; classes of which a recording holds several count as one."""
    merged: list[tuple[set[tuple[str, ...]], Rows]] = []
    for unit in _units(clips, rows):
        classes = {clips[row].recording.attribute_class for row in unit}
        touching = [one for one in merged if one[0] & classes]
        merged = [one for one in merged if not one[0] & classes]
        merged.append(
            (classes.union(*(one[0] for one in touching)), [*(row for one in touching for row in one[1]), *unit])
        )
    return [sorted(own) for _, own in sorted(merged, key=lambda one: min(one[0]))]


def _deal_single_recording(clips: Sequence[TrainingClip], rows: Rows, folds: Folds) -> None:
    """A section of one recording has nothing else to leave out than its consecutive parts."""
    if len(rows) > 1 and len(_units(clips, rows)) == 1:
        recording = clips[rows[0]].recording
        _log.warning(
            "%s section %s has a single recording of its %s clips: held-out scores are of its consecutive parts, which "
            "are more alike than recordings of several days. Record on other days too.",
            recording.machine_type,
            recording.section,
            recording.domain,
        )
        in_time = sorted(rows, key=lambda row: clips[row].start_s)
        for fold, part in enumerate(np.array_split(in_time, min(FOLDS, len(rows)))):
            folds[part] = fold


def _by_section(clips: Sequence[TrainingClip]) -> dict[tuple[SectionKey, Domain], Rows]:
    return _grouped(range(len(clips)), lambda row: (clips[row].recording.key, clips[row].recording.domain))


def _units(clips: Sequence[TrainingClip], rows: Rows) -> list[Rows]:
    """What no fold may split: the rows of each recording, in the order of their names."""
    return [own for _, own in sorted(_grouped(rows, lambda row: clips[row].recording.recording).items())]


def _grouped(rows: Iterable[int], name_of: Callable[[int], _Name]) -> dict[_Name, Rows]:
    grouped: defaultdict[_Name, Rows] = defaultdict(list)
    for row in rows:
        grouped[name_of(row)].append(row)
    return grouped


def _random(seed: int, key: SectionKey, domain: Domain, purpose: str) -> np.random.Generator:
    """A generator of its own for each section, so that one that is added changes none of the others."""
    names = "\x1f".join((key.machine_type, key.section, domain, purpose)).encode()
    return np.random.default_rng([seed, *names])
