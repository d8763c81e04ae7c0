"""The databases that can keep target clips, SQLite and PostgreSQL: opening one, its transactions, its schema.

What the two do differently stands here and in `service.postgresql`. A reading transaction sees one moment of the
database, whatever is written meanwhile; a commit is on the disk when it returns. There is one writer at a time: on
SQLite by ``BEGIN IMMEDIATE``, on PostgreSQL by the row that `service.targets` has every writer change first.

The schema's history is in `service.migrations`. A database whose stored revision is `REVISION` is used as it is;
one of an older release is brought up to date, in one transaction; any other is left alone and refused.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from models.commands import shell_line
from service.errors import StoreError

SQLITE: Final = "sqlite:///"
POSTGRESQL: Final = "postgresql+psycopg://"
REVISION: Final = "3"
"""The newest of `service.migrations`."""
PATIENCE_S: Final = 10.0
"""How long another's lock on the database is waited for."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_OLDER = ("1", "2")
_UNVERSIONED = frozenset({"registrations", "clips", "in_force", "idempotency_keys"})
"""The tables of an SQLite file with user_version 1, which the first release wrote without a revision."""
_LOCK = 0x6561_7277
"""Of PostgreSQL's advisory locks: several instances that start at once must not all create the tables."""
_log = logging.getLogger("service.databases")


class Database:
    """One database, by its URL (``sqlite:///`` and an absolute path, or ``postgresql+psycopg://``).

    Its transactions raise `StoreError` where it cannot be used: locked for too long, full, damaged, or gone. They may
    be used from any thread.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        """Open the database and bring its schema up to date.

        Raises
        ------
        StoreError : for a database of a later release, of another program, or one that cannot be opened.
        """
        self.file = Path(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None
        self.name = shown(url)
        self._inode = 0
        try:
            if self.file is None:
                from service.postgresql import open_postgresql  # noqa: PLC0415  psycopg need not be installed

                self.engine = open_postgresql(url, patience_s)
            else:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self.engine = _sqlite(url, patience_s)
            try:
                with self.engine.begin() as connection:
                    _bring_up_to_date(connection, self.name)
            except BaseException:
                self.engine.dispose()
                raise
            if self.file is not None:
                self._inode = self.file.stat().st_ino
        except ImportError as error:
            install = shell_line("pip install 'earwitness[postgres]'")
            raise StoreError(
                f"The database of target clips {self.name} needs psycopg, which is not installed. Install it with "
                f"{install}, or keep target clips in a file."
            ) from error
        except (OSError, SQLAlchemyError) as error:
            remedy = (
                "Make its folder writable, with space on its disk"
                if self.file
                else "See that the server runs and lets this user in"
            )
            raise StoreError(
                f"The database of target clips {self.name} cannot be opened ({_reason(error)}). {remedy}, or choose "
                "another with EARWITNESS_DATABASE."
            ) from error

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment."""
        with self._usable(), self.engine.connect().execution_options(reading=True) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at its end, unless an exception ends it.

        A `StoreError` leaves in doubt whether it was committed where the server was lost in the middle of that.
        """
        committing = False
        try:
            with self._usable(), self.engine.begin() as connection:
                yield connection
                committing = True
        except StoreError as error:
            if committing and getattr(error.__cause__, "connection_invalidated", False):
                raise StoreError(
                    f"{error} What was asked for may have been done: ask, or repeat it with the same Idempotency-Key.",
                    in_doubt=True,
                ) from error
            raise

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Refuse a file that was deleted or replaced: what open connections still wrote there would be lost."""
        try:
            if self.file is not None and self.file.stat().st_ino != self._inode:
                raise StoreError(f"The database of target clips {self.file} was replaced. Restart the service.")
            yield
        except (OSError, SQLAlchemyError) as error:
            remedy = (
                "Make it readable and writable for the service alone, with space on its disk; where it was deleted, "
                "restart the service."
                if self.file
                else "The service asks again by itself; see that the server runs, lets this user in and has space."
            )
            raise StoreError(
                f"The database of target clips {self.name} cannot be used ({_reason(error)}). {remedy}"
            ) from error


def exists(url: str) -> bool:
    """Whether a database may hold something: a server, or a file that is there."""
    return not url.startswith(SQLITE) or Path(url.removeprefix(SQLITE)).exists()


def shown(url: str) -> str:
    """A database's name for people: the file, or the URL without its password."""
    if url.startswith(SQLITE):
        return url.removeprefix(SQLITE)
    return make_url(url).difference_update_query(["password"]).render_as_string(hide_password=True)


def _reason(error: OSError | SQLAlchemyError) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())  # libpq's take several lines


def _sqlite(url: str, patience_s: float) -> Engine:
    """An engine with SQLite's own transactions: writers queue at BEGIN."""
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver would begin late and leave reads outside the transaction
        busy_timeout = f"busy_timeout={round(1000.0 * patience_s)}"
        for pragma in (busy_timeout, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _bring_up_to_date(connection: Connection, name: str) -> None:
    """Create the tables, or carry those of an older release on; nobody else is at it meanwhile."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    stored = _stored_revision(connection, name)
    if stored == REVISION:
        return
    from alembic import command  # noqa: PLC0415  a start with nothing to migrate does not pay for it
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    if stored is not None:
        command.stamp(config, stored)
    command.upgrade(config, REVISION)
    if stored is None:
        _log.info("created the tables of target clips in %s", name)
    else:
        _log.info("brought the database of target clips %s from revision %s to %s", name, stored, REVISION)


def _stored_revision(connection: Connection, name: str) -> str | None:
    """The revision of the tables; None for an empty database. Raises `StoreError` for tables that are not ours."""
    tables = frozenset(inspect(connection).get_table_names())
    marked = connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    found: str | None = None
    if "alembic_version" in tables:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    elif not tables and not marked:
        return None
    elif tables == _UNVERSIONED and marked == 1:
        found = "1"
    if found not in (*_OLDER, REVISION):
        raise StoreError(
            f"{name} is at revision {found or 'unknown'}; this service knows those up to {REVISION}. Choose another "
            "database with EARWITNESS_DATABASE, or run the version of Earwitness that wrote it."
        )
    return found
