"""The seven machine types of DCASE 2021 as sums of rotation, flow and strikes.

Rotation: harmonics of the shaft, and of what passes once for each blade, vane or tooth (order ``passing``), whose
amplitude the shaft modulates: side bands. Flow: band-limited noise that the passing blades modulate. Strikes: clicks at
fixed moments of a cycle that ring in the structure: valve seats, ends of a slide rail, rail joints. A section is one
machine of the type, its constants drawn once from the ranges given here. Frequencies are Hz, levels dB.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from models.errors import DataError
from models.vocabulary import Domain
from training.synthetic.faults import FaultKind

Range = tuple[float, float]


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and on what it is for, and on nothing that was drawn elsewhere."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


@dataclass(frozen=True, slots=True)
class Speed:
    """The nominal speed as training names write it: ``word_value unit``; each section draws its middle value."""

    word: str
    middle: Range
    step: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Cycle:
    """What repeats more slowly than a shaft turns.

    ``strikes``: (moment as a share of the cycle, amplitude). ``open``: the share of the cycle in which the flow runs,
    None for all of it. ``strokes``: the machine runs forth and back in each cycle and stands between.
    """

    rate_hz: Range
    strikes: tuple[tuple[float, float], ...]
    strike_hz: Range
    strike_db: float
    open: Range | None = None
    strokes: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine type; ranges are drawn once for each section.

    ``rotation_db`` and ``flow_db``: levels of the two sums before the structure colours them. ``faults``: what can go
    wrong with it.
    """

    speed: Speed
    load_word: str
    loads: tuple[float, float, float]
    shaft_hz: Range
    passing: tuple[int, int]
    passing_db: float
    side_bands: float
    rotation_db: float
    flow_hz: tuple[Range, Range]
    flow_db: float
    flow_modulation: float
    faults: tuple[FaultKind, ...]
    cycle: Cycle | None = None


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        "ToyCar": Machine(  # a small motor at high speed, its pinion, and wheels on a floor
            speed=Speed("spd", (2.8, 3.4), 0.1, "V"),
            load_word="wt",
            loads=(0.0, 100.0, 200.0),
            shaft_hz=(70.0, 120.0),
            passing=(9, 13),
            passing_db=3.0,
            side_bands=0.35,
            rotation_db=0.0,
            flow_hz=((150.0, 400.0), (3000.0, 6000.0)),
            flow_db=-3.0,
            flow_modulation=0.15,
            faults=(FaultKind.BEARING, FaultKind.SLIPPING, FaultKind.IMBALANCE, FaultKind.LOOSENESS),
        ),
        "ToyTrain": Machine(  # a motor, wheels on rails, two clacks at each rail joint
            speed=Speed("spd", (6.0, 8.0), 0.5),
            load_word="cars",
            loads=(1.0, 2.0, 3.0),
            shaft_hz=(45.0, 80.0),
            passing=(11, 17),
            passing_db=0.0,
            side_bands=0.25,
            rotation_db=-2.0,
            flow_hz=((400.0, 900.0), (4000.0, 7000.0)),
            flow_db=0.0,
            flow_modulation=0.2,
            faults=(FaultKind.LOOSENESS, FaultKind.BEARING, FaultKind.SLIPPING),
            cycle=Cycle((1.2, 2.2), ((0.0, 1.0), (0.13, 0.8)), (700.0, 2600.0), -5.0),
        ),
        "fan": Machine(  # blades that pass, and air
            speed=Speed("rpm", (1100.0, 1500.0), 20.0),
            load_word="dmp",
            loads=(0.0, 30.0, 60.0),
            shaft_hz=(18.0, 25.0),
            passing=(5, 9),
            passing_db=6.0,
            side_bands=0.1,
            rotation_db=0.0,
            flow_hz=((80.0, 250.0), (1500.0, 4000.0)),
            flow_db=1.0,
            flow_modulation=0.3,
            faults=(FaultKind.BEARING, FaultKind.IMBALANCE, FaultKind.CLOGGING, FaultKind.LOOSENESS),
        ),
        "gearbox": Machine(  # teeth that mesh, with side bands at the shaft's rate
            speed=Speed("volt", (1.4, 2.2), 0.1),
            load_word="wt",
            loads=(0.0, 50.0, 100.0),
            shaft_hz=(14.0, 24.0),
            passing=(19, 37),
            passing_db=9.0,
            side_bands=0.6,
            rotation_db=2.0,
            flow_hz=((200.0, 500.0), (2500.0, 5000.0)),
            flow_db=-6.0,
            flow_modulation=0.1,
            faults=(FaultKind.BEARING, FaultKind.LOOSENESS, FaultKind.IMBALANCE),
        ),
        "pump": Machine(  # vanes that pass, and liquid that cavitates
            speed=Speed("rpm", (1350.0, 1650.0), 25.0),
            load_word="flow",
            loads=(20.0, 40.0, 60.0),
            shaft_hz=(22.0, 28.0),
            passing=(5, 8),
            passing_db=4.0,
            side_bands=0.2,
            rotation_db=0.0,
            flow_hz=((500.0, 1200.0), (4500.0, 7000.0)),
            flow_db=1.0,
            flow_modulation=0.35,
            faults=(FaultKind.LEAK, FaultKind.CLOGGING, FaultKind.BEARING),
        ),
        "slider": Machine(  # strokes forth and back: a belt drive that follows the velocity, a knock at each end
            speed=Speed("vel", (300.0, 500.0), 20.0),
            load_word="wt",
            loads=(0.0, 5.0, 10.0),
            shaft_hz=(28.0, 45.0),
            passing=(14, 22),
            passing_db=4.0,
            side_bands=0.3,
            rotation_db=0.0,
            flow_hz=((300.0, 800.0), (3500.0, 6500.0)),
            flow_db=1.0,
            flow_modulation=0.2,
            faults=(FaultKind.SLIPPING, FaultKind.BEARING, FaultKind.LOOSENESS),
            cycle=Cycle((0.4, 0.7), ((0.0, 1.0), (0.5, 0.9)), (300.0, 1400.0), -4.0, strokes=True),
        ),
        "valve": Machine(  # opens and shuts: a click, a burst of air, a second click; next to nothing between
            speed=Speed("cyc", (60.0, 90.0), 5.0),
            load_word="bar",
            loads=(2.0, 4.0, 6.0),
            shaft_hz=(49.5, 50.5),  # the hum of the solenoid
            passing=(2, 2),
            passing_db=3.0,
            side_bands=0.0,
            rotation_db=-16.0,
            flow_hz=((1200.0, 2500.0), (5500.0, 7500.0)),
            flow_db=0.0,
            flow_modulation=0.0,
            faults=(FaultKind.LEAK, FaultKind.CLOGGING, FaultKind.LOOSENESS),
            cycle=Cycle((0.9, 1.5), ((0.0, 1.0), (0.3, 0.6)), (900.0, 4500.0), -7.0, open=(0.01, 0.3)),
        ),
    }
)
MACHINE_TYPES: tuple[str, ...] = tuple(MACHINES)

