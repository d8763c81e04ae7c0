"""What a clip costs, by ways that take turns: a machine that does something else meanwhile slows all of them alike."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from training.progress import Advance

ROUNDS = 15


def interleaved_ms(
    ways: Sequence[Callable[[], object]], advance: Advance = lambda _: None, rounds: int = ROUNDS
) -> list[float]:
    """Median milliseconds of a call of each way, after one that is not counted.

    Parameters
    ----------
    advance : called once a round, and once for the calls that are not counted.
    """
    for way in ways:
        way()
    advance(1)
    took_s = np.empty((rounds, len(ways)))
    for row in took_s:
        for place, way in enumerate(ways):
            begun = time.perf_counter()
            way()
            row[place] = time.perf_counter() - begun
        advance(1)
    return [1000.0 * float(median) for median in np.median(took_s, axis=0)]
