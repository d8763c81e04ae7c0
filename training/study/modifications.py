"""Fixed modifications of a normal clip: what stands in for faults where there are only normal recordings.

Five ways in which a machine may begin to sound otherwise, set once and for all: nothing here was chosen by looking at
a faulty recording. They tell how sensitive a system is to what it was not trained on, not which faults it will find.

Conventions: waveforms are (160000,) float32 at 16 kHz in [-1, 1]. Strengths are relative to the clip's own RMS, so
that a quiet machine is changed as much as a loud one.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ
from training.features import cut

Waveform = NDArray[np.float32]
Modification = Callable[[Waveform, np.random.Generator], Waveform]

SPEED_CHANGE = 0.05
"""A machine that runs a twentieth slower or faster, its sounds with it."""

NOISE_BAND_HZ = (2000.0, 4000.0)
NOISE_DB = -15.0
"""Steady noise in one band, as of a leak or a dry bearing: its RMS against the clip's."""

KNOCKS_HZ = 3.0
KNOCK_TONE_HZ = 2500.0
KNOCK_DECAY_S = 0.005
KNOCK_PEAK = 2.0
"""Three decaying knocks a second, as of a loose part: their peak against the clip's RMS."""

TREMOLO_HZ = 6.0
TREMOLO_DEPTH = 0.4
"""Loudness that rises and falls six times a second, as of a load that turns."""


def with_band_noise(waveform: Waveform, random: np.random.Generator) -> Waveform:
    """Gaussian noise of `NOISE_BAND_HZ` added, `NOISE_DB` against the clip."""
    spectrum = np.fft.rfft(random.normal(size=len(waveform)))
    frequencies = np.fft.rfftfreq(len(waveform), 1.0 / SAMPLE_RATE_HZ)
    spectrum[(frequencies < NOISE_BAND_HZ[0]) | (frequencies > NOISE_BAND_HZ[1])] = 0.0
    noise = np.fft.irfft(spectrum, len(waveform))
    level = _rms(waveform) * 10.0 ** (NOISE_DB / 20.0)
    changed: Waveform = (waveform + level / _rms(noise) * noise).astype(np.float32)
    return changed


def with_knocks(waveform: Waveform, random: np.random.Generator) -> Waveform:
    """A knock `KNOCKS_HZ` times a second from a random moment on."""
    time_s = np.arange(len(waveform)) / SAMPLE_RATE_HZ
    since_s = (time_s + random.uniform() / KNOCKS_HZ) % (1.0 / KNOCKS_HZ)
    knocks = np.exp(-since_s / KNOCK_DECAY_S) * np.sin(2.0 * np.pi * KNOCK_TONE_HZ * since_s)
    return (waveform + KNOCK_PEAK * _rms(waveform) * knocks).astype(np.float32)


def with_tremolo(waveform: Waveform, random: np.random.Generator) -> Waveform:
    """The amplitude times 1 + `TREMOLO_DEPTH` sin, from a random phase on, at the clip's own RMS."""
    time_s = np.arange(len(waveform)) / SAMPLE_RATE_HZ
    swollen = waveform * (1.0 + TREMOLO_DEPTH * np.sin(2.0 * np.pi * (TREMOLO_HZ * time_s + random.uniform())))
    return (swollen * (_rms(waveform) / _rms(swollen))).astype(np.float32)


MODIFICATIONS: Mapping[str, Modification] = MappingProxyType(
    {
        "slower": lambda waveform, _: cut(waveform, 0, 1.0 - SPEED_CHANGE),
        "faster": lambda waveform, _: cut(waveform, 0, 1.0 + SPEED_CHANGE),
        "band noise": with_band_noise,
        "knocks": with_knocks,
        "tremolo": with_tremolo,
    }
)


def modified(waveform: Waveform, seed: int) -> NDArray[np.float32]:
    """All of `MODIFICATIONS` of a clip, (modifications, 160000), drawn from ``seed``."""
    assert waveform.shape == (CLIP_SAMPLES,)
    return np.stack([change(waveform, np.random.default_rng(seed)) for change in MODIFICATIONS.values()])


def _rms(waveform: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) or 1.0
