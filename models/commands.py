"""Commands of ours as a person can type them: messages that name one as the remedy should work when they are copied."""

import shlex
import shutil
import sys
from pathlib import Path


def shell_line(words: str) -> str:
    """``python -m`` before ``words``, by the Python that runs this, which has what the command needs.

    By its name where the shell finds just this one, else by its path, from the current folder where it lies below that:
    ``.venv/bin/python -m service serve`` in a checkout after ``make env``, ``python -m service serve`` in a container.
    """
    python, here = Path(sys.executable), _here()
    if shutil.which(python.name) == sys.executable:
        shown = python.name
    elif here is not None and python.is_relative_to(here):
        shown = str(python.relative_to(here))
    else:
        shown = str(python)
    return f"{shlex.quote(shown)} -m {words}"


def _here() -> Path | None:
    """The current folder; None where it is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None
