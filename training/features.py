"""Log-mels of all training clips, computed once, in parallel, into one memory-mapped file that training reads from.

A store lies in a folder named by what it holds (files, cuts, speeds, front end). ``rows.npy`` says of each row what it
was computed from: the digest of the file's bytes. It is written after the row itself has reached the disk, so that a
killed run goes on where it stopped, and a file whose content has changed is computed again. Workers write rows straight
into the file: features never travel between processes, and none holds more than one recording.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ, decode, first_clip, silent_cuts_s
from models.commands import shell_line
from models.compact import INPUT_SIZES
from models.errors import AudioError, DataError, NotTrainable
from models.frontend import N_FRAMES, N_MELS, LogMelSpec, log_mel
from models.statistics import log_mel_and_statistics
from models.vocabulary import SubSystem
from training.parallel import spread
from training.recordings import Recording
from training.storage import write_atomically

CONTRAST_SPEEDS = (0.80, 0.89, 1.12, 1.25)
"""Copies at these speeds are told apart from the clips where a head would have a single class (FACTS 3)."""

_FLUSH_RECORDINGS = 128
_UNTOLD_FRAMES = 0x7F00_0000
"""A header written to a pipe tells no length, or about so many bytes or frames: count what is there."""

N_STATISTICS = sum(INPUT_SIZES.values())
_ROW = np.dtype([("sha256", "S64"), ("level_dbfs", "<f8")])
_LOG_MELS, _STATISTICS, _ROWS = "log_mels.npy", "statistics.npy", "rows.npy"


@dataclass(frozen=True, slots=True)
class TrainingClip:
    """Ten seconds of a recording from ``start_s``, at ``speed`` times its own speed."""

    recording: Recording
    start_s: float
    speed: float


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStore:
    """The features of all training clips.

    ``log_mels``: (clips, 313, 128) float32 dB, memory-mapped, read-only; likewise ``statistics``: (clips, 1704), A's
    inputs and then L's, None where they were not asked for. ``mean``, ``deviation``: (128,) float64 dB
    over all frames of the clips at their own speed, ddof 0.
    ``levels_dbfs``: (clips,). ``digest``: of all contents together.
    """

    clips: tuple[TrainingClip, ...]
    log_mels: NDArray[np.float32]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    levels_dbfs: NDArray[np.float64]
    digest: str
    statistics: NDArray[np.float32] | None = None

    def inputs(self, kind: SubSystem) -> NDArray[np.float32]:
        """What a kind of network takes of all clips, (clips, ...)."""
        if kind is SubSystem.R:
            return self.log_mels
        assert self.statistics is not None, "features without statistics"
        split = INPUT_SIZES[SubSystem.A]
        return self.statistics[:, :split] if kind is SubSystem.A else self.statistics[:, split:]


def training_clips(recordings: Iterable[Recording], *, contrast: bool) -> list[TrainingClip]:
    """The clips that recordings are cut into, by their headers: one of a challenge's, consecutive ones of a plant's.

    Raises
    ------
    DataError : for a file whose header cannot be read.
    """
    speeds = (1.0, *CONTRAST_SPEEDS) if contrast else (1.0,)
    return [
        TrainingClip(recording, CLIP_S * part, speed)
        for recording in recordings
        for part in range(1 if recording.challenge else _parts(recording.path))
        for speed in speeds
    ]


def count_clips(recordings: Iterable[Recording], *, contrast: bool) -> int:
    """How many clips training would read; raises what `training_clips` raises."""
    return len(training_clips(recordings, contrast=contrast))


def clips_in(duration_s: float) -> int:
    """The clips that a plant's recording of this length is cut into."""
    return max(1, round(duration_s * SAMPLE_RATE_HZ) // CLIP_SAMPLES)


def _parts(path: Path) -> int:
    try:
        with soundfile.SoundFile(path) as sound:
            frames = sound.frames
            if frames >= _UNTOLD_FRAMES:
                frames = sum(len(block) for block in sound.blocks(1 << 16, dtype="int16"))
            return clips_in(frames / sound.samplerate)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Run '{shell_line('training check')}' on the recordings."
        ) from error