_SPEED_FACTORS = (0.86, 1.0, 1.16)


@dataclass(frozen=True, slots=True)
class OperatingCondition:
    """How a machine runs. ``speed_factor``: of the section's middle speed; ``load``: 0 to 1 of the largest.

    ``attribute`` is the text behind the running number of a training name, as 2021 writes it.
    """

    speed_factor: float
    load: float
    attribute: str


@dataclass(frozen=True, slots=True)
class Section:
    """One machine of its type, as drawn: what its clips have in common.

    ``shaft_db`` and ``passing_db``: levels of the harmonics 1, 2, ... of the shaft and of the passing order, with their
    phases in turns. ``strike_modes``: (Hz, quality factor, gain) of what rings when something strikes.
    """

    machine: Machine
    source: tuple[OperatingCondition, ...]
    target: tuple[OperatingCondition, ...]
    shaft_hz: float
    passing: int
    shaft_db: tuple[float, ...]
    passing_db: tuple[float, ...]
    phases: tuple[float, ...]
    flow_hz: Range
    rotation_db: float
    flow_db: float
    cycle_hz: float
    strike_modes: tuple[tuple[float, float, float], ...]
    level_dbfs: float

    @property
    def bursts(self) -> bool:
        """Whether its flow comes in bursts, and what can rattle rattles after a strike."""
        return self.machine.cycle is not None and self.machine.cycle.open is not None

    def shaft_rate_hz(self, condition: OperatingCondition) -> float:
        """Revolutions a second: the nominal speed, less what the load slows it by (3 % at the largest)."""
        return self.shaft_hz * condition.speed_factor * (1.0 - 0.03 * condition.load)


