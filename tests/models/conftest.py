"""The tiny bundle of `tests.models.tiny`, in memory, on disk, and open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle import Bundle, write_bundle
from models.detector import Detector
from models.encoder import Device
from tests.models.tiny import build_bundle, with_canary


@pytest.fixture(scope="session")
def tiny_bundle() -> Bundle:
    """In memory, with its canary."""
    return with_canary(build_bundle())


@pytest.fixture(scope="session")
def bundle_folder(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On disk; a test that alters it takes a copy."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_bundle(folder, tiny_bundle)
    return folder


@pytest.fixture(scope="session")
def detector(bundle_folder: Path) -> Iterator[Detector]:
    """Read from disk, open on the CPU."""
    detector = Detector.load(bundle_folder, device=Device.CPU, threads=2)
    yield detector
    detector.close()
