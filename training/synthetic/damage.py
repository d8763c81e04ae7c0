"""Faults drawn for a clip, and the sounds they make.

Conventions as in `sources`. The level of a fault's sound is set in `render`, where the healthy recording is known.
"""

import numpy as np

from models.audio import CLIP_S, CLIP_SAMPLES, SAMPLE_RATE_HZ
from training.synthetic.faults import Fault, FaultKind
from training.synthetic.machines import Cycle, OperatingCondition, draw_section, generator
from training.synthetic.rooms import band, resonances
from training.synthetic.sources import (
    Envelope,
    Motion,
    Spectrum,
    impulses,
    spectrum_of,
    strike_times_s,
    time_s,
    waveform_of,
)

_BEARING_ORDERS = (3.05, 3.58, 4.42, 5.42)
"""Impacts a revolution: defects in the inner and outer races of common ball bearings."""
_IMBALANCE = (1.0, 0.5, 0.35, 0.2)
"""Amplitudes of the shaft's first harmonics."""
_BOUNCES = np.arange(1, 7)


def draw_fault(
    machine_type: str,
    section: str,
    condition: OperatingCondition,
    *,
    seed: int,
    take: str,
    kind: FaultKind | None = None,
) -> Fault:
    """A fault as the machine type has them; band, rate, time and level are drawn for the clip that ``take`` names.

    ``kind`` None draws one of the machine type's kinds. Six in ten last the whole clip, the others five to nine
    seconds. Some are plain, some hardly to be heard.

    Raises
    ------
    DataError : for a machine type that cannot be generated.
    """
    drawn = draw_section(machine_type, section, seed)
    rng = generator(seed, machine_type, section, take, "what")
    kind = kind or drawn.machine.faults[rng.integers(len(drawn.machine.faults))]
    shaft_hz = drawn.shaft_rate_hz(condition)
    level_db = rng.uniform(-4.0, 4.0) - (6.0 if drawn.bursts else 0.0)  # it is heard best between the bursts
    match kind:
        case FaultKind.BEARING:
            centre_hz = rng.uniform(2200.0, 5200.0)
            low_hz, high_hz = centre_hz / 1.35, centre_hz * 1.35
            rate_hz = shaft_hz * _BEARING_ORDERS[rng.integers(len(_BEARING_ORDERS))]
        case FaultKind.IMBALANCE:  # a few bins only: it must be stronger to be heard
            low_hz, high_hz, rate_hz = 0.7 * shaft_hz, 4.5 * shaft_hz, shaft_hz
            level_db += 8.0
        case FaultKind.LEAK:
            low_hz = rng.uniform(2500.0, 4500.0)
            high_hz, rate_hz = low_hz * rng.uniform(1.4, 1.65), 0.0
        case FaultKind.CLOGGING:
            (low_hz, high_hz), rate_hz = drawn.flow_hz, rng.uniform(0.6, 2.0)
            level_db = rng.uniform(-8.0, -2.0)
        case FaultKind.LOOSENESS:
            low_hz = rng.uniform(500.0, 1400.0)
            high_hz = low_hz * rng.uniform(2.2, 3.2)
            rate_hz = rng.uniform(25.0, 40.0) if drawn.bursts else 0.5 * shaft_hz
        case FaultKind.SLIPPING:
            low_hz = rng.uniform(1500.0, 4000.0)
            high_hz, rate_hz = low_hz * 1.3, rng.uniform(0.5, 1.2)
    start_s, end_s = 0.0, CLIP_S
    if rng.random() < 0.4:
        lasting_s = rng.uniform(5.0, 9.0)
        start_s = rng.uniform(0.0, CLIP_S - lasting_s)
        end_s = start_s + lasting_s
    return Fault(kind, low_hz, high_hz, rate_hz, start_s, end_s, level_db)


def course(fault: Fault, rng: np.random.Generator) -> Envelope:
    """How much of the fault there is over the clip, (160000,) from 0 to 1: all or nothing, but slips come and go."""
    if fault.kind is FaultKind.SLIPPING:
        return _slips(fault, rng)
    starting = (time_s() - fault.start_s) / 0.02 if fault.start_s > 0.0 else np.ones(CLIP_SAMPLES)
    ending = (fault.end_s - time_s()) / 0.02 if fault.end_s < CLIP_S else np.ones(CLIP_SAMPLES)
    present: Envelope = np.clip(np.minimum(starting, ending), 0.0, 1.0).astype(np.float32)
    return present


