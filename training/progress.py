"""One bar for all stages of a run: its unit is the estimated second, so the time left is the run's, not a stage's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from models.vocabulary import SubSystem
from training.parallel import cores
from training.recipe import FoldNetwork, Network

Advance = Callable[[int], None]
"""What a stage calls with the number of units it has done."""

STEP_FLOP_A_CLIP = 6 * 92.6e6
"""A training step's multiplications and additions a clip: forward, and twice that backward."""

SMALL_STEP_S = 0.006
"""A step of a network on statistics, which is the calling of it more than its arithmetic."""

STEP_EFFICIENCY = 0.55
"""Share of the matrix peak that a training step reaches on a CPU."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run: so many units of so many estimated seconds each."""

    name: str
    units: int
    unit_s: float

    @property
    def estimate_s(self) -> float:
        """The stage's estimated duration."""
        return self.units * self.unit_s


class Progress:
    """The bar. Use as a context manager; each stage in turn asks for its `Advance`."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._bar = tqdm(
            total=sum(stage.estimate_s for stage in stages),
            bar_format="{desc:<28} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left",
            smoothing=0.05,
            mininterval=0.5,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def stage(self, name: str) -> Advance:
        """Begin a stage: its name stands before the bar, and its units move it."""
        stage = self._stages[name]
        self._bar.set_description_str(name)
        return lambda units: self._moved(units * stage.unit_s)

    def _moved(self, seconds: float) -> None:
        self._bar.update(min(seconds, self._bar.total - self._bar.n))


def matrix_rate() -> float:
    """This machine's float32 matrix rate in operations a second: one core's best, times the cores, in 0.2 s."""
    matrix = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    best, end = np.inf, time.perf_counter() + 0.2
    with threadpool_limits(limits=1):  # alone on its core it hardly minds what else the machine does
        while best == np.inf or time.perf_counter() < end:  # once at least, however long the machine was busy
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best * cores()


def step_s(network: Network, batch_size: int) -> float:
    """Estimated seconds of a training step on this CPU."""
    if isinstance(network, FoldNetwork) and network.kind is not SubSystem.R:
        return SMALL_STEP_S
    return batch_size * STEP_FLOP_A_CLIP / (STEP_EFFICIENCY * matrix_rate())


def as_duration(seconds: float) -> str:
    """Seconds for a person: '40 s', '17 min', '23 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