def extract_features(
    recordings: Sequence[Recording],
    folder: Path,
    *,
    spec: LogMelSpec,
    contrast: bool,
    statistics: bool = False,
    workers: int | None,
    advance: Callable[[int], None],
) -> FeatureStore:
    """Compute what is missing of the features, and open them.

    Parameters
    ----------
    recordings : those to train on.
    folder : where stores are kept.
    contrast : whether copies at `CONTRAST_SPEEDS` join each clip.
    statistics : whether the clips' statistics are wanted too.
    workers : processes; None is one a core.
    advance : called with the number of clips done, those of an earlier run included.

    Raises
    ------
    DataError : naming every recording that cannot be used; where the disk is too small.
    NotTrainable : for no recordings.
    """
    clips = training_clips(recordings, contrast=contrast)
    if not clips:
        raise NotTrainable("There are no recordings to compute features of. Add normal recordings for training.")
    store = folder / (_store_name(clips, spec) + ("-statistics" if statistics else ""))
    store.mkdir(parents=True, exist_ok=True)
    log_mels = _open(store / _LOG_MELS, np.dtype(np.float32), (len(clips), N_FRAMES, N_MELS))
    maps = [log_mels]
    if statistics:
        maps.append(_open(store / _STATISTICS, np.dtype(np.float32), (len(clips), N_STATISTICS)))
    rows = _open(store / _ROWS, _ROW, (len(clips),))
    _compute(_tasks(clips, rows, spec, store), maps, rows, workers, advance)
    digest = hashlib.sha256(np.asarray(rows).tobytes()).hexdigest()
    mean, deviation = _standardisation(store / "standardisation.npz", clips, log_mels, digest)
    return FeatureStore(
        clips=tuple(clips),
        log_mels=np.load(store / _LOG_MELS, mmap_mode="r"),
        mean=mean,
        deviation=deviation,
        levels_dbfs=np.array(rows["level_dbfs"]),
        digest=digest,
        statistics=np.load(store / _STATISTICS, mmap_mode="r") if statistics else None,
    )


def _store_name(clips: Sequence[TrainingClip], spec: LogMelSpec) -> str:
    cuts = [(str(clip.recording.path), clip.start_s, clip.speed) for clip in clips]
    return hashlib.sha256(json.dumps([asdict(spec), cuts]).encode()).hexdigest()[:16]


def _open(path: Path, dtype: np.dtype[np.void] | np.dtype[np.float32], shape: tuple[int, ...]) -> np.memmap:
    """Open an array file for writing; a new one is all zeros, and appears only once it has its size."""
    if not path.exists():
        needed, free = dtype.itemsize * int(np.prod(shape)), shutil.disk_usage(path.parent).free
        if needed > free:  # writing to a mapped file on a full disk would end the process without a word
            raise DataError(
                f"The features need {needed / 1e9:.1f} GB, but {path.parent} has {free / 1e9:.1f} GB free. Choose a "
                "--work folder on a larger disk."
            )
        partial = path.with_name(f".{path.name}.partial")
        np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape).flush()
        with partial.open("r+b") as file:  # the pages' room is taken now: another file may fill the disk meanwhile
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
        partial.replace(path)
    return np.lib.format.open_memmap(path, mode="r+")


@dataclass(frozen=True, slots=True)
class _Task:
    """One recording's rows: from ``first`` on, ``cuts`` (start in samples, speed), and what they were computed from."""

    path: Path
    max_duration_s: float
    first: int
    cuts: tuple[tuple[int, float], ...]
    known: str
    spec: LogMelSpec
    store: Path

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + len(self.cuts))


@dataclass(frozen=True, slots=True)
class _Done:
    """``levels_dbfs``: of the rows written; None where nothing had to be. ``problem``: why nothing could be."""

    task: _Task
    sha256: str = ""
    levels_dbfs: tuple[float, ...] | None = None
    problem: str = ""


def _tasks(clips: Sequence[TrainingClip], rows: np.memmap, spec: LogMelSpec, store: Path) -> list[_Task]:
    tasks: list[_Task] = []
    first = 0
    for recording, own in groupby(clips, key=lambda clip: clip.recording):
        cuts = tuple((round(clip.start_s * SAMPLE_RATE_HZ), clip.speed) for clip in own)
        digests = {bytes(digest).decode() for digest in rows["sha256"][first : first + len(cuts)]}
        known = digests.pop() if len(digests) == 1 else ""
        tasks.append(_Task(recording.path, recording.max_duration_s, first, cuts, known, spec, store))
        first += len(cuts)
    return tasks