def damage(fault: Fault, cycle: Cycle | None, motion: Motion, present: Envelope, rng: np.random.Generator) -> Spectrum:
    """The sound of any fault but clogging, (80001,), in its band, of no particular level.

    ``cycle``: the machine's. ``present``: the fault's `course`.
    """
    match fault.kind:
        case FaultKind.LEAK | FaultKind.SLIPPING:
            sound = rng.standard_normal(CLIP_SAMPLES, np.float32)
        case FaultKind.IMBALANCE:
            sound = _harmonics(motion, rng)
        case FaultKind.LOOSENESS if cycle and cycle.open:
            sound = _rattle(fault, cycle, motion, rng)
        case _:
            sound = _impacts(fault, motion, rng)
    spectrum = spectrum_of(sound * present) * band(fault.low_hz, fault.high_hz)
    if fault.kind in {FaultKind.BEARING, FaultKind.LOOSENESS}:
        spectrum *= resonances([(float(np.sqrt(fault.low_hz * fault.high_hz)), 5.0, 1.0)])
    return spectrum


def lost(fault: Fault, machine: Spectrum, present: Envelope) -> Envelope:
    """What clogging adds to the machine's sound, (160000,): its band weakens by the fault's level, and surges."""
    surge = np.sin((2.0 * np.pi * fault.rate_hz * time_s()).astype(np.float32))
    remaining = np.float32(10.0 ** (fault.level_db / 20.0)) * (1.0 + np.float32(0.5) * surge)
    affected = waveform_of(machine * band(fault.low_hz, fault.high_hz))
    return affected * (remaining - np.float32(1.0)) * present


def _slips(fault: Fault, rng: np.random.Generator) -> Envelope:
    """A bump of a third to a half of each period."""
    slip = np.zeros(CLIP_SAMPLES, np.float32)
    for start_s in np.arange(fault.start_s, fault.end_s, 1.0 / fault.rate_hz):
        bump = np.hanning(int(rng.uniform(0.33, 0.5) / fault.rate_hz * SAMPLE_RATE_HZ)).astype(np.float32)
        first = int((start_s + rng.uniform(0.0, 0.4) / fault.rate_hz) * SAMPLE_RATE_HZ)
        last = min(first + len(bump), int(fault.end_s * SAMPLE_RATE_HZ))
        if first < last:
            slip[first:last] = bump[: last - first]
    return slip


def _harmonics(motion: Motion, rng: np.random.Generator) -> Envelope:
    phase = np.float32(2.0 * np.pi) * (motion.revolutions % 1.0).astype(np.float32)
    sound = np.zeros(CLIP_SAMPLES, np.float32)
    for order, (amplitude, turn) in enumerate(zip(_IMBALANCE, rng.random(len(_IMBALANCE)), strict=True), start=1):
        sound += np.float32(amplitude) * np.sin(np.float32(order) * phase + np.float32(2.0 * np.pi * turn))
    return sound


def _impacts(fault: Fault, motion: Motion, rng: np.random.Generator) -> Envelope:
    """Impacts at ``rate_hz`` at the shaft's nominal speed, a little irregular; loose parts miss one in seven."""
    turned = motion.revolutions * (fault.rate_hz / motion.shaft_rate_hz)
    due = np.arange(np.ceil(turned[0]), turned[-1])
    due += 0.02 * rng.standard_normal(len(due))
    amplitudes = np.exp(0.25 * rng.standard_normal(len(due)))
    if fault.kind is FaultKind.LOOSENESS:
        amplitudes *= rng.random(len(due)) > 1.0 / 7.0
    return impulses(np.searchsorted(turned, due) / SAMPLE_RATE_HZ, amplitudes)


def _rattle(fault: Fault, cycle: Cycle, motion: Motion, rng: np.random.Generator) -> Envelope:
    """Six impacts at ``rate_hz``, ever weaker, after each strike."""
    strikes_s = strike_times_s(motion, cycle).reshape(-1, 1)
    times_s = strikes_s + _BOUNCES / fault.rate_hz + 0.003 * rng.standard_normal((len(strikes_s), len(_BOUNCES)))
    amplitudes = 0.75**_BOUNCES * np.exp(0.2 * rng.standard_normal(times_s.shape))
    return impulses(times_s.ravel(), amplitudes.ravel())
