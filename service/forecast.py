"""Whether a request that comes now can be answered in time, judged by how long those before it took.

Work is counted in ten-second windows. Each answer tells how many seconds it took for each window that was in hand when
its request came, its own included. The running mean of that, times the windows in hand, is what a new one would take:
it follows the bundle, the device, the batches and whatever else the machine does, and knows nothing of them.

What is in hand counts twice. A batch is done for all of its clips at once, so that some wait for those behind them, and
what was taken on must still be in time where the machine slows to half. Under lasting load a longer queue would not
score more; of a single burst a part is refused that would have been in time. Whoever finds nothing in hand is taken on
whatever the mean says: the service is not what makes them late, and a mean that is too long mends itself so.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.errors import QueueFull

_GAIN: Final = 1.0 / 8.0
"""Of each answer in the mean."""
_CAUTION: Final = 2
"""How often what is in hand counts."""

Grow = Callable[[int], None]


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class Forecast:
    """The windows in hand for one bundle and the seconds that each takes; used from one event loop.

    ``now`` is the clock of deadlines.
    """

    def __init__(self, now: Callable[[], float] = _loop_time) -> None:
        self._now = now
        self._windows = 0
        self._seconds_a_window: float | None = None

    def learn(self, seconds: float, windows: int) -> None:
        """Something was done in ``seconds`` with so many windows in hand when it began, its own included."""
        seconds_a_window = seconds / windows
        if self._seconds_a_window is None:
            self._seconds_a_window = seconds_a_window
        self._seconds_a_window += _GAIN * (seconds_a_window - self._seconds_a_window)

    def check(self, deadline: float, windows: int = 1) -> None:
        """Raise `QueueFull` where so many windows more cannot be done by ``deadline``."""
        if self._seconds_a_window is None or not self._windows:
            return
        needed_s = self._seconds_a_window * (_CAUTION * self._windows + windows)
        left_s = deadline - self._now()
        if needed_s > left_s:
            raise QueueFull(
                f"{self._windows} windows of ten seconds are in hand; with them this one may take {needed_s:.1f} s, "
                f"and its time is up in {max(0.0, left_s):.1f} s. Send it again in a moment, or allow more with "
                "X-Request-Timeout-Ms.",
                math.ceil((needed_s - left_s) / _CAUTION),
            )

    @contextmanager
    def work(self, deadline: float, windows: int = 1) -> Iterator[Grow]:
        """Have so many windows in hand; what this gives is told how many they are once that is known.

        Raises
        ------
        QueueFull : where they cannot be done by ``deadline``, then as now.
        """
        self.check(deadline, windows)
        begun, before, own = self._now(), self._windows, windows
        self._windows += own

        def grow(windows: int) -> None:
            nonlocal own
            self._windows -= own
            try:
                if windows > own:
                    self.check(deadline, windows)
                own = windows
            finally:
                self._windows += own

        try:
            yield grow
        except BaseException:
            if self._now() >= deadline:  # it would have taken longer still
                self._learn_at_least(self._now() - begun, before + own)
            raise
        else:
            self.learn(self._now() - begun, before + own)
        finally:
            self._windows -= own

    def _learn_at_least(self, seconds: float, windows: int) -> None:
        if self._seconds_a_window is None or seconds / windows > self._seconds_a_window:
            self.learn(seconds, windows)
