"""Generated machine recordings in the layout of DCASE 2021 task 2: for tests, the demonstration and first steps.

The sounds are models, not recordings: what is learned from them says that the code works, never how well it hears.
`machines` describes the seven machine types and `faults` what goes wrong with them; `sources` and `damage` say how
either sounds, `rooms` what lies between machine and file; `render` makes one clip, `dataset` a tree of them. Everything
is seeded: a recording depends on the seed and on its own name alone, so that it is the same whatever else is made.
"""

from training.synthetic.damage import draw_fault
from training.synthetic.dataset import count_recordings, synthesize
from training.synthetic.faults import Fault, FaultKind
from training.synthetic.machines import MACHINE_TYPES, OperatingCondition, operating_conditions
from training.synthetic.render import render

__all__ = [
    "MACHINE_TYPES",
    "Fault",
    "FaultKind",
    "OperatingCondition",
    "count_recordings",
    "draw_fault",
    "operating_conditions",
    "render",
    "synthesize",
]
