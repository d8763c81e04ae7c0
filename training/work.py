"""A run's work folder: one run at a time is in it, and ``run.json`` says whose it is."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from models.errors import DataError
from models.folders import locked
from training.storage import write_atomically


@contextmanager
def alone_in(work: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold a work folder: two runs in it would write each other's files. The kernel lets go when a run is killed.

    Raises
    ------
    DataError : where another process holds it, with ``refusal``.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(work))
        except BlockingIOError as error:
            usual = f"Another run is at work in {work}. Wait for it, or choose another --work folder."
            raise DataError(refusal or usual) from error
        yield


def claim(work: Path, mine: Mapping[str, Any]) -> None:
    """Mark a work folder as that of a run, by all that decides its result.

    Raises
    ------
    DataError : where it is marked as that of another.
    """
    path = work / "run.json"
    if path.exists():
        theirs = json.loads(path.read_text())
        differing = sorted(name for name in mine if theirs.get(name) != mine[name])
        if differing:
            raise DataError(
                f"{work} holds the networks of a run with another {' and another '.join(differing)}. Choose "
                "another --work folder, or delete this one to start anew."
            )
    write_atomically(path, lambda file: file.write(json.dumps(mine, indent=1).encode()))
