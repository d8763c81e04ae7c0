"""The log-mel front end, against librosa as an independent oracle."""

from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES, decode
from models.frontend import LogMelSpec, log_mel, mel_decibels, mel_filters, power_spectrum, temporal_maximum

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings" / "dev_data"


def librosa_log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """FACTS as librosa says them, in float64."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=waveform.astype(np.float64),
        sr=16_000,
        n_fft=1024,
        hop_length=512,
        window=np.hanning(1024),
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=128,
        fmin=0.0,
        fmax=8000.0,
        dtype=np.float64,
    )
    decibels: NDArray[np.float64] = 10.0 * np.log10(np.maximum(1e-10, power)).T
    return decibels


def test_filters_are_librosas() -> None:
    """Slaney scale, Slaney normalisation, for the three FFT sizes the project uses."""
    from librosa.filters import mel

    for n_fft, n_mels in ((1024, 128), (256, 32), (128, 20)):
        ours = mel_filters(n_fft, n_mels, sample_rate_hz=16_000, f_min_hz=0.0, f_max_hz=8000.0)
        theirs = mel(sr=16_000, n_fft=n_fft, n_mels=n_mels, fmin=0.0, fmax=8000.0, dtype=np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)


def test_noise_agrees_with_librosa_to_a_ten_thousandth_of_a_decibel() -> None:
    """Ten seconds of noise that falls by some 30 dB towards 8 kHz; 313 frames of 128 bands."""
    random = np.random.default_rng(1)
    waveform = np.convolve(random.normal(0, 0.05, CLIP_SAMPLES), 0.7 ** np.arange(30), "same").astype(np.float32)
    ours = log_mel(waveform)
    assert ours.shape == (313, 128)
    assert ours.dtype == np.float32
    assert np.abs(ours - librosa_log_mel(waveform)).max() < 1e-4


def test_clean_tone_agrees_within_sixty_decibels_of_each_frames_maximum() -> None:
    """Below that, a clean tone leaves only float32 rounding, which no two transforms share."""
    waveform = (0.5 * np.sin(2 * np.pi * 1000.0 / 16_000 * np.arange(CLIP_SAMPLES))).astype(np.float32)
    ours, theirs = log_mel(waveform), librosa_log_mel(waveform)
    loud = theirs > theirs.max(axis=1, keepdims=True) - 60.0
    assert loud.sum() > 313
    assert np.abs(ours - theirs)[loud].max() < 1e-4


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the real recordings are not beside this checkout")
def test_real_recordings_agree_with_librosa() -> None:
    """One clip of each machine type and section at hand."""
    for folder in sorted(RECORDINGS.glob("*/train")):
        waveform = decode(min(folder.iterdir())).waveform[:CLIP_SAMPLES]
        assert np.abs(log_mel(waveform) - librosa_log_mel(waveform)).max() < 1e-4, folder


def test_a_batch_is_its_clips_one_by_one() -> None:
    """Leading axes are kept; nothing leaks from clip to clip."""
    waveforms = np.random.default_rng(2).normal(0, 0.1, (2, 3, CLIP_SAMPLES)).astype(np.float32)
    batch = log_mel(waveforms)
    assert batch.shape == (2, 3, 313, 128)
    np.testing.assert_array_equal(batch[1, 2], log_mel(waveforms[1, 2]))


def test_blocks_of_frames_change_no_bit() -> None:
    """All 313 frames transformed in one call give the very same power, and `log_mel` is its decibels."""
    waveform = np.random.default_rng(4).normal(0, 0.1, CLIP_SAMPLES).astype(np.float32)
    padded = np.pad(waveform, 512, mode="reflect")
    frames = np.stack([padded[start : start + 1024] for start in range(0, CLIP_SAMPLES + 1, 512)])
    spectrum = scipy.fft.rfft(frames * np.hanning(1024).astype(np.float32), axis=-1)
    power = power_spectrum(waveform)
    assert power.shape == (313, 513)
    assert power.dtype == np.float32
    np.testing.assert_array_equal(power, spectrum.real**2 + spectrum.imag**2)
    np.testing.assert_array_equal(log_mel(waveform), mel_decibels(power))


def test_silence_is_the_floor_and_nothing_is_below_it() -> None:
    """-100 dB at the default floor."""
    np.testing.assert_allclose(log_mel(np.zeros(CLIP_SAMPLES, np.float32)), -100.0, rtol=1e-6)


def test_too_few_samples_are_refused() -> None:
    """Half a window cannot be reflected."""
    with pytest.raises(ValueError, match="512 samples are too few"):
        log_mel(np.zeros(512, np.float32), LogMelSpec())


def test_temporal_maximum_is_the_standardised_maximum_over_time() -> None:
    """Standardising first and taking the maximum then is the same."""
    random = np.random.default_rng(3)
    log_mels = random.normal(-30, 8, (4, 313, 128)).astype(np.float32)
    mean, deviation = random.normal(-30, 2, 128), random.uniform(5, 9, 128)
    slowly = ((log_mels.astype(np.float64) - mean) / (deviation + 1e-12)).max(axis=1)
    np.testing.assert_allclose(temporal_maximum(log_mels, mean, deviation), slowly, rtol=1e-12)
