"""One generated clip: motion -> rotation, flow, strikes -> structure, room, microphone -> ambient noise -> fault.

A clip's draws hang on its own name (``take``), those of its fault on another generator: the same clip can be had with
and without its fault, and with others.
"""

import numpy as np
from numpy.typing import NDArray

from models.audio import CLIP_S
from models.vocabulary import Domain
from training.synthetic.damage import course, damage, lost
from training.synthetic.faults import Fault, FaultKind
from training.synthetic.machines import OperatingCondition, draw_section, generator
from training.synthetic.rooms import BINS, acoustics, band, power, ripple
from training.synthetic.sources import emitted, move, waveform_of


def render(
    machine_type: str,
    section: str,
    domain: Domain,
    condition: OperatingCondition,
    *,
    seed: int,
    take: str,
    fault: Fault | None = None,
) -> NDArray[np.float32]:
    """A ten-second clip at 16 kHz, (160000,) float32, its level about -33 dBFS.

    Parameters
    ----------
    machine_type, section, domain, seed : whose sound, and where it was recorded.
    condition : one of `operating_conditions`, whose attribute is written into training names.
    take : names the recording; another name is another recording of the same machine.
    fault : what is wrong with it; the clip is otherwise the one without.

    Raises
    ------
    DataError : for a machine type that cannot be generated.
    """
    drawn = draw_section(machine_type, section, seed)
    place = acoustics(machine_type, section, domain, seed)
    rng = generator(seed, machine_type, section, domain, take)
    fault_rng = generator(seed, machine_type, section, domain, take, "fault")
    present = None if fault is None else course(fault, fault_rng)
    motion = move(drawn, condition, rng, present if fault and fault.kind is FaultKind.SLIPPING else None)
    machine = emitted(drawn, condition, motion, rng) * place.transfer * ripple(rng, 0.7)
    level_db = drawn.level_dbfs + 20.0 * np.log10(condition.speed_factor) + 2.0 * condition.load
    level_db += rng.uniform(-1.0, 1.0)
    machine *= np.float32(10.0 ** (level_db / 20.0) / np.sqrt(power(machine)))
    noise_db = level_db - place.signal_to_noise_db + rng.uniform(-1.5, 1.5)
    noise = rng.standard_normal(2 * BINS, np.float32).view(np.complex64) * (place.noise * ripple(rng, 1.5))
    healthy = machine + noise * np.float32(10.0 ** (noise_db / 20.0) / np.sqrt(2.0))
    if fault is None or present is None:
        return waveform_of(healthy)
    if fault.kind is FaultKind.CLOGGING:
        return waveform_of(healthy) + lost(fault, machine, present)
    sound = damage(fault, drawn.machine.cycle, motion, present, fault_rng) * place.transfer
    lasting = (fault.end_s - fault.start_s) / CLIP_S
    wanted = power(healthy * np.sqrt(band(fault.low_hz, fault.high_hz))) * lasting * 10.0 ** (fault.level_db / 10.0)
    return waveform_of(healthy + sound * np.float32(np.sqrt(wanted / power(sound))))
