"""The end of the process, which comes within a bound also where a thread hangs.

Python joins its threads when it exits, and asyncio those of its executor before. A thread that waits for a frozen
database or a disk that does not answer would so keep a service that was told to stop up, until it is killed: with
nothing in its log of why, and traces that are never sent. No thread can be ended from outside; so the process ends.
"""

import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

FAILED = 2
"""The exit status of what could not be done; Python's own, 1, would say of `score` that a clip is anomalous."""
INTERRUPTED = 130
"""The exit status after Ctrl+C, as shells have it."""
AFTER_DRAIN_S = 6.0
"""How long everything else may take once nothing is in hand: answers on their way, traces, threads that finish."""
_LAST_WORDS_S = 2.0
"""How long the log and the traces may take to be written; whoever reads them may be what hangs."""
_LOOK_S = 0.1
_OURS = ("service", "models")

_log = logging.getLogger("service")


class Ending:
    """The bound of one process. ``flush`` sends what would be lost; ``status`` is what the process exits with."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._due = math.inf
        self._watching = False
        self.status = 0

    def within(self, seconds: float) -> None:
        """End the process in ``seconds`` from now if it has not ended by itself; may be called in a signal handler.

        A further call can only bring the end nearer.
        """
        self._due = min(self._due, time.monotonic() + seconds)
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._watch, name="ending", daemon=True).start()

    def _watch(self) -> None:
        while time.monotonic() < self._due:
            time.sleep(_LOOK_S)
        saying = threading.Thread(target=self._say, name="last words", daemon=True)
        saying.start()
        saying.join(_LAST_WORDS_S)
        os._exit(self.status)

    def _say(self) -> None:
        for thread, frame in hanging():
            _log.critical("the thread %s hangs in %s: the process ends without it", thread.name, _place(frame))
        self._flush()
        logging.shutdown()


def hanging() -> list[tuple[threading.Thread, FrameType]]:
    """The threads that keep the process up, with what each of them runs; the main one where there is no other."""
    frames = sys._current_frames()
    awaited = [
        (thread, frames[thread.ident])
        for thread in threading.enumerate()
        if not thread.daemon and thread.ident in frames and not _waits(frames[thread.ident])
    ]
    others = [one for one in awaited if one[0] is not threading.main_thread()]
    return others or awaited


def _waits(frame: FrameType) -> bool:
    """Whether it is an executor's worker without work, or waits for another thread: neither is what hangs."""
    file, function = frame.f_code.co_filename, frame.f_code.co_name
    return (file.endswith("concurrent/futures/thread.py") and function == "_worker") or (
        file.endswith("threading.py") and function in {"_wait_for_tstate_lock", "join"}
    )


def _place(frame: FrameType) -> str:
    """Where a thread is, and where in our own code it came from."""
    calls = traceback.extract_stack(frame)
    ours = [call for call in calls[:-1] if Path(call.filename).parent.name in _OURS]
    return ", called by ".join(
        f"{call.name} ({'/'.join(Path(call.filename).parts[-2:])}:{call.lineno})" for call in (calls[-1], *ours[-1:])
    )
