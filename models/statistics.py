"""What is measured of a clip for the compact systems: its static spectrum, and how its sound moves.

In a plant of a handful of machines and tens of clips, deep networks memorise recordings and static spectra shift
between days; what stays is how the sound moves. Each clip becomes six vectors (`Statistics`). With m the log-mel (313
frames of 128 mels, dB), and means and deviations taken over time, deviations divided by the number of frames:

    ms    mean and deviation of m
    d     ln(0.001 + deviation of m[t + k] - m[t]), k = 1 and 4
    cor   cov_ij / ((sd_i + 0.1)(sd_j + 0.1)), i < j, of 16 bands that are means of 8 mels
    env   modulations of the levels of 32 mels, from 1.5 to 125 Hz (`models.modulation`)
    env2  modulations of the levels of 20 mels, from 12 to 500 Hz
    lin   mean and deviation of 20 log10(amplitude + 1e-5), the amplitudes of the first 512 bins averaged in pairs

ms and lin are static: a gain shifts their means. d, cor, env and env2 are the dynamics, which above the floors a gain
does not change, and a static equaliser hardly. m and lin come from one STFT. Conventions: waveforms are float32 in
[-1, 1] at 16 kHz, ten seconds long; results are float32, and finite for every finite waveform, digital silence too.

The matrix products are small: a second BLAS thread costs more than it gives. Serving and the workers of training run on
one; who calls this elsewhere does well to set OPENBLAS_NUM_THREADS=1 or to use `threadpoolctl`.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.frontend import N_FRAMES, N_MELS, LogMelSpec, mel_decibels, power_spectrum
from models.modulation import ENV, ENV2, modulation_spectrum

N_SAMPLES: Final = 160_000
N_BINS: Final = 512
"""Bins of the linear spectrum that count, of 513."""
N_BANDS: Final = 16
LAGS: Final = (1, 4)
"""Frames between the two log-mels of a difference: 32 and 128 ms."""

_SIZES: Final = {
    "ms": 2 * N_MELS,
    "d": len(LAGS) * N_MELS,
    "cor": N_BANDS * (N_BANDS - 1) // 2,
    "env": ENV.size,
    "env2": ENV2.size,
    "lin": N_BINS,
}
_DECIBELS: Final = np.float32(20.0 / np.log(10.0))
"""20 log10(x) is this times ln(x), which numpy computes three times as fast."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """The statistics of clips, each (..., size) float32 with the same leading axes: none for a single clip.

    ``ms``: (..., 256) dB, the means first. ``d``: (..., 256), lag 1 first. ``cor``: (..., 120), the rows of the upper
    triangle one after the other. ``env``: (..., 320) and ``env2``: (..., 240) dB, all rates of the lowest mel first.
    ``lin``: (..., 512) dB, the means first; the inputs of network L.
    """

    ms: NDArray[np.float32]
    d: NDArray[np.float32]
    cor: NDArray[np.float32]
    env: NDArray[np.float32]
    env2: NDArray[np.float32]
    lin: NDArray[np.float32]

    @property
    def dynamics(self) -> NDArray[np.float32]:
        """(..., 936): d, cor, env, env2, in which F measures distances."""
        return np.concatenate((self.d, self.cor, self.env, self.env2), axis=-1)

    @property
    def statics_and_dynamics(self) -> NDArray[np.float32]:
        """(..., 1192): ms, d, cor, env, env2, the inputs of network A."""
        return np.concatenate((self.ms, self.dynamics), axis=-1)


def log_mel_and_statistics(
    waveforms: NDArray[np.float32], spec: LogMelSpec | None = None
) -> tuple[NDArray[np.float32], Statistics]:
    """The log-mel spectrograms of clips, exactly those of `log_mel`, and their statistics, both from one STFT.

    Parameters
    ----------
    waveforms : (..., 160000) float32 in [-1, 1] at 16 kHz.
    spec : a bundle's front end; None is the paper's, from which only the channel may differ.

    Returns
    -------
    (..., 313, 128) float32 dB, and the statistics with the same leading axes.

    Raises
    ------
    ValueError : for another number of samples, or another front end.
    """
    spec = spec or LogMelSpec()
    if waveforms.shape[-1] != N_SAMPLES:
        raise ValueError(
            f"Statistics are taken of {N_SAMPLES} samples, not of {waveforms.shape[-1]}: repeat the clip, or cut it."
        )
    if replace(spec, channel=None) != LogMelSpec():
        raise ValueError(f"Statistics are defined on the paper's front end, not on {spec}.")
    flat = np.asarray(waveforms, np.float32).reshape(-1, N_SAMPLES)
    log_mels = np.empty((len(flat), N_FRAMES, N_MELS), np.float32)
    values = {name: np.empty((len(flat), size), np.float32) for name, size in _SIZES.items()}
    for i, waveform in enumerate(flat):
        power = power_spectrum(waveform, spec)
        log_mels[i] = mel_decibels(power, spec)
        m = np.ascontiguousarray(log_mels[i].T)  # sums along the last axis are pairwise: exact to a few roundings
        values["ms"][i] = mean_and_deviation(m)
        values["d"][i] = flux(m)
        values["cor"][i] = band_correlations(m)
        values["env"][i] = modulation_spectrum(waveform, ENV).ravel()
        values["env2"][i] = modulation_spectrum(waveform, ENV2).ravel()
        values["lin"][i] = mean_and_deviation(linear_levels(power))
    leading = waveforms.shape[:-1]
    statistics = Statistics(**{name: value.reshape(*leading, value.shape[1]) for name, value in values.items()})
    return log_mels.reshape(*leading, N_FRAMES, N_MELS), statistics


def mean_and_deviation(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """ms and lin: (n, frames) -> (2n,), the means over time, then the deviations."""
    means = levels.mean(axis=1)
    return np.concatenate((means, _deviation(levels - means[:, None])))


def flux(m: NDArray[np.float32]) -> NDArray[np.float32]:
    """d, ln(0.001 + deviation of m[t + k] - m[t]): (mels, frames) dB -> (2 mels,), lag 1 and then lag 4."""
    deviations = []
    for lag in LAGS:
        differences = m[:, lag:] - m[:, :-lag]
        differences -= differences.mean(axis=1, keepdims=True)
        deviations.append(_deviation(differences))
    logarithms: NDArray[np.float32] = np.log(np.float32(0.001) + np.concatenate(deviations))
    return logarithms


def band_correlations(m: NDArray[np.float32]) -> NDArray[np.float32]:
    """cor, cov_ij / ((sd_i + 0.1)(sd_j + 0.1)) for i < j of 16 bands: (mels, frames) dB -> (120,).

    The 0.1 dB keeps the noise of bands that hardly move from counting as correlation.
    """
    bands = m.reshape(N_BANDS, -1, m.shape[1]).mean(axis=1, dtype=np.float64)
    bands -= bands.mean(axis=1, keepdims=True)
    covariance = bands @ bands.T / m.shape[1]
    deviations = np.sqrt(np.diag(covariance)) + 0.1
    correlations: NDArray[np.float64] = covariance / np.outer(deviations, deviations)
    return correlations[np.triu_indices(N_BANDS, k=1)].astype(np.float32)


def linear_levels(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """What lin is made of, 20 log10(amplitude + 1e-5): (frames, 513) of `power_spectrum` -> (256, frames) dB."""
    amplitudes = np.sqrt(power[:, :N_BINS])
    levels = amplitudes[:, 0::2] + amplitudes[:, 1::2]
    levels *= np.float32(0.5)
    levels += np.float32(1e-5)
    np.log(levels, out=levels)
    levels *= _DECIBELS
    return np.ascontiguousarray(levels.T)


def _deviation(centred: NDArray[np.float32]) -> NDArray[np.float32]:
    """The deviation of each row, (n, frames) less their means -> (n,)."""
    squares: NDArray[np.float32] = np.vecdot(centred, centred)
    deviations: NDArray[np.float32] = np.sqrt(squares / np.float32(centred.shape[1]))
    return deviations
