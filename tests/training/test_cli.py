"""The command line's errors: a sentence and exit status 2, whatever goes wrong at the edge."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def training(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`python -m training`."""
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("path\n", "names no recordings"),
        ("path,colour\na.wav,red\n", "colour"),
        ("path,machine_type\nmissing.wav,fan\n", "missing.wav"),
    ],
)
def test_unusable_data_is_said_in_a_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    """A missing manifest, an empty one, a strange column, a missing file."""
    manifest = tmp_path / "recordings.csv"
    if content is not None:
        manifest.write_text(content)
    result = training("train", manifest, "--work", tmp_path / "work", "--bundle", tmp_path / "bundle", "--dry-run")
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "work").exists()


def test_a_backend_that_keras_does_not_know_is_said_in_a_sentence(tmp_path: Path) -> None:
    """KERAS_BACKEND misspelt."""
    arguments = (tmp_path, "--work", tmp_path / "work", "--bundle", tmp_path / "bundle")
    result = training("train", *arguments, KERAS_BACKEND="tensorflaw")
    assert result.returncode == 2
    assert "tensorflaw" in result.stderr
    assert "Traceback" not in result.stderr
