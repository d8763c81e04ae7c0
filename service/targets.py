"""Registered target clips, durable.

The clips as they were received are the truth, and one transaction writes each registration, so that a kill at any
moment leaves the old one or the new one in force.

Versions of a section count up from 1 and are never reused. `in_force` points at the one that scores; without a row
there the bundle's own target clips (version 0) do, or none. Embeddings and mixtures are not kept here: they follow
from the clips and the bundle (`service.adaptation`).

``SCHEMA_VERSION`` is SQLite's user_version. A database of another version is refused; one without tables is new.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    UniqueConstraint,
    and_,
    create_engine,
    delete,
    event,
    func,
    inspect,
    select,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from models.vocabulary import Domain, SectionKey
from service.errors import IdempotencyConflict, StoreError, TargetClipsUnusable

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 10.0
"""How long another program's lock on the database is waited for."""
_log = logging.getLogger("service.targets")

_metadata = MetaData()
_SECTION = ("machine_type", "section", "domain")


def _section_columns(*, primary_key: bool = False) -> list[Column[Any]]:
    return [Column(name, String(64), nullable=False, primary_key=primary_key) for name in _SECTION]


_registrations = Table(
    "registrations",
    _metadata,
    Column("id", Integer, primary_key=True),
    *_section_columns(),
    Column("version", Integer, nullable=False),
    Column("registered_at", String(32), nullable=False),
    UniqueConstraint(*_SECTION, "version"),
)
_clips = Table(
    "clips",
    _metadata,
    Column("registration_id", ForeignKey("registrations.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("level_dbfs", Float, nullable=False),
    Column("clipped_share", Float, nullable=False),
    Column("audio", LargeBinary, nullable=False),
)
_in_force = Table(
    "in_force",
    _metadata,
    *_section_columns(primary_key=True),
    Column("registration_id", ForeignKey("registrations.id"), nullable=False),
)
_idempotency_keys = Table(
    "idempotency_keys",
    _metadata,
    Column("key", String(255), primary_key=True),
    Column("request_sha256", String(64), nullable=False),
    Column("registration_id", ForeignKey("registrations.id"), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The facts of one registered clip; ``sha256`` is of the bytes as received."""

    sha256: str
    duration_s: float
    level_dbfs: float
    clipped_share: float


class Standing(StrEnum):
    """What became of a registration."""

    IN_FORCE = "in_force"
    SUPERSEDED = "superseded"
    """Another registration of the section is in force."""
    WITHDRAWN = "withdrawn"
    """No registration of the section is in force."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One version of a section's target clips, as it stood when it was read."""

    id: int
    key: SectionKey
    domain: Domain
    version: int
    registered_at: datetime
    standing: Standing
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key for one registration, and the digest of what it asked for."""

    key: str
    request_sha256: str


class TargetStore:
    """The database of target clips. Every method is one transaction, blocks, and may be called from any thread.

    Every method raises `StoreError` where the database cannot be used: locked for too long, full, damaged, or gone.
    """

    def __init__(self, url: str, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Open the database at ``url`` and create what is missing.

        Raises
        ------
        StoreError : for a database of another version, of another program, or one that cannot be opened.
        """
        self.file = Path(url.removeprefix("sqlite:///"))
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._engine = _engine(url, busy_timeout_s)
            with self._engine.begin() as connection:
                _prepare(connection, self.file)
            self._inode = self.file.stat().st_ino
        except (OSError, SQLAlchemyError) as error:
            raise StoreError(
                f"The database of target clips {self.file} cannot be opened ({_reason(error)}). Make its folder "
                "writable, or choose another file with EARWITNESS_DATABASE."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def register(
        self,
        key: SectionKey,
        clips: Sequence[tuple[Sample, bytes]],
        *,
        idempotency: Idempotency | None = None,
        domain: Domain = Domain.TARGET,
    ) -> Registration:
        """Put ``clips`` in force as the section's next version; the same idempotency key gives the same registration.

        Raises
        ------
        IdempotencyConflict : where the key belongs to another request.
        """
        where = {"machine_type": key.machine_type, "section": key.section, "domain": domain.value}
        with self._writing() as connection:
            if idempotency is not None:
                earlier = _replayed(connection, idempotency)
                if earlier is not None:
                    return earlier
            latest = connection.scalar(select(func.max(_registrations.c.version)).filter_by(**where))
            row = {**where, "version": (latest or 0) + 1, "registered_at": datetime.now(UTC).isoformat()}
            number = connection.execute(_registrations.insert().values(row)).inserted_primary_key[0]  # type: ignore[index]
            connection.execute(_clips.insert(), [_clip_row(number, at, *clip) for at, clip in enumerate(clips, 1)])
            pointer = insert(_in_force).values(**where, registration_id=number)
            connection.execute(pointer.on_conflict_do_update(_SECTION, set_={"registration_id": number}))
            if idempotency is not None:
                connection.execute(
                    _idempotency_keys.insert().values(
                        key=idempotency.key, request_sha256=idempotency.request_sha256, registration_id=number
                    )
                )
            return _registration(connection, number)

    def replayed(self, idempotency: Idempotency) -> Registration | None:
        """The registration that this very request has made before.

        Raises
        ------
        IdempotencyConflict : where the key belongs to another request.
        """
        with self._reading() as connection:
            return _replayed(connection, idempotency)

    def in_force(self, key: SectionKey, domain: Domain = Domain.TARGET) -> Registration | None:
        """The registration that scores this section, if there is one."""
        where = {"machine_type": key.machine_type, "section": key.section, "domain": domain.value}
        with self._reading() as connection:
            number = connection.scalar(select(_in_force.c.registration_id).filter_by(**where))
            return None if number is None else _registration(connection, number)

    def all_in_force(self) -> list[Registration]:
        """Every registration in force, in the order of machine types and sections."""
        with self._reading() as connection:
            return _registrations_of(connection, select(_in_force.c.registration_id))

    def audio(self, registration: Registration) -> list[bytes]:
        """The clips of a registration as they were received.

        Raises
        ------
        TargetClipsUnusable : where a clip is not the one that was registered.
        """
        with self._reading() as connection:
            query = select(_clips.c.sha256, _clips.c.audio).filter_by(registration_id=registration.id)
            rows = connection.execute(query.order_by(_clips.c.position)).all()
        for position, (sha256, audio) in enumerate(rows, 1):
            if hashlib.sha256(audio).hexdigest() != sha256:
                raise TargetClipsUnusable(
                    f"{self.file}: target clip {position} of {registration.key.machine_type} "
                    f"{registration.key.section}, version {registration.version}, is damaged. Register the clips again."
                )
        return [audio for _, audio in rows]

    def withdraw(self, key: SectionKey, domain: Domain = Domain.TARGET) -> bool:
        """Take the section's registration out of force; False where there was none."""
        where = {"machine_type": key.machine_type, "section": key.section, "domain": domain.value}
        with self._writing() as connection:
            return connection.execute(delete(_in_force).filter_by(**where)).rowcount > 0

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._usable(), self._engine.connect().execution_options(reading=True) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._usable(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Refuse a file that was deleted or replaced: what open connections still wrote there would be lost."""
        try:
            if self.file.stat().st_ino != self._inode:
                raise StoreError(f"The database of target clips {self.file} was replaced. Restart the service.")
            yield
        except (OSError, SQLAlchemyError) as error:
            raise StoreError(
                f"The database of target clips {self.file} cannot be used ({_reason(error)}). Make it readable and "
                "writable for the service alone, with space on its disk; where it was deleted, restart the service."
            ) from error


def _reason(error: OSError | SQLAlchemyError) -> object:
    return getattr(error, "orig", None) or error


def _engine(url: str, busy_timeout_s: float) -> Engine:
    """An engine with SQLite's own transactions: writers queue at BEGIN, a commit is on the disk when it returns."""
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver would begin late and leave reads outside the transaction
        busy_timeout = f"busy_timeout={round(1000.0 * busy_timeout_s)}"
        for pragma in (busy_timeout, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _prepare(connection: Connection, file: Path) -> None:
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version == SCHEMA_VERSION:
        return
    if version or inspect(connection).get_table_names():
        raise StoreError(
            f"{file} has schema version {version}; this service reads version {SCHEMA_VERSION}. Choose another file "
            "with EARWITNESS_DATABASE, or run the version of Earwitness that wrote it."
        )
    _metadata.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
    _log.info("created the database of target clips %s", file)


def _clip_row(number: int, position: int, sample: Sample, audio: bytes) -> dict[str, Any]:
    return {
        "registration_id": number,
        "position": position,
        "sha256": sample.sha256,
        "duration_s": sample.duration_s,
        "level_dbfs": sample.level_dbfs,
        "clipped_share": sample.clipped_share,
        "audio": audio,
    }


def _replayed(connection: Connection, idempotency: Idempotency) -> Registration | None:
    row = connection.execute(select(_idempotency_keys).filter_by(key=idempotency.key)).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != idempotency.request_sha256:
        raise IdempotencyConflict(
            f"The Idempotency-Key {idempotency.key!r} belongs to an earlier registration of other clips or another "
            "section. Send a new key with a new request."
        )
    return _registration(connection, row.registration_id)


def _registration(connection: Connection, number: int) -> Registration:
    (registration,) = _registrations_of(connection, [number])
    return registration


def _registrations_of(connection: Connection, numbers: Select[tuple[int]] | list[int]) -> list[Registration]:
    """The registrations of these ids, in the order of machine types and sections, by two statements however many."""
    same_section = and_(*(_in_force.c[name] == _registrations.c[name] for name in _SECTION))
    heads = (
        select(_registrations, _in_force.c.registration_id.label("current"))
        .outerjoin(_in_force, same_section)
        .where(_registrations.c.id.in_(numbers))
        .order_by(*(_registrations.c[name] for name in _SECTION))
    )
    facts = (_clips.c.sha256, _clips.c.duration_s, _clips.c.level_dbfs, _clips.c.clipped_share)
    clips = (
        select(_clips.c.registration_id, *facts)
        .where(_clips.c.registration_id.in_(numbers))
        .order_by(_clips.c.registration_id, _clips.c.position)
    )
    samples: defaultdict[int, list[Sample]] = defaultdict(list)
    for number, *sample in connection.execute(clips):
        samples[number].append(Sample(*sample))
    return [
        Registration(
            id=head.id,
            key=SectionKey(head.machine_type, head.section),
            domain=Domain(head.domain),
            version=head.version,
            registered_at=datetime.fromisoformat(head.registered_at),
            standing={head.id: Standing.IN_FORCE, None: Standing.WITHDRAWN}.get(head.current, Standing.SUPERSEDED),
            samples=tuple(samples[head.id]),
        )
        for head in connection.execute(heads)
    ]
