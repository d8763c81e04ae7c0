"""`--soak`: the same tests at full numbers, for the record (`make soak`)."""

import hypothesis
import pytest

# an example that takes long on a machine with much else to do has found nothing
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--soak", action="store_true", help="run kills and interleavings at full numbers")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether full numbers are asked for."""
    return bool(request.config.getoption("--soak"))
