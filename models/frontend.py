"""The log-mel spectrogram: (160000,) samples -> (313, 128) decibels (paper 2.2).

Conventions: waveforms are float32 in [-1, 1] at 16 kHz, ten seconds long; time is the second to last axis of a
spectrogram and mel the last. Frames are centred with reflected edges, the window is the symmetric Hann window, the
filters are Slaney's, normalised to equal area. Every number that the paper leaves open stands in `LogMelSpec`. Training
and serving call the same function; there is no second front end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray

N_FRAMES = 313
N_MELS = 128

_BLOCK_SAMPLES: Final = 1 << 16
"""Samples that are transformed at a time: 256 kB, and as much again for their spectra."""


_GROUP: Final = 16
"""Mel filters that are multiplied at a time: neighbours hear an eighth of the spectrum together, all of them all."""

_Filters = tuple[slice, slice, NDArray[np.float32]]
"""Which filters, the bins that they hear, and their weights (bins, filters)."""


@dataclass(frozen=True, slots=True)
class LogMelSpec:
    """What fixes a log-mel spectrogram; stored in each bundle's manifest.

    ``floor`` is the smallest power that is told from silence (1e-10 = -100 dB). ``channel`` picks one channel (from 0)
    of a recording of several; None averages them.
    """

    sample_rate_hz: int = 16_000
    n_fft: int = 1024
    hop_length: int = 512
    n_mels: int = N_MELS
    f_min_hz: float = 0.0
    f_max_hz: float = 8000.0
    floor: float = 1e-10
    channel: int | None = None


def hz_to_mel(frequencies_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel scale (Auditory Toolbox): linear below 1 kHz, 27 steps for each factor of 6.4 above it."""
    linear = frequencies_hz * (3.0 / 200.0)
    with np.errstate(divide="ignore"):
        logarithmic = 15.0 + 27.0 * np.log(frequencies_hz / 1000.0) / np.log(6.4)
    return np.where(frequencies_hz < 1000.0, linear, logarithmic)


