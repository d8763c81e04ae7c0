"""The front end beside its plain writing in numpy, one clip, one thread, in turns in one process.

``python -m tests.models.bench_statistics`` prints the milliseconds that DECISIONS.md quotes. Times are those of the
thread on the processor, so that other work on the machine counts as little as it can.
"""

import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.frontend import log_mel, mel_filters
from models.modulation import ENV, ENV2, ModulationSpec, modulation_spectrum
from models.statistics import N_SAMPLES, log_mel_and_statistics

Floats = NDArray[np.float32]

WINDOWS = {size: np.hanning(size).astype(np.float32) for size in (128, 256, 1024)}
FILTERS = {
    n_fft: mel_filters(n_fft, n_mels, sample_rate_hz=16_000, f_min_hz=0.0, f_max_hz=8000.0).T.astype(np.float32)
    for n_fft, n_mels in ((1024, 128), (256, 32), (128, 20))
}


def plain_amplitudes(waveform: Floats, n_fft: int, hop_length: int) -> Floats:
    """The amplitudes of an STFT, (frames, bins)."""
    frames = sliding_window_view(waveform, n_fft)[::hop_length] * WINDOWS[n_fft]
    amplitudes: Floats = np.abs(np.fft.rfft(frames, axis=-1))
    return amplitudes


def plain_modulations(waveform: Floats, spec: ModulationSpec) -> Floats:
    """One of env and env2, (n_mels, n_bands)."""
    powers = plain_amplitudes(waveform, spec.n_fft, spec.hop_length) ** 2 @ FILTERS[spec.n_fft]
    levels = 10 * np.log10(np.maximum(powers, 1e-10))
    levels -= levels.mean(axis=0)
    segments = sliding_window_view(levels, spec.segment, axis=0)[:: spec.segment // 2] * WINDOWS[spec.segment]
    modulations = (np.abs(np.fft.rfft(segments, axis=-1)) ** 2).mean(axis=0)
    rates_hz = np.fft.rfftfreq(spec.segment, spec.hop_length / 16_000)
    bands = [
        modulations[:, (rates_hz >= low) & (rates_hz < high)].mean(axis=1)
        for low, high in zip(spec.edges_hz[:-1], spec.edges_hz[1:], strict=True)
    ]
    decibels: Floats = 10 * np.log10(np.stack(bands, axis=1) + 0.01)
    return decibels


def plain_front_end(waveform: Floats) -> tuple[Floats, Mapping[str, Floats]]:
    """The log-mel and the statistics as one writes them in numpy without a thought of time."""
    amplitudes = plain_amplitudes(np.pad(waveform, 512, mode="reflect"), 1024, 512)
    m = 10 * np.log10(np.maximum(amplitudes**2 @ FILTERS[1024], 1e-10))
    lin = 20 * np.log10(amplitudes[:, :512].reshape(len(m), 256, 2).mean(axis=2) + 1e-5)
    bands = m.reshape(len(m), 16, 8).mean(axis=2)
    deviations = bands.std(axis=0) + 0.1
    correlations = np.cov(bands.T, ddof=0) / np.outer(deviations, deviations)
    return m, {
        "ms": np.concatenate([m.mean(axis=0), m.std(axis=0)]),
        "d": np.concatenate([np.log(0.001 + (m[lag:] - m[:-lag]).std(axis=0)) for lag in (1, 4)]),
        "cor": correlations[np.triu_indices(16, k=1)],
        "env": plain_modulations(waveform, ENV).ravel(),
        "env2": plain_modulations(waveform, ENV2).ravel(),
        "lin": np.concatenate([lin.mean(axis=0), lin.std(axis=0)]),
    }


def noise() -> Floats:
    """Ten seconds; what is heard does not change the time that it takes."""
    return np.random.default_rng(1).normal(0, 0.1, N_SAMPLES).astype(np.float32)


def best_ms(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least time of each in so many rounds, all functions in turn in each round, on one BLAS thread."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    with threadpool_limits(limits=1):
        for _ in range(rounds):
            for name, function in functions.items():
                begun = time.thread_time()
                function()
                times[name].append(time.thread_time() - begun)
    return {name: 1000.0 * min(durations) for name, durations in times.items()}


def main() -> None:
    """Print the table."""
    waveform = noise()
    functions: dict[str, Callable[[], object]] = {
        "log-mel": lambda: log_mel(waveform),
        "env": lambda: modulation_spectrum(waveform, ENV),
        "env2": lambda: modulation_spectrum(waveform, ENV2),
        "log-mel and all statistics": lambda: log_mel_and_statistics(waveform),
        "env, plain": lambda: plain_modulations(waveform, ENV),
        "env2, plain": lambda: plain_modulations(waveform, ENV2),
        "log-mel and all statistics, plain": lambda: plain_front_end(waveform),
    }
    for name, duration in best_ms(functions, 100).items():
        sys.stdout.write(f"{name:35} {duration:6.2f} ms\n")


if __name__ == "__main__":
    main()
