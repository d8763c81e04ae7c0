"""What lies between a machine and a recording of it: its structure, the room, the microphone, and other noise.

Spectra belong to 160,000 samples at 16 kHz: 80,001 bins, 0.1 Hz apart. Products of spectra are cyclic convolutions:
what rings at the end of a clip is heard at its beginning, as in a recording of a machine that always ran.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ
from models.vocabulary import Domain
from training.synthetic.machines import generator

BINS = CLIP_SAMPLES // 2 + 1


@dataclass(frozen=True, slots=True, eq=False)
class Acoustics:
    """What a section's recordings share beside the machine itself.

    ``transfer``: (80001,) from machine to microphone. ``noise``: (80001,), the ambient noise's amplitude spectrum, of
    unit power. ``signal_to_noise_db``: machine against ambient noise.
    """

    transfer: NDArray[np.complex64]
    noise: NDArray[np.float32]
    signal_to_noise_db: float


def frequencies_hz() -> NDArray[np.float32]:
    """The bins of a clip's spectrum, (80001,)."""
    return np.arange(BINS, dtype=np.float32) / np.float32(CLIP_S)


def resonances(modes: Sequence[tuple[float, float, float]]) -> NDArray[np.complex64]:
    """Modes of (Hz, quality factor, gain), each a second-order resonance: (80001,), gain at the mode's frequency."""
    hz = np.maximum(frequencies_hz(), 1.0)
    response = np.zeros(BINS, np.complex64)
    for mode_hz, quality, gain in modes:
        response += gain / (1.0 + 1j * quality * (hz / mode_hz - mode_hz / hz))
    return response


def band(low_hz: float, high_hz: float) -> NDArray[np.float32]:
    """A pass band with edges of a raised cosine over a tenth of the edge's frequency: (80001,) from 0 to 1."""
    hz = frequencies_hz()
    rising = np.clip((hz - 0.95 * low_hz) / max(0.1 * low_hz, 1.0), 0.0, 1.0)
    falling = np.clip((1.05 * high_hz - hz) / max(0.1 * high_hz, 1.0), 0.0, 1.0)
    window: NDArray[np.float32] = np.sin(0.5 * np.pi * np.minimum(rising, falling)) ** 2
    return window


def power(spectrum: NDArray[np.complex64]) -> float:
    """Mean square of the waveform that has this one-sided spectrum (its mean is taken to be nil)."""
    return 2.0 * float(np.vdot(spectrum, spectrum).real) / CLIP_SAMPLES**2


def ripple(rng: np.random.Generator, deviation_db: float) -> NDArray[np.float32]:
    """What differs from day to day, as a smooth random gain over the spectrum: (80001,)."""
    gain_db = np.zeros(BINS, np.float32)
    for waves, turn in enumerate(rng.random(4), start=1):
        angle = (2.0 * np.pi * (waves * _octaves() + np.float32(turn))).astype(np.float32)
        gain_db += np.float32(deviation_db / np.sqrt(2.0) * rng.standard_normal()) * np.sin(angle)
    gain: NDArray[np.float32] = np.exp(gain_db * np.float32(np.log(10.0) / 20.0))
    return gain


@lru_cache(maxsize=1)
def _octaves() -> NDArray[np.float32]:
    """Each bin's place on a logarithmic axis, from 0 at 50 Hz to 1 at 8000 Hz."""
    hz = np.maximum(frequencies_hz(), np.float32(50.0))
    places: NDArray[np.float32] = (np.log(hz / 50.0) / np.log(160.0)).astype(np.float32)
    return places


@lru_cache(maxsize=16)
def acoustics(machine_type: str, section: str, domain: Domain, seed: int) -> Acoustics:
    """The acoustics of a section, from the seed and its name.

    Machine and microphone are the same in both domains; room and ambient noise differ, and the target domain is 3 to
    6 dB noisier.
    """
    rng = generator(seed, machine_type, section, "structure")
    place = generator(seed, machine_type, section, "room", domain)
    transfer = _structure(rng) * _microphone(rng) * _room(place)
    hz = np.maximum(frequencies_hz(), 20.0)
    noise: NDArray[Any] = hz ** -place.uniform(0.5, 1.0)
    centre, width = place.uniform(200.0, 2500.0), place.uniform(0.2, 0.5)
    noise *= 1.0 + place.uniform(0.5, 2.0) * np.exp(-0.5 * (np.log(hz / centre) / width) ** 2)  # another machine
    noise /= np.sqrt(power(noise.astype(np.complex64)))
    quieter = rng.uniform(13.0, 18.0)
    return Acoustics(
        transfer=transfer.astype(np.complex64),
        noise=noise.astype(np.float32),
        signal_to_noise_db=quieter if domain is Domain.SOURCE else quieter - place.uniform(3.0, 6.0),
    )


def _structure(rng: np.random.Generator) -> NDArray[np.complex64]:
    """Six modes of the machine's body between 150 and 6000 Hz over a direct path."""
    modes_hz = np.exp(rng.uniform(np.log(150.0), np.log(6000.0), 6))
    return 0.5 + resonances([(float(hz), rng.uniform(3.0, 12.0), rng.uniform(0.6, 2.5)) for hz in modes_hz])


def _microphone(rng: np.random.Generator) -> NDArray[np.float32]:
    """A high pass, a tilt of up to 1.5 dB an octave, and one broad peak or dip."""
    hz = np.maximum(frequencies_hz(), 1.0)
    high_pass = hz / np.hypot(hz, rng.uniform(20.0, 60.0))
    tilt = (np.maximum(hz, 50.0) / 1000.0) ** rng.uniform(-0.25, 0.25)
    centre, gain_db = rng.uniform(1500.0, 6000.0), rng.uniform(-4.0, 4.0)
    peak = 10.0 ** (gain_db / 20.0 * np.exp(-0.5 * (np.log(hz / centre) / 0.3) ** 2))
    return (high_pass * tilt * peak).astype(np.float32)


def _room(rng: np.random.Generator) -> NDArray[np.complex64]:
    """The direct sound and a diffuse tail, 4 to 10 dB weaker, that decays by 60 dB in 0.2 to 0.7 s."""
    decay_s, tail_db = rng.uniform(0.2, 0.7), rng.uniform(-10.0, -4.0)
    time_s = np.arange(int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    response = rng.standard_normal(len(time_s)) * 10.0 ** (-3.0 * time_s / decay_s)
    response[: int(0.003 * SAMPLE_RATE_HZ)] = 0.0
    response *= 10.0 ** (tail_db / 20.0) / np.linalg.norm(response)
    response[0] = 1.0
    spectrum: NDArray[np.complex64] = scipy.fft.rfft(response.astype(np.float32), CLIP_SAMPLES)
    return spectrum
