"""The sound of a clip for people: what was scored, as FLAC to listen to, and as a picture beside its section's normal.

Clips are often very quiet: for listening each is raised to the same peak, and the gain is stated. Pictures show the
sound as it is.
"""

import io
from dataclasses import dataclass

import numpy as np
import soundfile
from matplotlib.axes import Axes
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ, decode
from models.bundle import SectionCalibration
from models.frontend import LogMelSpec, hz_to_mel, log_mel
from training.report.theme import LIGHT, Panel
from training.scored import Scored

PEAK = 0.9
MOST_GAIN = 1000.0
"""A pause in a plant's recording is not raised to a roar."""
_RANGE_DB = 60.0
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000)


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """``waveform``: (samples,) float32 at 16 kHz. ``level_dbfs``: its RMS. ``gain_db``: what ``flac`` was raised by."""

    waveform: NDArray[np.float32]
    level_dbfs: float
    flac: bytes
    gain_db: float

    @property
    def duration_s(self) -> float:
        """Its length."""
        return len(self.waveform) / SAMPLE_RATE_HZ


def sound_of(clip: Scored, channel: int | None) -> Sound:
    """Decode a clip again, as it was scored: a challenge's recording whole, of a plant's the ten seconds it counts as.

    Raises
    ------
    AudioError, OSError : where the file is no longer what it was.
    """
    waveform = decode(clip.recording.path, channel=channel, max_clip_s=clip.recording.max_duration_s).waveform
    if not clip.recording.challenge:
        start = round(clip.start_s * SAMPLE_RATE_HZ)
        waveform = waveform[start : start + CLIP_SAMPLES]
    gain = PEAK / max(float(np.abs(waveform).max()), PEAK / MOST_GAIN)
    file = io.BytesIO()
    soundfile.write(file, waveform * gain, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    level_dbfs = 10.0 * np.log10(max(power, float(np.finfo(np.float64).tiny)))
    return Sound(waveform, float(level_dbfs), file.getvalue(), 20.0 * float(np.log10(gain)))


def spectrogram_panel(name: str, sound: Sound, spec: LogMelSpec, calibration: SectionCalibration | None) -> Panel:
    """The log-mel spectrogram, and beside it the clip's mean spectrum over the section's normal one.

    Parameters
    ----------
    name : what the clip is called in words.
    calibration : of the clip's place; None draws no normal spectrum.
    """
    decibels = log_mel(sound.waveform, spec)
    mean = decibels.mean(axis=0, dtype=np.float64)

    def draw(ax: Axes) -> None:
        place = ax.get_subplotspec()
        assert place is not None, "a panel is drawn on a grid of panels"
        inner = place.subgridspec(1, 2, width_ratios=(4, 1), wspace=0.03)
        ax.set_axis_off()
        picture, spectrum = (ax.figure.add_subplot(inner[0, column]) for column in range(2))
        top = float(np.percentile(decibels, 99.8))
        extent = (0.0, sound.duration_s, -0.5, spec.n_mels - 0.5)
        picture.imshow(
            decibels.T,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma",
            vmin=top - _RANGE_DB,
            vmax=top,
            interpolation="none",
        )
        picture.set(xlabel="seconds", ylabel="Hz")
        bands = np.arange(spec.n_mels)
        if calibration is not None:
            usual, spread = calibration.mel_mean, calibration.mel_deviation
            spectrum.fill_betweenx(bands, usual - 2 * spread, usual + 2 * spread, color=LIGHT["known"], alpha=0.3, lw=0)
        spectrum.plot(mean, bands, color=LIGHT["normal"], lw=1.1)
        spectrum.set(xlabel="mean dB", ylim=extent[2:])
        for axes, labels in ((picture, [f"{hz:,}" for hz in _TICKS_HZ]), (spectrum, [])):
            axes.set_yticks(_band(np.array(_TICKS_HZ), spec), labels)
            axes.minorticks_off()

    alt = f"Spectrogram of {name}, {sound.duration_s:g} s, {sound.level_dbfs:.0f} dBFS."
    if calibration is not None:
        outside = np.abs(mean - calibration.mel_mean) > 2.0 * calibration.mel_deviation
        alt += f" Its mean leaves the normal range in {int(outside.sum())} of {spec.n_mels} frequency bands."
    return Panel(name, alt, draw)


def _band(frequencies_hz: NDArray[np.float64], spec: LogMelSpec) -> NDArray[np.float64]:
    """Which band, as a fractional number from 0, has its centre there."""
    low, high = hz_to_mel(np.array([spec.f_min_hz, spec.f_max_hz]))
    bands: NDArray[np.float64] = (hz_to_mel(frequencies_hz.astype(np.float64)) - low) / (high - low) * (spec.n_mels + 1)
    return bands - 1.0