def _compute(
    tasks: Sequence[_Task],
    maps: Sequence[np.memmap],
    rows: np.memmap,
    workers: int | None,
    advance: Callable[[int], None],
) -> None:
    problems: list[str] = []
    written: list[_Done] = []

    def settle() -> None:
        for features in maps:
            features.flush()  # the pages that workers have written too: they are the file's
        for done in written:
            rows["level_dbfs"][done.task.rows] = done.levels_dbfs
            rows["sha256"][done.task.rows] = done.sha256.encode()
        rows.flush()
        written.clear()

    for done in spread(_extract, tasks, workers):
        if done.problem:
            problems.append(f"{done.task.path}: {done.problem}")
        elif done.levels_dbfs is not None:
            written.append(done)
        advance(len(done.task.cuts))
        if len(written) >= _FLUSH_RECORDINGS:
            settle()
    settle()
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(
            f"{len(problems)} recordings cannot be used. Mend or remove them ('{shell_line('training check')}' lists "
            f"all):\n  {shown}{more}"
        )


def _extract(task: _Task) -> _Done:
    """Write a recording's rows, after declaring them unfinished; nothing where they are known to be of these bytes."""
    try:
        content = task.path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 == task.known:
            return _Done(task, sha256)
        waveform = decode(content, channel=task.spec.channel, max_clip_s=task.max_duration_s).waveform
    except (AudioError, OSError) as error:
        return _Done(task, problem=str(error))
    if silent := sorted(
        {start for start, _ in task.cuts} & {round(s * SAMPLE_RATE_HZ) for s in silent_cuts_s(waveform)}
    ):
        return _Done(task, problem=silence([start / SAMPLE_RATE_HZ for start in silent]))
    np.lib.format.open_memmap(task.store / _ROWS, mode="r+")["sha256"][task.rows] = b""
    log_mels = np.lib.format.open_memmap(task.store / _LOG_MELS, mode="r+")
    statistics = (task.store / _STATISTICS).exists() and np.lib.format.open_memmap(task.store / _STATISTICS, mode="r+")
    levels_dbfs = []
    for row, (start, speed) in enumerate(task.cuts, task.first):
        clip = cut(waveform, start, speed)
        if statistics is False:
            log_mels[row] = log_mel(clip, task.spec)
        else:
            log_mels[row], own = log_mel_and_statistics(clip, task.spec)
            statistics[row] = np.concatenate([own.statics_and_dynamics, own.lin])
        power = float(np.mean(np.square(clip, dtype=np.float64)))
        levels_dbfs.append(10.0 * float(np.log10(max(power, 1e-20))))
    return _Done(task, sha256, tuple(levels_dbfs))


def silence(starts_s: Sequence[float]) -> str:
    """What is wrong with a recording whose ten-second clips from ``starts_s`` on are silent, and what to do."""
    shown = ", ".join(f"{start:g}" for start in starts_s[:10]) + (", ..." if len(starts_s) > 10 else "")
    return f"It is silent for ten seconds from {shown} s on: was machine or microphone off? Cut that out."


def cut(waveform: NDArray[np.float32], start: int, speed: float) -> NDArray[np.float32]:
    """Ten seconds from ``start``; at another speed, those of the resampled clip, repeated where it is short."""
    part = first_clip(waveform[start : start + CLIP_SAMPLES])
    return part if speed == 1.0 else first_clip(soxr.resample(part, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ))


def _standardisation(
    path: Path,
    clips: Sequence[TrainingClip],
    log_mels: NDArray[np.float32],
    digest: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation a mel bin over all frames of the clips at their own speed, kept beside the store."""
    if path.exists():
        with np.load(path) as kept:
            if str(kept["digest"]) == digest:
                return kept["mean"], kept["deviation"]
    own = np.flatnonzero([clip.speed == 1.0 for clip in clips])
    total, square = np.zeros(N_MELS), np.zeros(N_MELS)
    for start in range(0, len(own), 64):
        part = log_mels[own[start : start + 64]].astype(np.float64)
        total += part.sum(axis=(0, 1))
        square += (part**2).sum(axis=(0, 1))
    frames = len(own) * N_FRAMES
    mean = total / frames
    deviation = np.sqrt(np.maximum(0.0, square / frames - mean**2))
    write_atomically(path, lambda file: np.savez(file, digest=np.array(digest), mean=mean, deviation=deviation))
    return mean, deviation
