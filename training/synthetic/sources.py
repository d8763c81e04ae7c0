"""What a healthy machine emits: how its shaft and its cycle move, and the rotation, flow and strikes that follow.

Conventions: waveforms and envelopes are (160000,) float32, spectra (80001,) complex64, revolutions and cycles (160000,)
float64, counted since some moment before the clip.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from models.audio import CLIP_SAMPLES, SAMPLE_RATE_HZ
from training.synthetic.machines import Cycle, OperatingCondition, Section
from training.synthetic.rooms import band, frequencies_hz, power, resonances

Envelope = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

_TURN = 1 << 14
"""Entries of a table of one revolution: looked up without interpolation, its errors stay 50 dB under its harmonics."""
_HIGHEST_HZ = 7600.0
_SLIP_DEPTH = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How a machine moves in one clip.

    ``revolutions``: of the shaft, nominally ``shaft_rate_hz`` a second. ``velocity``: share of full speed, 0 at rest,
    None where the machine never rests. ``cycle``: cycles, ``cycle_rate_hz`` a second.
    """

    shaft_rate_hz: float
    revolutions: NDArray[np.float64]
    velocity: Envelope | None
    cycle_rate_hz: float
    cycle: NDArray[np.float64]


@lru_cache(maxsize=1)
def time_s() -> NDArray[np.float64]:
    """The time of each sample, (160000,) seconds."""
    return np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ


def spectrum_of(waveform: Envelope) -> Spectrum:
    """The one-sided spectrum of a waveform, not scaled."""
    spectrum: Spectrum = scipy.fft.rfft(waveform)
    return spectrum


def waveform_of(spectrum: Spectrum) -> Envelope:
    """The waveform that has this one-sided spectrum."""
    waveform: Envelope = scipy.fft.irfft(spectrum, CLIP_SAMPLES)
    return waveform


def move(drawn: Section, condition: OperatingCondition, rng: np.random.Generator, slip: Envelope | None) -> Motion:
    """A clip's own speed (0.3 % from the nominal), two slow wanderings (0.2 %), strokes, and slips.

    ``slip``: (160000,) from 0 to 1, how far the drive slips; at 1 it is 12 % too slow.
    """
    shaft_rate_hz = drawn.shaft_rate_hz(condition)
    turns, own = rng.random(), 1.0 + 0.003 * rng.standard_normal()
    cycle_rate_hz = drawn.cycle_hz * condition.speed_factor * (1.0 + 0.006 * rng.standard_normal())
    cycle = cycle_rate_hz * time_s() + rng.random()
    velocity = None
    if drawn.machine.cycle and drawn.machine.cycle.strokes:
        stroke = (2.0 * cycle % 1.0).astype(np.float32)
        velocity = np.clip(np.minimum(stroke, 0.85 - stroke) / np.float32(0.12), 0.0, 1.0)
    if velocity is None and slip is None:
        revolutions = turns + shaft_rate_hz * own * time_s()
    else:
        speed = np.ones(CLIP_SAMPLES, np.float32) if velocity is None else velocity
        slipping = speed if slip is None else speed * (1.0 - np.float32(_SLIP_DEPTH) * slip)
        revolutions = turns + np.cumsum(slipping, dtype=np.float64) * (shaft_rate_hz * own / SAMPLE_RATE_HZ)
    for wander_hz, phase in zip(rng.uniform(0.1, 0.5, 2), rng.uniform(0.0, 2.0 * np.pi, 2), strict=True):
        swing = np.sin((2.0 * np.pi * wander_hz * time_s() + phase).astype(np.float32))
        revolutions += swing * (0.002 * shaft_rate_hz / (2.0 * np.pi * wander_hz))
    return Motion(shaft_rate_hz, revolutions, velocity, cycle_rate_hz, cycle)


def emitted(drawn: Section, condition: OperatingCondition, motion: Motion, rng: np.random.Generator) -> Spectrum:
    """The healthy machine's own sound, (80001,), of no particular level.

    Load strengthens the rotation and its side bands, speed the flow (40 dB a decade).
    """
    rotation = _one_turn(drawn, condition)[(motion.revolutions * _TURN).astype(np.int64) & (_TURN - 1)]
    flow = waveform_of(spectrum_of(rng.standard_normal(CLIP_SAMPLES, np.float32)) * _flow_band(drawn.flow_hz))
    if depth := drawn.machine.flow_modulation:
        passing = (motion.revolutions * drawn.passing % 1.0).astype(np.float32)
        flow *= 1.0 + np.float32(depth) * np.sin(np.float32(2.0 * np.pi) * passing)
    if motion.velocity is not None:
        rotation = rotation * motion.velocity
        flow *= motion.velocity
    cycle = drawn.machine.cycle
    if cycle and cycle.open:
        flow *= _opening(motion, cycle.open)
    rotation_db = drawn.rotation_db + 3.0 * condition.load + rng.uniform(-0.7, 0.7)
    flow_db = drawn.flow_db + 40.0 * np.log10(condition.speed_factor) + rng.uniform(-0.7, 0.7)
    spectrum = spectrum_of(_levelled(rotation, rotation_db) + _levelled(flow, flow_db))
    if cycle:
        strikes = spectrum_of(_strikes(motion, cycle, rng)) * _ringing(drawn.strike_modes)
        strike_db = cycle.strike_db + 2.0 * condition.load + rng.uniform(-0.7, 0.7)
        spectrum += strikes * np.float32(10.0 ** (strike_db / 20.0) / np.sqrt(power(strikes)))
    return spectrum


