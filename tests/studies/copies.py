"""Copies of recordings as another microphone, recorder or gain would have given them: the machine is the same.

Conventions: a change takes a waveform, (n,) float32 at 16 kHz in [-1, 1], and a generator that is the clip's own; it
gives samples, their rate and how they are stored. What exceeds full scale is clipped, as a recorder does.
"""

import io
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import scipy.signal
import soundfile
import soxr
from numpy.typing import NDArray

from models.audio import SAMPLE_RATE_HZ, decode
from training.recordings import Recording

Waveform = NDArray[np.float32]
Change = Callable[[Waveform, np.random.Generator], tuple[Waveform, int, str]]

EQUALISER_DB = {0: 6.0, 250: 6.0, 1000: 0.0, 4000: -6.0, 8000: 3.0}
"""By frequency in Hz, linear in amplitude between: what a test clip's fixed equaliser does."""
MICROPHONE_DB = {0: -12.0, 300: -3.0, 1000: 0.0, 2500: 5.0, 5000: -4.0, 8000: -15.0}
"""Another microphone's response, from its rumble filter to its limit."""
NOISE_DB = -20.0
"""Of that microphone's place: white noise, its RMS against the clip's."""
_TAPS = 255


def filtered(waveform: Waveform, gains_db: Mapping[int, float]) -> Waveform:
    """The waveform through a filter of linear phase with these gains, as long as it was."""
    amplitudes = [10.0 ** (gain / 20.0) for gain in gains_db.values()]
    taps = scipy.signal.firwin2(_TAPS, list(gains_db), amplitudes, fs=SAMPLE_RATE_HZ)
    changed: Waveform = scipy.signal.fftconvolve(waveform, taps, mode="same").astype(np.float32)
    return changed


def _amplified(decibels: float) -> Change:
    return lambda waveform, _: (waveform * np.float32(10.0 ** (decibels / 20.0)), SAMPLE_RATE_HZ, "PCM_16")


def other_microphone(waveform: Waveform, random: np.random.Generator) -> tuple[Waveform, int, str]:
    """The response of `MICROPHONE_DB`, and noise: a changed condition, of which a plant has a few clips."""
    changed = filtered(waveform, MICROPHONE_DB)
    level = np.sqrt(np.mean(np.square(changed, dtype=np.float64))) * 10.0 ** (NOISE_DB / 20.0)
    return (changed + random.normal(0.0, level, len(changed))).astype(np.float32), SAMPLE_RATE_HZ, "PCM_16"


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "48 kHz": lambda waveform, _: (soxr.resample(waveform, SAMPLE_RATE_HZ, 48_000), 48_000, "PCM_16"),
        "8 bit": lambda waveform, _: (waveform, SAMPLE_RATE_HZ, "PCM_U8"),
        "+12 dB": _amplified(12.0),
        "-12 dB": _amplified(-12.0),
        "equaliser": lambda waveform, _: (filtered(waveform, EQUALISER_DB), SAMPLE_RATE_HZ, "PCM_16"),
    }
)
"""What test clips alone are put through."""


def copied(recordings: Iterable[Recording], folder: Path, change: Change, seed: int) -> list[Recording]:
    """The recordings, changed, as WAV files in ``folder``; those that are there already stay as they are."""
    copies = []
    folder.mkdir(parents=True, exist_ok=True)
    for recording in recordings:
        name = f"{recording.machine_type}-{recording.domain}-{recording.path.stem}"
        path = (folder / f"{name}.wav").resolve()
        if not path.exists():
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            samples, rate, subtype = change(decode(recording.path).waveform, random)
            sound = io.BytesIO()
            soundfile.write(sound, np.clip(samples, -1.0, 1.0), rate, subtype, format="WAV")
            unfinished = path.with_suffix(".partial")
            unfinished.write_bytes(sound.getvalue())
            unfinished.replace(path)
        copies.append(replace(recording, path=path, recording=str(path)))
    return copies
