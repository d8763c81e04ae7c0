"""What goes wrong with machines, as sounds of a known band, time and rate.

An explanation of an alarm can be tested against these numbers. The level of a fault is relative to the healthy
recording in the fault's own band while the fault lasts: at 0 dB the band rises by 3 dB, at 6 dB by 7.
"""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """The faults, and what each does to the sound.

    ``BEARING``: a defect in a race is struck at its defect frequency, no multiple of the shaft's, a little irregularly;
    each impact rings in a band. ``IMBALANCE``: the shaft's first harmonics grow. ``LEAK``: a broad-band hiss.
    ``CLOGGING``: the flow's band weakens and surges slowly. ``LOOSENESS``: rattling impacts at half the shaft's rate
    (after each strike, where there is no shaft), some left out: sub-harmonics. ``SLIPPING``: the speed
    falls for moments, and a belt or wheel squeals meanwhile.
    """

    BEARING = "bearing"
    IMBALANCE = "imbalance"
    LEAK = "leak"
    CLOGGING = "clogging"
    LOOSENESS = "looseness"
    SLIPPING = "slipping"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in one clip.

    ``low_hz`` to ``high_hz``: the band that changes (of slipping: the squeal's). ``rate_hz``: how often it repeats, 0
    for a steady hiss. ``start_s`` to ``end_s``: when. ``level_db``: the fault's sound against the healthy machine's in
    that band and time; of clogging, negative: by how much the band weakens.
    """

    kind: FaultKind
    low_hz: float
    high_hz: float
    rate_hz: float
    start_s: float = 0.0
    end_s: float = 10.0
    level_db: float = 6.0
