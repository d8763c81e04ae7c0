"""Programs of the machine that check files: their tests are skipped where they are missing, but not in CI."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def installed(program: str, package: str) -> str:
    """A program that a Debian package brings."""
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI has no {program}: install it (Debian: apt-get install {package})")
        pytest.skip(f"no {program} on this machine (Debian: apt-get install {package})")
    return program


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """Run a checker; what it says is the failure."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
