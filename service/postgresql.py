"""PostgreSQL's connections, which give up on a server that has fallen silent.

A server whose machine is gone is noticed by TCP. One that is frozen, or whose disk is, is not: its kernel goes on
acknowledging, and libpq waits for ever. So every wait for it ends here when nothing has come for too long; the
connection is closed then, for what it would answer next belongs to another question. Only with this module is psycopg
imported.
"""

import time
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import ConnectionPoolEntry

ANSWERS_S: Final = 5.0
"""How long a server may be silent that has nothing to wait for itself."""
WRITES_S: Final = 10.0
"""How much longer than for another's lock where it writes, and waits for its disk."""
_READS_S: Final = 60.0
"""How long the server itself goes on with what nobody may be waiting for any more."""
_TIMES_OUT: dict[str, str | int] = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "application_name": "earwitness",
}
"""libpq's parameters: a server whose machine is gone is noticed within seconds. Those of the URL go first."""
_ON_THE_DISK = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
"""What is acknowledged must not be lost; one that waits for more, or for other disks, is the server's own choice."""

Result = TypeVar("Result")


class ImpatientConnection(psycopg.Connection[Any]):
    """Waits for each answer until nothing has come or gone for ``patience_s``."""

    patience_s = ANSWERS_S

    def wait(self, gen: PQGen[Result], *arguments: Any, **options: Any) -> Result:
        """Wait for what ``gen`` waits for; raises `psycopg.OperationalError` where the server is silent."""
        try:
            return super().wait(_impatient(gen, self.patience_s), *arguments, **options)
        except _Silent:
            self.close()
            raise


class _Silent(psycopg.OperationalError):
    """Nothing has come for too long."""


def _impatient(gen: PQGen[Result], patience_s: float) -> PQGen[Result]:
    """``gen``, until neither a byte has come nor one could be sent for ``patience_s``."""
    try:
        wanted, heard = next(gen), time.monotonic()
        while True:
            ready = yield wanted
            now = time.monotonic()
            if ready:
                heard = now
            elif now - heard > patience_s:
                raise _Silent(f"the server has not answered for {patience_s:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: Result = end.value
        return result


def open_postgresql(url: str, patience_s: float) -> Engine:
    """An engine whose writers give up where another keeps them waiting, and do not keep others waiting when cut off."""
    defaults = {name: value for name, value in _TIMES_OUT.items() if name not in make_url(url).query}
    engine = create_engine(url, connect_args=defaults, pool_pre_ping=True)
    writing_s = patience_s + WRITES_S
    reading = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
        f"SET LOCAL statement_timeout = {_milliseconds(_READS_S)}"
    )
    writing = (
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; "
        f"SET LOCAL lock_timeout = {_milliseconds(patience_s)}; "
        f"SET LOCAL statement_timeout = {_milliseconds(writing_s)}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(3.0 * patience_s)}; {_ON_THE_DISK}"
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _entry: ConnectionPoolEntry, arguments: Any, options: Any) -> ImpatientConnection:
        return ImpatientConnection.connect(*arguments, **options)

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql(reading if reads else writing)
        driver: Any = connection.connection.dbapi_connection
        driver.patience_s = ANSWERS_S + (0.0 if reads else writing_s)  # the server's own limits come first

    @event.listens_for(engine, "checkin")
    def _given_back(connection: ImpatientConnection | None, _entry: ConnectionPoolEntry) -> None:
        if connection is not None:
            connection.patience_s = ANSWERS_S

    return engine


def _milliseconds(seconds: float) -> int:
    return round(1000.0 * seconds)
