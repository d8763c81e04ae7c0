"""Test recordings as the clips that count: a challenge's recording whole, a plant's own longer one in ten-second clips.

Every system in the tables scores these, cut as training cuts its recordings.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ, Clip, consecutive
from models.commands import shell_line
from models.errors import AudioError, DataError
from models.vocabulary import Split
from training.recordings import Recording

Decode = Callable[[Path, float], Clip]
"""Path of a file and the longest that it may be, in seconds, to its sound; raises `AudioError` or `OSError`."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, eq=False)
class CutClip:
    """A clip of a recording: it starts at ``start_s`` of it."""

    recording: Recording
    start_s: float
    clip: Clip


def test_recordings(recordings: Iterable[Recording]) -> list[Recording]:
    """The recordings that are for testing.

    Raises
    ------
    DataError : where there are none.
    """
    recordings = list(recordings)
    chosen = [recording for recording in recordings if recording.split is Split.TEST]
    if not chosen:
        raise DataError(
            f"None of the {len(recordings)} recordings is for testing. Keep some normal recordings of other days out "
            "of training: give them the split 'test' in the manifest."
        )
    return chosen


def read_clips(recording: Recording, decode: Decode) -> list[CutClip]:
    """Decode a recording, and cut it.

    Raises
    ------
    DataError : where it cannot be decoded, naming it.
    """
    try:
        clip = decode(recording.path, recording.max_duration_s)
    except (AudioError, OSError) as error:
        raise DataError(
            f"{recording.path} cannot be scored: {error} Mend or remove it; "
            f"'{shell_line('training check')}' finds all such files."
        ) from error
    return [CutClip(recording, CLIP_S * place, part) for place, part in enumerate(_cut(recording, clip))]


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """``map`` in threads that keeps only a few results ahead: recordings of hours must not fill the memory."""
    threads = min(4, os.cpu_count() or 1)
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="front-end") as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _cut(recording: Recording, clip: Clip) -> list[Clip]:
    """The clips that a recording counts as."""
    if recording.challenge or len(clip.waveform) <= CLIP_SAMPLES:
        return [clip]
    return [
        replace(clip, waveform=part, duration_s=CLIP_SAMPLES / SAMPLE_RATE_HZ, level_dbfs=_level_dbfs(part))
        for part in consecutive(clip.waveform)
    ]


def _level_dbfs(waveform: NDArray[np.float32]) -> float:
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return 10.0 * float(np.log10(max(power, np.finfo(np.float64).tiny)))
