"""The statistics of clips, against their definitions written out in loops and float64."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.audio import CLIP_SAMPLES, decode
from models.frontend import LogMelSpec, log_mel, power_spectrum
from models.modulation import ENV, ENV2, ModulationSpec, modulation_spectrum
from models.statistics import N_SAMPLES, Statistics, log_mel_and_statistics
from tests.models.bench_statistics import best_ms, noise, plain_front_end

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings" / "dev_data"
NAMES = ("ms", "d", "cor", "env", "env2", "lin")
SIZES = {"ms": 256, "d": 256, "cor": 120, "env": 320, "env2": 240, "lin": 512}

Wave = NDArray[np.float32]
Array = NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As serving has it; two BLAS threads are slower at these sizes."""
    with threadpool_limits(limits=1):
        yield


def hann(n: int) -> Array:
    """The symmetric window, by its formula."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n) / (n - 1))


def slow_amplitudes(samples: Array, n_fft: int, hop: int) -> Array:
    """|STFT| of every full frame, one after the other."""
    frames = [samples[start : start + n_fft] for start in range(0, len(samples) - n_fft + 1, hop)]
    return np.array([np.abs(np.fft.rfft(hann(n_fft) * frame)) for frame in frames])


def slow_levels(amplitudes: Array, n_mels: int) -> Array:
    """Log-mel powers in dB with librosa's filters, (frames, n_mels)."""
    from librosa.filters import mel

    n_fft = 2 * (amplitudes.shape[1] - 1)
    filters = mel(sr=16_000, n_fft=n_fft, n_mels=n_mels, fmin=0.0, fmax=8000.0, dtype=np.float64)
    levels: Array = 10.0 * np.log10(np.maximum(1e-10, amplitudes**2 @ filters.T))
    return levels


def deviation(series: Array) -> float:
    """The root of the mean squared distance from the mean."""
    return float(np.sqrt(np.mean((series - np.mean(series)) ** 2)))


