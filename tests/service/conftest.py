import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle import Bundle, write_bundle
from tests.service.bundles import FAN_0, FAN_1, make_bundle
from tests.service.collectors import Collector
from tests.service.postgres import Postgres, running_postgres
from tests.service.servers import Server


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small real bundle on the disk."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="session")
def bundle_folder(bundle: Bundle) -> Path:
    assert bundle.folder is not None
    return bundle.folder


@pytest.fixture(scope="session")
def bundles(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A folder of bundles: `first`, `second` with other networks, `no-pump`, and those that cannot serve."""
    folder = tmp_path_factory.mktemp("many")
    assert bundle.canary is not None
    assert bundle.folder is not None
    made = {
        "first": write_bundle(folder / "first", bundle),
        "second": make_bundle(folder / "second", seed=7),
        "no-pump": make_bundle(folder / "no-pump", (FAN_0, FAN_1), seed=11),
    }
    write_bundle(folder / "altered", bundle)
    calibration = folder / "altered" / "calibration.npz"
    calibration.write_bytes(calibration.read_bytes()[:-1] + b"!")
    canary = dataclasses.replace(bundle.canary, expected=bundle.canary.expected + 10.0)
    write_bundle(folder / "other-scores", dataclasses.replace(bundle, canary=canary))
    (folder / "empty").mkdir()
    return made


@pytest.fixture(scope="module")
def server(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over the small bundle, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("server")
    with Server(bundle_folder, folder / "data" / "earwitness.db", folder / "log") as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the tests' own."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'targets.db'}"
    return str(request.getfixturevalue("postgres").new_database())


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of traces of the test's own."""
    collector = Collector()
    yield collector
    collector.close()
