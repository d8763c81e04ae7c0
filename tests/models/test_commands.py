"""Commands that messages name: they run when they are copied, in whatever environment and folder."""

import ast
import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import models

CHECKOUT = Path(models.__file__).parents[1]


@pytest.mark.parametrize(
    ("python", "path", "folder", "shown"),
    [
        (".venv/bin/python", "", "", ".venv/bin/python -m service serve"),
        (".venv/bin/python", "elsewhere", "", ".venv/bin/python -m service serve"),
        (".venv/bin/python", ".venv/bin", "", "python -m service serve"),
        (".venv/bin/python3", ".venv/bin", "elsewhere", "python3 -m service serve"),
        (".venv/bin/python", "", "elsewhere", "{}/.venv/bin/python -m service serve"),
        ("my env/bin/python", "", "", "'my env/bin/python' -m service serve"),
    ],
)
def test_a_command_is_shown_as_the_shell_would_find_it(
    python: str, path: str, folder: str, shown: str, tmp_path: Path
) -> None:
    """By name in an active environment, else by a path as short as it can be; another Python on the path is no help."""
    for environment in {python.split("/", 1)[0], "elsewhere"}:
        venv.create(tmp_path / environment, symlinks=True)
    (tmp_path / "elsewhere" / "python").symlink_to("bin/python")
    done = subprocess.run(
        [tmp_path / python, "-c", "from models.commands import shell_line; print(shell_line('service serve'))"],
        cwd=tmp_path / folder,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": str(tmp_path / path) if path else os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == shown.format(tmp_path)


def written(file: Path) -> Iterator[str]:
    """The texts of a module that are no docstrings, those in f-strings too."""
    tree = ast.parse(file.read_text())
    docstrings = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docstrings:
            yield one.value


def test_no_message_names_a_python_by_itself() -> None:
    """All take it from `shell_line`."""
    files = [file for storey in ("models", "service", "training") for file in (CHECKOUT / storey).rglob("*.py")]
    assert len(files) > 100
    named = {str(file.relative_to(CHECKOUT)) for file in files if any("python -m" in text for text in written(file))}
    assert not named