def slow_modulations(samples: Array, spec: ModulationSpec, edges_hz: Array, frames_a_second: float) -> Array:
    """One of env and env2: mel by mel, segment by segment, band by band."""
    levels = slow_levels(slow_amplitudes(samples, spec.n_fft, spec.hop_length), spec.n_mels)
    size = spec.segment
    values = []
    for series in levels.T:
        centred = series - np.mean(series)
        starts = range(0, len(centred) - size + 1, size // 2)
        assert len(starts) == 18
        power = np.mean([np.abs(np.fft.rfft(centred[s : s + size] * hann(size))) ** 2 for s in starts], axis=0)
        for low, high in pairwise(edges_hz):
            own = [power[k] for k in range(size // 2 + 1) if low <= k * frames_a_second / size < high]
            values.append(10.0 * np.log10(np.mean(own) + 0.01))
    return np.array(values)


def slow_statistics(waveform: Wave) -> dict[str, Array]:
    """The table of definitions, line by line."""
    x = waveform.astype(np.float64)
    padded = np.concatenate([x[512:0:-1], x, x[-2:-514:-1]])
    amplitudes = slow_amplitudes(padded, 1024, 512)
    m = slow_levels(amplitudes, 128)
    assert m.shape == (313, 128)
    bands = [m[:, 8 * i : 8 * i + 8].mean(axis=1) for i in range(16)]
    correlations = []
    for i in range(16):
        for j in range(i + 1, 16):
            covariance = np.mean((bands[i] - bands[i].mean()) * (bands[j] - bands[j].mean()))
            correlations.append(covariance / ((deviation(bands[i]) + 0.1) * (deviation(bands[j]) + 0.1)))
    pairs = np.array([(amplitudes[:, 2 * i] + amplitudes[:, 2 * i + 1]) / 2.0 for i in range(256)])
    linear = 20.0 * np.log10(pairs + 1e-5)
    return {
        "ms": np.array([np.mean(band) for band in m.T] + [deviation(band) for band in m.T]),
        "d": np.array([np.log(0.001 + deviation(band[k:] - band[:-k])) for k in (1, 4) for band in m.T]),
        "cor": np.array(correlations),
        "env": slow_modulations(x, ENV, np.geomspace(1.5, 125.0, 11), 250.0),
        "env2": slow_modulations(x, ENV2, np.geomspace(12.0, 500.0, 13), 1000.0),
        "lin": np.array([np.mean(band) for band in linear] + [deviation(band) for band in linear]),
    }


TIME_S = np.arange(CLIP_SAMPLES) / 16_000


def white(level: float = 0.1, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(0.0, level, CLIP_SAMPLES)


def machine() -> Array:
    """A hum of ten harmonics and knocks twice a second, in noise that falls towards 8 kHz, as 16-bit PCM."""
    hum = sum(np.sin(2 * np.pi * 187.0 * k * TIME_S + k) / k for k in range(1, 11))
    knocks = np.exp(-40.0 * (TIME_S % 0.5)) * np.sin(2 * np.pi * 1900.0 * TIME_S)
    rumble = np.convolve(white(0.02), 0.8 ** np.arange(40), "same")
    pcm: Array = np.round(32_768 * (0.1 * hum + 0.2 * knocks + rumble)) / 32_768
    return pcm


def half_silent() -> Array:
    """Digital silence from 2 to 6 s and in the last half second."""
    audible = ((TIME_S < 2.0) | (TIME_S > 6.0)) & (TIME_S < 9.5)
    return white() * audible


SOUNDS: dict[str, Callable[[], Array]] = {
    "white noise": white,
    "modulated noise": lambda: white() * (1.0 + 0.9 * np.sin(2 * np.pi * 20.0 * TIME_S)),
    "a machine": machine,
    "noise of -100 dBFS": lambda: white(1e-5),
    "half silent": half_silent,
    "digital silence": lambda: np.zeros(CLIP_SAMPLES),
    "one click": lambda: np.eye(1, CLIP_SAMPLES, 70_000)[0],
}

TOLERANCES = {"ms": 1e-4, "d": 1e-5, "cor": 1e-6, "env": 1e-4, "env2": 3e-4, "lin": 1e-3}
"""Float32 against float64: 100 dB are rounded by 4e-6 dB, and a log-mel may be off by 1e-4 dB (test_frontend). Found:
1e-5 dB for ms and env, 9e-5 for env2 (noise near the floor), 9e-7 for d, 2e-7 for cor, and 3e-4 dB for lin, in a real
recording whose loud bass leaves the upper bins little more than its rounding; each with room for other machines.
"""


def assert_agrees(waveform: Wave) -> None:
    log_mel_values, statistics = log_mel_and_statistics(waveform)
    np.testing.assert_array_equal(log_mel_values, log_mel(waveform))
    expected = slow_statistics(waveform)
    for name in NAMES:
        value = getattr(statistics, name)
        assert (value.shape, value.dtype) == ((SIZES[name],), np.float32)
        np.testing.assert_allclose(value, expected[name], rtol=0.0, atol=TOLERANCES[name], err_msg=name)


@pytest.mark.parametrize("sound", SOUNDS)
def test_statistics_are_those_of_the_table(sound: str) -> None:
    """Loops in float64 over frames, mels, bands and segments, with librosa's filters, share no line with the code."""
    assert_agrees(SOUNDS[sound]().astype(np.float32))


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the real recordings are not beside this checkout")
def test_statistics_of_real_recordings_are_those_of_the_table() -> None:
    """One clip of each machine type at hand."""
    for folder in sorted(RECORDINGS.glob("*/train")):
        assert_agrees(decode(min(folder.iterdir())).waveform[:CLIP_SAMPLES])


def test_a_clean_tone_agrees_in_the_mels_within_sixty_decibels_of_the_loudest() -> None:
    """Below that float32 leaves rounding only, as for the log-mel. Modulations at their floor feel more of it."""
    waveform = (0.5 * np.sin(2 * np.pi * 1234.5 * TIME_S)).astype(np.float32)
    _, statistics = log_mel_and_statistics(waveform)
    expected = slow_statistics(waveform)
    loud = expected["ms"][:128] > expected["ms"][:128].max() - 60.0
    assert loud.sum() >= 3
    np.testing.assert_allclose(statistics.ms[np.tile(loud, 2)], expected["ms"][np.tile(loud, 2)], rtol=0, atol=1e-4)
    np.testing.assert_allclose(statistics.d[np.tile(loud, 2)], expected["d"][np.tile(loud, 2)], rtol=0, atol=1e-5)
    for name, spec in (("env", ENV), ("env2", ENV2)):
        amplitudes = slow_amplitudes(waveform.astype(np.float64), spec.n_fft, spec.hop_length)
        levels = slow_levels(amplitudes, spec.n_mels).mean(axis=0)
        loud = np.repeat(levels > levels.max() - 60.0, spec.n_bands)
        assert loud.sum() >= 3 * spec.n_bands
        np.testing.assert_allclose(getattr(statistics, name)[loud], expected[name][loud], rtol=0, atol=0.01)


@pytest.mark.parametrize(("spec", "rate_hz"), [(ENV, 2.9), (ENV, 4.5), (ENV, 20.0), (ENV2, 14.0), (ENV2, 100.0)])
def test_a_modulation_stands_out_in_its_band_of_rates(spec: ModulationSpec, rate_hz: float) -> None:
    """Noise that swells at one rate: every mel has its maximum in the band that holds the rate."""
    waveform = white() * (1.0 + 0.9 * np.sin(2 * np.pi * rate_hz * TIME_S))
    modulations = modulation_spectrum(waveform.astype(np.float32), spec)
    band = int(np.searchsorted(spec.edges_hz, rate_hz, side="right")) - 1
    assert modulations.shape == (spec.n_mels, spec.n_bands)
    assert (modulations.argmax(axis=1) == band).all()


@settings(max_examples=15, deadline=None)
@given(gain=st.floats(0.01, 3.0), seed=st.integers(0, 1000))
def test_a_gain_shifts_the_statics_and_leaves_the_dynamics(gain: float, seed: int) -> None:
    """By 20 log10(gain) dB; to lin a gain is also a floor moved from 1e-5 to 1e-5 / gain."""
    waveform = white(seed=seed).astype(np.float32)
    _, before = log_mel_and_statistics(waveform)
    _, after = log_mel_and_statistics(np.float32(gain) * waveform)
    shift = 20.0 * np.log10(np.repeat([gain, 1.0], [128, 128]))
    np.testing.assert_allclose(after.ms, before.ms + shift, rtol=0, atol=TOLERANCES["ms"])
    amplitudes = np.sqrt(power_spectrum(waveform)[:, :512].astype(np.float64)).reshape(313, 256, 2).mean(axis=2)
    levels = 20.0 * np.log10(amplitudes + 1e-5 / gain)
    lin = np.concatenate([levels.mean(axis=0), levels.std(axis=0)]) + np.repeat(shift, 2)
    np.testing.assert_allclose(after.lin, lin, rtol=0, atol=1e-4)
    for name in ("d", "cor", "env", "env2"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=0, atol=TOLERANCES[name])


LEVELS = st.one_of(st.just(0.0), st.floats(-45.0, 0.0).map(lambda exponent: 10.0**exponent))


@settings(max_examples=25, deadline=None)
@given(
    levels=st.tuples(LEVELS, LEVELS, LEVELS, LEVELS),
    rate_hz=st.floats(0.01, 8000.0),
    muted=st.lists(st.tuples(st.integers(0, CLIP_SAMPLES), st.integers(0, CLIP_SAMPLES)), max_size=3),
)
def test_whatever_is_heard_the_statistics_are_finite_and_in_their_range(
    levels: tuple[float, float, float, float], rate_hz: float, muted: list[tuple[int, int]]
) -> None:
    """Offset, tone, noise, click: from full scale to less than float32 can hold, and with digital silences."""
    offset, tone, hiss, click = levels
    sound = offset + tone * np.sin(2 * np.pi * rate_hz * TIME_S) + white(hiss)
    sound[12_345] += click
    for start, end in muted:
        sound[start:end] = 0.0
    _, statistics = log_mel_and_statistics(np.clip(sound, -1.0, 1.0).astype(np.float32))
    for name in NAMES:
        assert np.isfinite(getattr(statistics, name)).all(), name
    assert (statistics.ms[:128] >= -100.0 - 1e-4).all()
    assert (statistics.lin[:256] >= -100.0 - 1e-4).all()
    assert (statistics.ms[128:] >= 0.0).all()
    assert (statistics.lin[256:] >= 0.0).all()
    assert (statistics.d >= np.log(0.001) - 1e-6).all()
    assert (np.abs(statistics.cor) <= 1.0).all()
    assert (statistics.env >= -20.0 - 1e-4).all()
    assert (statistics.env2 >= -20.0 - 1e-4).all()


def test_a_batch_is_its_clips_one_by_one() -> None:
    """Leading axes are kept, also by what is put together of the statistics, and a batch of none is one."""
    waveforms = np.random.default_rng(2).normal(0, 0.1, (2, 2, CLIP_SAMPLES)).astype(np.float32)
    log_mels, batch = log_mel_and_statistics(waveforms)
    log_mel_alone, alone = log_mel_and_statistics(waveforms[1, 0])
    np.testing.assert_array_equal(log_mels[1, 0], log_mel_alone)
    for name in (*NAMES, "dynamics", "statics_and_dynamics"):
        assert getattr(batch, name).shape[:2] == (2, 2)
        np.testing.assert_array_equal(getattr(batch, name)[1, 0], getattr(alone, name))
    none, nothing = log_mel_and_statistics(waveforms[:0, 0])
    assert (none.shape, nothing.statics_and_dynamics.shape) == ((0, 313, 128), (0, 1192))


def test_the_inputs_of_the_systems_are_put_together_in_order() -> None:
    """A hears ms, d, cor, env and env2, 1,192 numbers; F all of these but ms, 936."""
    statistics = Statistics(**{name: np.full((3, SIZES[name]), i, np.float32) for i, name in enumerate(NAMES)})
    inputs, dynamics = statistics.statics_and_dynamics, statistics.dynamics
    assert (inputs.shape, dynamics.shape) == ((3, 1192), (3, 936))
    np.testing.assert_array_equal(inputs[0], np.repeat([0, 1, 2, 3, 4], [256, 256, 120, 320, 240]))
    np.testing.assert_array_equal(dynamics, inputs[:, 256:])


def test_other_lengths_and_other_front_ends_are_refused() -> None:
    """Statistics of another length or spectrum would be other statistics; another channel is the same front end."""
    assert N_SAMPLES == CLIP_SAMPLES
    with pytest.raises(ValueError, match="160000 samples, not of 159999"):
        log_mel_and_statistics(np.zeros(159_999, np.float32))
    with pytest.raises(ValueError, match=r"paper's front end, not on .*n_fft=2048"):
        log_mel_and_statistics(noise(), LogMelSpec(n_fft=2048))
    log_mel_and_statistics(noise(), LogMelSpec(channel=1))


def test_it_is_faster_than_the_plain_writing_which_gives_the_same() -> None:
    """Measured in turns: 2.7 times (DECISIONS.md); 1.5 leaves room for other processors and a busy machine."""
    waveform = noise()
    m, expected = plain_front_end(waveform)
    log_mel_values, statistics = log_mel_and_statistics(waveform)
    np.testing.assert_allclose(log_mel_values, m, rtol=0, atol=1e-4)
    for name in NAMES:
        np.testing.assert_allclose(getattr(statistics, name), expected[name], rtol=0, atol=1e-4)
    times = best_ms(
        {"ours": lambda: log_mel_and_statistics(waveform), "plain": lambda: plain_front_end(waveform)}, rounds=8
    )
    assert times["plain"] > 1.5 * times["ours"], times