def mel_to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `hz_to_mel`."""
    return np.where(mels < 15.0, mels * (200.0 / 3.0), 1000.0 * np.exp((mels - 15.0) * (np.log(6.4) / 27.0)))


def mel_filters(
    n_fft: int, n_mels: int, *, sample_rate_hz: int, f_min_hz: float, f_max_hz: float
) -> NDArray[np.float64]:
    """Triangular filters of equal area, equally spaced on Slaney's mel scale.

    Returns (n_mels, n_fft // 2 + 1) float64 weights for a power spectrum.
    """
    bins_hz = np.linspace(0.0, sample_rate_hz / 2.0, n_fft // 2 + 1)
    limits = hz_to_mel(np.array([f_min_hz, f_max_hz]))
    edges_hz = mel_to_hz(np.linspace(limits[0], limits[1], n_mels + 2))
    lower, centre, upper = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - lower) / (centre - lower)
    falling = (upper - bins_hz) / (upper - centre)
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (upper - lower))


@lru_cache(maxsize=4)
def _constants(spec: LogMelSpec) -> tuple[NDArray[np.float32], tuple[_Filters, ...]]:
    """The window, and the filters in groups of neighbours with the few bins of the spectrum that each group hears."""
    window = np.hanning(spec.n_fft).astype(np.float32)
    filters = mel_filters(
        spec.n_fft,
        spec.n_mels,
        sample_rate_hz=spec.sample_rate_hz,
        f_min_hz=spec.f_min_hz,
        f_max_hz=spec.f_max_hz,
    )
    groups = []
    for first in range(0, spec.n_mels, _GROUP):
        group = filters[first : first + _GROUP]
        heard = np.flatnonzero(group.any(axis=0))
        bins = slice(int(heard[0]), int(heard[-1]) + 1) if len(heard) else slice(0, 1)
        groups.append((slice(first, first + len(group)), bins, np.ascontiguousarray(group[:, bins].T, np.float32)))
    return window, tuple(groups)


def _frames(waveform: NDArray[np.float32], spec: LogMelSpec) -> NDArray[np.float32]:
    """Overlapping frames of one waveform, centred, the edges reflected: (1 + samples // hop, n_fft), a view."""
    half = spec.n_fft // 2
    if len(waveform) <= half:
        raise ValueError(f"{len(waveform)} samples are too few: more than {half} are needed.")
    # np.pad, which does the same, takes twice as long
    padded = np.concatenate((waveform[half:0:-1], waveform, waveform[-2 : -half - 2 : -1]))
    return np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]


def windowed_powers(
    frames: NDArray[np.float32], window: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """|Fourier transform|^2 of frames times a window, a block at a time: no more than a second-level cache holds.

    The allocator also gives such blocks the same memory again and again; that of a whole clip costs a page fault for
    each of its thousands of pages.

    Parameters
    ----------
    frames : (n, ..., n_fft), of which overlapping frames may be a view.
    window : (n_fft,)

    Yields
    ------
    which of the n, and their powers, (some of n, ..., n_fft // 2 + 1) float32, not scaled.
    """
    block = max(1, _BLOCK_SAMPLES // frames[0].size)
    windowed = np.empty((block, *frames.shape[1:]), np.float32)
    for start in range(0, len(frames), block):
        some = slice(start, start + block)
        product = np.multiply(frames[some], window, out=windowed[: len(frames) - start])
        spectra = scipy.fft.rfft(product, axis=-1)
        yield some, spectra.real**2 + spectra.imag**2


def power_spectrum(waveform: NDArray[np.float32], spec: LogMelSpec | None = None) -> NDArray[np.float32]:
    """The power |STFT|^2 of one waveform: what its log-mel and the statistics of its linear spectrum are made of.

    Parameters
    ----------
    waveform : (samples,) float32 in [-1, 1] at ``spec.sample_rate_hz``.
    spec : what to compute; None is the paper's.

    Returns
    -------
    (1 + samples // 512, 513) float32, not scaled: a full-scale sine gives about 256^2.

    Raises
    ------
    ValueError : for fewer samples than half a window, which cannot be reflected.
    """
    spec = spec or LogMelSpec()
    window, _ = _constants(spec)
    frames = _frames(waveform, spec)
    power = np.empty((len(frames), spec.n_fft // 2 + 1), np.float32)
    for some, own in windowed_powers(frames, window):
        power[some] = own
    return power


def mel_decibels(power: NDArray[np.float32], spec: LogMelSpec | None = None) -> NDArray[np.float32]:
    """10 log10(max(floor, mel filters x power)): (frames, 513) of `power_spectrum` -> (frames, 128) float32 dB."""
    spec = spec or LogMelSpec()
    decibels = np.empty((len(power), spec.n_mels), np.float32)
    block = max(
        1, _BLOCK_SAMPLES // spec.n_fft
    )  # as `log_mel` has them: a product of other shape may end in another bit
    for start in range(0, len(power), block):
        some = slice(start, start + block)
        _write_decibels(power[some], spec, decibels[some])
    return decibels


def _write_decibels(power: NDArray[np.float32], spec: LogMelSpec, out: NDArray[np.float32]) -> None:
    for mels, bins, filters in _constants(spec)[1]:
        np.matmul(power[:, bins], filters, out=out[:, mels])
    np.maximum(out, np.float32(spec.floor), out=out)
    np.log(out, out=out)  # of float32, numpy's log10 is three times slower
    out *= np.float32(10.0 / np.log(10.0))


def log_mel(waveforms: NDArray[np.float32], spec: LogMelSpec | None = None) -> NDArray[np.float32]:
    """Log-mel spectrograms in decibels: `mel_decibels` of the `power_spectrum` of each waveform.

    Parameters
    ----------
    waveforms : (..., samples) float32 in [-1, 1] at ``spec.sample_rate_hz``; 160,000 samples give 313 frames.
    spec : what to compute; None is the paper's.

    Returns
    -------
    (..., 1 + samples // 512, 128) float32 dB, never below 10 log10(floor).

    Raises
    ------
    ValueError : for fewer samples than half a window, which cannot be reflected.
    """
    spec = spec or LogMelSpec()
    flat = np.asarray(waveforms, np.float32).reshape(-1, waveforms.shape[-1])
    decibels = np.empty((len(flat), 1 + flat.shape[-1] // spec.hop_length, spec.n_mels), np.float32)
    for one, out in zip(flat, decibels, strict=True):  # a clip at a time stays in the cache, and a block of its powers
        for some, power in windowed_powers(_frames(one, spec), _constants(spec)[0]):
            _write_decibels(power, spec, out[some])
    return decibels.reshape(*waveforms.shape[:-1], *decibels.shape[-2:])


def temporal_maximum(
    log_mels: NDArray[np.float32], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """t_max (paper 2.4): the maximum over time of the standardised log-mel.

    Parameters
    ----------
    log_mels : (..., frames, mels) dB
    mean, deviation : (mels,) of the training clips' frames, dB

    Returns
    -------
    (..., mels) float64, in standard deviations.
    """
    loudest: NDArray[np.float64] = log_mels.max(axis=-2).astype(np.float64)
    return (loudest - mean) / (deviation + 1e-12)
