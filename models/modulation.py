"""How fast a clip's loudness moves, mel band by mel band: the modulation spectra env and env2.

Conventions: waveforms are float32 in [-1, 1] at 16 kHz. The levels of a band are the log-mel powers of an STFT that is
neither centred nor padded (symmetric Hann window, power not scaled, dB above a floor of 1e-10), less their temporal
mean: gain and a static equaliser leave them as they are. A modulation spectrum is the mean power of the Fourier
transforms of the levels' half-overlapping segments, not scaled (`scipy.signal.welch` scales: 40 dB lower) and not
detrended, averaged between edges that are equally spaced on a logarithmic axis of rates.

Most of the time of the whole front end is spent here, on 9,993 transforms of 128 samples. The logarithms are natural
ones, which numpy computes three times as fast as decimal ones.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.frontend import mel_filters, windowed_powers

_SAMPLE_RATE_HZ: Final = 16_000
_POWER_FLOOR: Final = np.float32(1e-10)
_DECIBELS: Final = np.float32(10.0 / np.log(10.0))
"""10 log10(x) is this times ln(x)."""


@dataclass(frozen=True, slots=True)
class ModulationSpec:
    """What fixes a modulation spectrum.

    ``n_fft``, ``hop_length``: of the STFT, samples. ``segment``: frames of a segment. ``n_bands`` bands of rates lie
    between ``lowest_hz`` and ``highest_hz``, each without its upper edge.
    """

    n_fft: int
    hop_length: int
    n_mels: int
    segment: int
    n_bands: int
    lowest_hz: float
    highest_hz: float

    @property
    def size(self) -> int:
        """How many numbers, ``n_mels * n_bands``."""
        return self.n_mels * self.n_bands

    @property
    def edges_hz(self) -> NDArray[np.float64]:
        """(n_bands + 1,) edges of the bands of rates."""
        return np.geomspace(self.lowest_hz, self.highest_hz, self.n_bands + 1)


ENV: Final = ModulationSpec(256, 64, 32, 256, 10, 1.5, 125.0)
"""Slow modulations, from 1.5 to 125 Hz: 250 frames a second."""
ENV2: Final = ModulationSpec(128, 16, 20, 1024, 12, 12.0, 500.0)
"""Fast ones, from 12 to 500 Hz: 1000 frames a second."""


def modulation_spectrum(waveform: NDArray[np.float32], spec: ModulationSpec) -> NDArray[np.float32]:
    """10 log10(mean power of the levels' modulations in each band of rates + 0.01).

    Parameters
    ----------
    waveform : (samples,) float32 in [-1, 1] at 16 kHz, long enough for one segment (about a second).

    Returns
    -------
    (n_mels, n_bands) float32 dB, never below -20: the bands of the lowest mel first.
    """
    window, to_bands = _segment_constants(spec)
    levels = _levels(waveform, spec)
    levels -= levels.mean(axis=1, keepdims=True)
    segments = sliding_window_view(levels, spec.segment, axis=1)[:, :: spec.segment // 2]
    powers = np.empty((spec.n_mels, spec.segment // 2 + 1), np.float32)
    for some, own in windowed_powers(segments, window):
        own.mean(axis=1, out=powers[some])
    decibels: NDArray[np.float32] = np.log(powers @ to_bands + np.float32(0.01))
    decibels *= _DECIBELS
    return decibels


def _levels(waveform: NDArray[np.float32], spec: ModulationSpec) -> NDArray[np.float32]:
    """Log-mel powers, (n_mels, frames) float32 dB: time is the last axis, along which they are transformed again."""
    window, filters = _frame_constants(spec)
    frames = sliding_window_view(waveform, spec.n_fft)[:: spec.hop_length]
    levels = np.empty((spec.n_mels, len(frames)), np.float32)
    for some, powers in windowed_powers(frames, window):
        np.matmul(filters, powers.T, out=levels[:, some])
    np.maximum(levels, _POWER_FLOOR, out=levels)
    np.log(levels, out=levels)
    levels *= _DECIBELS
    return levels


@lru_cache(maxsize=2)
def _frame_constants(spec: ModulationSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The window, (n_fft,), and the mel filters, (n_mels, n_fft // 2 + 1)."""
    filters = mel_filters(
        spec.n_fft, spec.n_mels, sample_rate_hz=_SAMPLE_RATE_HZ, f_min_hz=0.0, f_max_hz=_SAMPLE_RATE_HZ / 2.0
    )
    return np.hanning(spec.n_fft).astype(np.float32), filters.astype(np.float32)


@lru_cache(maxsize=2)
def _segment_constants(spec: ModulationSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The window, (segment,), and the means over the bins of each band, (segment // 2 + 1, n_bands)."""
    rates_hz = scipy.fft.rfftfreq(spec.segment, spec.hop_length / _SAMPLE_RATE_HZ)
    edges_hz = spec.edges_hz
    within = (rates_hz[:, None] >= edges_hz[:-1]) & (rates_hz[:, None] < edges_hz[1:])
    to_bands = within / within.sum(axis=0)
    return np.hanning(spec.segment).astype(np.float32), to_bands.astype(np.float32)
