"""What the two heads tell apart: the class of each training clip, contrast classes where there would be only one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.features import TrainingClip
from training.recordings import Recording

HeadClass = tuple[str, ...]
"""A class by its names: (machine type, section) or an attribute class; a contrast copy's ends with its speed."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Classes of the two heads and each clip's place among them: ids are (clips,) int32."""

    section_classes: tuple[HeadClass, ...]
    attribute_classes: tuple[HeadClass, ...]
    section_ids: NDArray[np.int32]
    attribute_ids: NDArray[np.int32]


def needs_contrast(recordings: Iterable[Recording], *, attribute_head: bool) -> bool:
    """Whether a head would have fewer than two classes, so that copies at other speeds must be told apart instead."""
    recordings = list(recordings)
    sections = {recording.key for recording in recordings}
    attributes = {recording.attribute_class for recording in recordings}
    return len(sections) < 2 or (attribute_head and len(attributes) < 2)


def label(clips: Sequence[TrainingClip]) -> Labels:
    """Classes in sorted order. A copy at another speed is a class of its own beside each of its clip's classes."""
    sections = [_at_speed((clip.recording.machine_type, clip.recording.section), clip.speed) for clip in clips]
    attributes = [_at_speed(clip.recording.attribute_class, clip.speed) for clip in clips]
    section_classes, section_ids = _index(sections)
    attribute_classes, attribute_ids = _index(attributes)
    return Labels(section_classes, attribute_classes, section_ids, attribute_ids)


def _at_speed(names: HeadClass, speed: float) -> HeadClass:
    return names if speed == 1.0 else (*names, f"speed {speed:g}")


def _index(names: Sequence[HeadClass]) -> tuple[tuple[HeadClass, ...], NDArray[np.int32]]:
    classes = tuple(sorted(set(names)))
    place = {name: i for i, name in enumerate(classes)}
    return classes, np.array([place[name] for name in names], np.int32)