def _levelled(waveform: Envelope, level_db: float) -> Envelope:
    scaled: Envelope = waveform * np.float32(10.0 ** (level_db / 20.0) / np.sqrt(np.mean(np.square(waveform))))
    return scaled


@lru_cache(maxsize=32)
def _one_turn(drawn: Section, condition: OperatingCondition) -> Envelope:
    """The sound of one revolution, (16384,): harmonics of the shaft, and of what passes it, with side bands."""
    turn = np.arange(_TURN) / _TURN
    shaft_hz = drawn.shaft_rate_hz(condition)
    wave = np.zeros(_TURN)
    orders = np.arange(1, len(drawn.shaft_db) + 1)
    for order, level_db, phase in zip(orders, drawn.shaft_db, drawn.phases, strict=False):
        wave += 10.0 ** (level_db / 20.0) * np.sin(2.0 * np.pi * (order * turn + phase))
    depth = drawn.machine.side_bands * (0.6 + 0.8 * condition.load)
    shaft = 1.0 + depth * np.cos(2.0 * np.pi * turn)
    for harmonic, level_db in enumerate(drawn.passing_db, start=1):
        if (harmonic * drawn.passing + 1) * shaft_hz < _HIGHEST_HZ:
            louder_db = level_db + condition.load * harmonic  # load drives the higher harmonics
            phase = drawn.phases[-harmonic]
            tone = np.sin(2.0 * np.pi * (harmonic * drawn.passing * turn + phase))
            wave += 10.0 ** (louder_db / 20.0) * shaft * tone
    return wave.astype(np.float32)


@lru_cache(maxsize=32)
def _flow_band(flow_hz: tuple[float, float]) -> Envelope:
    """Turbulence falls by 3 dB an octave from the band's lower edge on."""
    hz = np.maximum(frequencies_hz(), np.float32(flow_hz[0]))
    falling: Envelope = band(*flow_hz) * np.sqrt(np.float32(flow_hz[0]) / hz)
    return falling


@lru_cache(maxsize=32)
def _ringing(modes: tuple[tuple[float, float, float], ...]) -> Spectrum:
    return resonances(modes)


def _opening(motion: Motion, open_share: tuple[float, float]) -> Envelope:
    """1 while a valve is open, with 10 ms of attack and 40 ms of release."""
    since_s = (motion.cycle % 1.0 - open_share[0]) / motion.cycle_rate_hz
    left_s = (open_share[1] - motion.cycle % 1.0) / motion.cycle_rate_hz
    opening: Envelope = np.clip(np.minimum(since_s / 0.01, 1.0 + left_s / 0.04), 0.0, 1.0).astype(np.float32)
    return opening


def strike_times_s(motion: Motion, cycle: Cycle) -> NDArray[np.float64]:
    """When each strike of the cycle comes, (cycles, strikes); some lie outside the clip."""
    moments = np.array([moment for moment, _ in cycle.strikes])
    cycles = np.arange(np.floor(motion.cycle[0]), np.ceil(motion.cycle[-1]) + 1.0)
    times: NDArray[np.float64] = (cycles[:, None] + moments - motion.cycle[0]) / motion.cycle_rate_hz
    return times


def _strikes(motion: Motion, cycle: Cycle, rng: np.random.Generator) -> Envelope:
    times_s = strike_times_s(motion, cycle)
    times_s += 0.002 * rng.standard_normal(times_s.shape)
    amplitudes = np.array([amplitude for _, amplitude in cycle.strikes]) * (
        1.0 + 0.1 * rng.standard_normal(times_s.shape)
    )
    return impulses(times_s.ravel(), amplitudes.ravel())


def impulses(times_s: NDArray[np.float64], amplitudes: NDArray[np.floating[Any]]) -> Envelope:
    """One sample for each impact that falls into the clip."""
    train = np.zeros(CLIP_SAMPLES, np.float32)
    samples = np.round(times_s * SAMPLE_RATE_HZ).astype(np.int64)
    inside = (samples >= 0) & (samples < CLIP_SAMPLES)
    np.add.at(train, samples[inside], amplitudes[inside])
    return train
