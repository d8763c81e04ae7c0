"""How well each of a few target clips stands for its section's changed condition: facts and warnings, no refusal.

Whether a clip that is unlike the others is a fault, or the others are, no detector can tell; a person should look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.assessment import Notice, clip_notices
from models.audio import Clip, silent_share
from models.vocabulary import WarningCode

LEAST_SIMILARITY: Final = 0.45
"""A clip 2.2 times as far from its nearest as is to be expected is unlike the others: measured, see DECISIONS.md."""
MOST_SILENCE: Final = 0.1
"""A larger share of silence is no machine's: a dropout, or a recording that begins too soon."""
_SMALLEST_SPACING: Final = 1e-6
"""Nearer sounds are told apart by nothing (float32 embeddings)."""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """One target clip beside the others.

    ``silent_share``: of its tenths of a second, from 0 to 1. ``similarity``: from 0 to 1, see `similarities`.
    ``source_distance``: robust standard deviations above the median score of the section's source clips: near 0 it
    sounds as the section usually does; None where no source clip says how scores spread.
    """

    silent_share: float
    similarity: float
    source_distance: float | None
    warnings: tuple[Notice, ...]


def similarities(spacings: NDArray[np.floating[Any]], usual_spacing: float) -> NDArray[np.float64]:
    """Of each clip, (clips,) in (0, 1]: 1 where it is as near to another clip as is to be expected, 1/2 at twice that.

    Expected is the larger of two distances: that of the other clips from their nearest (the median), and that between
    two source clips. By the first alone, two of three clips that happen to be alike would make the third a stranger; by
    the second alone, all clips of a condition that varies more would be strangers.

    Parameters
    ----------
    spacings : (clips,) distances from each clip to the nearest of the others, three clips at least, in the geometry of
        the way that scores them.
    usual_spacing : the mean distance between two source clips of the section, in the same geometry; 0 of one clip.
    """
    own = np.maximum(np.asarray(spacings, np.float64), _SMALLEST_SPACING)
    others = np.array([np.median(np.delete(own, place)) for place in range(len(own))])
    nearness: NDArray[np.float64] = np.minimum(1.0, np.maximum(others, usual_spacing) / own)
    return nearness


def appraise(
    clips: Sequence[Clip],
    spacings: NDArray[np.floating[Any]],
    usual_spacing: float,
    source_distances: Sequence[float | None],
    lowest_level_dbfs: float,
) -> tuple[Appraisal, ...]:
    """Appraise clips by their `similarities`, each one's distance from the source domain, and its own sound.

    ``lowest_level_dbfs``: of the section's source clips.
    """
    alike = similarities(spacings, usual_spacing).tolist()
    return tuple(
        _appraisal(clip, similarity, distance, lowest_level_dbfs)
        for clip, similarity, distance in zip(clips, alike, source_distances, strict=True)
    )


def _appraisal(clip: Clip, similarity: float, source_distance: float | None, lowest_level_dbfs: float) -> Appraisal:
    silence, warnings = silent_share(clip.waveform), list(clip_notices(clip, lowest_level_dbfs))
    if silence > MOST_SILENCE:
        warnings.append(
            Notice(
                WarningCode.PARTLY_SILENT,
                f"{silence:.0%} of the clip is silent. Record the machine while it runs, without gaps.",
            )
        )
    if similarity < LEAST_SIMILARITY:
        warnings.append(
            Notice(
                WarningCode.UNLIKE_THE_OTHERS,
                f"The clip lies {1.0 / similarity:.1f} times as far from its nearest as the other clips from theirs, "
                "or as the section's source clips from each other. Listen to it: if the condition or a fault is only "
                "in this one, register the clips again without it.",
            )
        )
    return Appraisal(silence, similarity, source_distance, tuple(warnings))