def find_machine(machine_type: str) -> Machine:
    """The machine type's description, or a `DataError` that names those there are."""
    if machine_type not in MACHINES:
        raise DataError(f"{machine_type!r} cannot be generated; the machine types are {', '.join(MACHINES)}.")
    return MACHINES[machine_type]


@lru_cache(maxsize=256)
def draw_section(machine_type: str, section: str, seed: int) -> Section:
    """The constants of one machine, from the seed and its name."""
    machine = find_machine(machine_type)
    rng = generator(seed, machine_type, section)
    source, target = _conditions(machine, rng)
    passing = int(rng.integers(machine.passing[0], machine.passing[1] + 1))
    cycle = machine.cycle
    low, high = (rng.uniform(*edge) for edge in machine.flow_hz)
    strike_hz = sorted(cycle.strike_hz[0] * (cycle.strike_hz[1] / cycle.strike_hz[0]) ** rng.random(3)) if cycle else ()
    return Section(
        machine=machine,
        source=source,
        target=target,
        shaft_hz=rng.uniform(*machine.shaft_hz),
        passing=passing,
        shaft_db=tuple(-2.5 * np.arange(12) + rng.uniform(-4.0, 4.0, 12)),
        passing_db=tuple(machine.passing_db - 4.0 * np.arange(8) + rng.uniform(-4.0, 4.0, 8)),
        phases=tuple(rng.random(20)),
        flow_hz=(low, high),
        rotation_db=machine.rotation_db + rng.uniform(-2.0, 2.0),
        flow_db=machine.flow_db + rng.uniform(-2.0, 2.0),
        cycle_hz=rng.uniform(*cycle.rate_hz) if cycle else 0.0,
        strike_modes=tuple((hz, rng.uniform(10.0, 25.0), rng.uniform(0.4, 1.0)) for hz in strike_hz),
        level_dbfs=rng.uniform(-38.0, -31.0),
    )


def operating_conditions(
    machine_type: str, section: str, domain: Domain, *, seed: int
) -> tuple[OperatingCondition, ...]:
    """The conditions in which the section was recorded: four in the source domain, one other in the target domain."""
    drawn = draw_section(machine_type, section, seed)
    return drawn.source if domain is Domain.SOURCE else drawn.target


def _conditions(
    machine: Machine, rng: np.random.Generator
) -> tuple[tuple[OperatingCondition, ...], tuple[OperatingCondition, ...]]:
    """Two of three speeds with two of three loads; the third speed at the third load is the target domain."""
    speed = machine.speed
    middle = rng.uniform(*speed.middle)
    speeds, loads = rng.permutation(3), rng.permutation(3)

    def condition(i: int, j: int) -> OperatingCondition:
        value = round(middle * _SPEED_FACTORS[i] / speed.step) * speed.step
        attribute = f"{speed.word}_{value:.6g}{speed.unit}_{machine.load_word}_{machine.loads[j]:g}"
        return OperatingCondition(_SPEED_FACTORS[i], machine.loads[j] / machine.loads[2], attribute)

    source = tuple(condition(i, j) for i in sorted(speeds[:2]) for j in sorted(loads[:2]))
    return source, (condition(speeds[2], loads[2]),)
