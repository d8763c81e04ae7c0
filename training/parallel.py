"""Work spread over processes: results in order, a bounded number ahead, and no worker outlives the run.

Workers are spawned, not forked, for a fork of a process that has loaded TensorFlow may hang. They import the function's
own module and nothing of the script that started them.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from models.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")

FEW_TASKS = 24
"""So many short tasks are done sooner than a process has started."""

_AHEAD = 4
"""Tasks a worker that are started before their results are asked for."""


def spread(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int | None
) -> Generator[Result, None, None]:
    """``map(function, tasks)`` over ``workers`` processes (None: one a core); in this one where tasks are few.

    Tasks without a length are made as they are needed, and never counted as few.

    Raises
    ------
    DataError : where a worker is killed from outside; what ``function`` raises.
    """
    workers = workers or cores()
    if workers == 1 or (isinstance(tasks, Sized) and len(tasks) <= FEW_TASKS):
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            with _unseen_script():
                pending.append(pool.submit(function, task))
            if len(pending) >= _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process ended before its work was done, perhaps for want of memory. Start the command again, it "
            "goes on from here; --workers 1 needs the least memory."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _unseen_script() -> Iterator[None]:
    """A worker that starts meanwhile does not run the caller's script again, which may lack a guard against that."""
    main = vars(sys.modules["__main__"])
    path = main.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            main["__file__"] = path


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """One thread a worker; Ctrl-C is for the parent to handle; and a killed parent takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(limits=1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
