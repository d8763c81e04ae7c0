"""`--soak`: the same tests at full numbers, for the record (`make soak`).

`alone`: what measures time, or loads all cores, has the machine to itself where pytest runs in several processes.
"""

import fcntl
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

LONGEST = {"test_end_to_end", "test_fit", "test_plant"}

# an example that takes long on a machine with much else to do has found nothing
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# a shell lets what runs in its background ignore Ctrl-C, and so would the programs that are stopped here
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--soak", action="store_true", help="run kills and interleavings at full numbers")


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line("markers", "alone: no test of another process runs meanwhile")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: at the end one process would wait for another."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether full numbers are asked for."""
    return bool(request.config.getoption("--soak"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test with its fixtures beside those of other processes, or beside none; who waits is not overtaken."""
    if not hasattr(item.config, "workerinput"):  # there are no other processes
        return (yield)
    here = Path(__file__)
    with here.open() as gate, (here.parent / "__init__.py").open() as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)
