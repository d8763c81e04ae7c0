"""Registered target clips, durable.

The clips as they were received are the truth, and one transaction writes each registration, so that a kill at any
moment leaves the old one or the new one in force.

Versions of a section count up from 1 and are never reused; after the import of a backup they leave a gap, by which no
version of a database that was lost is given again (`service.transfers`). `in_force` points at the one that scores;
without a row there the bundle's own target clips (version 0) do, or none. Embeddings and mixtures are not kept here:
they follow from the clips and the bundle (`service.adaptation`).

Every change has a number, greater than that of the change before; a `State` says what was in force after which change.
The number is the time, in microseconds, unless a clock went back: so a backup that is put in the database's place never
comes to a number that it has had before, by which instances would take it for what they know.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Select, and_, case, delete, func, insert, literal, select, update

from models.vocabulary import Domain, SectionKey
from service.databases import PATIENCE_S, Database
from service.errors import IdempotencyConflict, StoreError, TargetClipsUnusable, UnknownTargetVersion
from service.retention import RETENTION, Retention
from service.tables import SECTION, changes, clips, idempotency_keys, in_force, registrations

_FACTS = (clips.c.sha256, clips.c.duration_s, clips.c.level_dbfs, clips.c.clipped_share)


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
    """One version of a section's target clips, as it stood when it was read.

    ``restored_from``: the earlier version whose clips it took over, if it did. ``replayed``: a repeated request was
    answered with it, and has not made it.
    """

    id: int
    key: SectionKey
    domain: Domain
    version: int
    registered_at: datetime
    restored_from: int | None
    standing: Standing
    samples: tuple[Sample, ...]
    replayed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class State:
    """Every registration in force after the change of this number, in the order of machine types and sections."""

    changes: int
    in_force: tuple[Registration, ...]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key for one registration, and the digest of what it asked for."""

    key: str
    request_sha256: str


class TargetStore:
    """The database of target clips. Every method is one transaction, blocks, and may be called from any thread.

    Every method raises `StoreError` where the database cannot be used. What changes something returns the state after
    it too, read in the same transaction.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S, retention: Retention = RETENTION) -> None:
        """Open the database at ``url``; raises `StoreError` as `Database` does."""
        self._database = Database(url, patience_s)
        self._retention = retention
        self.name = self._database.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def register(
        self,
        key: SectionKey,
        received: Sequence[tuple[Sample, bytes]],
        *,
        idempotency: Idempotency | None = None,
        after: int = 0,
        domain: Domain = Domain.TARGET,
    ) -> tuple[Registration, State]:
        """Put clips in force as the section's next version; the same idempotency key gives the same registration.

        ``after``: a version that the section is known to have had, should the database have lost it.

        Raises
        ------
        IdempotencyConflict : where the key belongs to another request.
        """
        with self._changing() as (connection, change):
            self._retention.forget_keys(connection)
            number = replayed = _replayed(connection, idempotency)
            if number is None:
                number = _next_version(connection, key, domain, idempotency, after)
                rows = [_clip_row(number, at, *clip) for at, clip in enumerate(received, 1)]
                connection.execute(insert(clips), rows)
                self._retention.forget_versions(connection, _place(key, domain))
            registration = replace(_registration(connection, number), replayed=replayed is not None)
            return registration, State(change, _all_in_force(connection))

    def restore(
        self,
        key: SectionKey,
        version: int,
        *,
        idempotency: Idempotency | None = None,
        after: int = 0,
        domain: Domain = Domain.TARGET,
    ) -> tuple[Registration, State]:
        """Put the clips of an earlier version in force again, as the section's next version; ``after`` as above.

        Raises
        ------
        UnknownTargetVersion : where the section has no such version.
        IdempotencyConflict : where the key belongs to another request.
        """
        with self._changing() as (connection, change):
            self._retention.forget_keys(connection)
            number = replayed = _replayed(connection, idempotency)
            if number is None:
                earlier = _version(connection, key, version, domain)
                number = _next_version(connection, key, domain, idempotency, after, restored_from=version)
                names = [column.name for column in clips.c]
                copied = [literal(number), *(clips.c[name] for name in names[1:])]
                taken = select(*copied).where(clips.c.registration_id == earlier)
                connection.execute(insert(clips).from_select(names, taken))
                self._retention.forget_versions(connection, _place(key, domain))
            registration = replace(_registration(connection, number), replayed=replayed is not None)
            return registration, State(change, _all_in_force(connection))

    def withdraw(self, key: SectionKey, domain: Domain = Domain.TARGET) -> tuple[bool, State]:
        """Take the section's registration out of force; False where there was none."""
        with self._changing() as (connection, change):
            withdrawn = connection.execute(delete(in_force).filter_by(**_place(key, domain))).rowcount > 0
            return withdrawn, State(change, _all_in_force(connection))

    def replayed(self, idempotency: Idempotency) -> Registration | None:
        """The registration that this very request has made before.

        Raises
        ------
        IdempotencyConflict : where the key belongs to another request.
        """
        with self._database.reading() as connection:
            number = _replayed(connection, idempotency, self._retention.keys_since())
            return None if number is None else replace(_registration(connection, number), replayed=True)

    def state(self, unless: int | None = None) -> State | None:
        """What is in force; None where the last change is still number ``unless``."""
        with self._database.reading() as connection:
            change = connection.scalars(select(changes.c.number)).one()
            return None if change == unless else State(change, _all_in_force(connection))

    def versions(self, key: SectionKey, domain: Domain = Domain.TARGET) -> list[Registration]:
        """Every registration that the section has had, the newest first."""
        with self._database.reading() as connection:
            numbers = select(registrations.c.id).filter_by(**_place(key, domain))
            return sorted(_registrations_of(connection, numbers), key=lambda one: -one.version)

    def version(self, key: SectionKey, version: int, domain: Domain = Domain.TARGET) -> Registration:
        """One of them.

        Raises
        ------
        UnknownTargetVersion : where the section has no such version.
        """
        with self._database.reading() as connection:
            return _registration(connection, _version(connection, key, version, domain))

    def audio(self, registration: Registration) -> list[bytes]:
        """The clips of a registration as they were received.

        Raises
        ------
        TargetClipsUnusable : where a clip is not the one that was registered.
        StoreError : where later versions have taken its place meanwhile, too.
        """
        with self._database.reading() as connection:
            query = select(clips.c.sha256, clips.c.audio).filter_by(registration_id=registration.id)
            rows = connection.execute(query.order_by(clips.c.position)).all()
        if len(rows) < len(registration.samples):
            raise StoreError(
                f"{self.name}: version {registration.version} of {registration.key.machine_type} "
                f"{registration.key.section} is no longer kept; later ones have taken its place. Ask again in a moment."
            )
        for position, (sha256, audio) in enumerate(rows, 1):
            if hashlib.sha256(audio).hexdigest() != sha256:
                raise TargetClipsUnusable(
                    f"{self.name}: target clip {position} of {registration.key.machine_type} "
                    f"{registration.key.section}, version {registration.version}, is damaged. Register the clips again."
                )
        return [audio for _, audio in rows]

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, int]]:
        """A transaction of the only writer, and the number of its change."""
        with self._database.writing() as connection:
            yield connection, count_change(connection)


def count_change(connection: Connection) -> int:
    """The number of a change that begins here: until it is committed, no other does."""
    now = time.time_ns() // 1000
    number = case((changes.c.number < now, now), else_=changes.c.number + 1)
    counted: int = connection.scalars(update(changes).values(number=number).returning(changes.c.number)).one()
    return counted


def _place(key: SectionKey, domain: Domain) -> dict[str, str]:
    return {"machine_type": key.machine_type, "section": key.section, "domain": domain.value}


def _next_version(
    connection: Connection,
    key: SectionKey,
    domain: Domain,
    idempotency: Idempotency | None,
    after: int,
    restored_from: int | None = None,
) -> int:
    """The id of a new registration, in force and without clips yet."""
    where = _place(key, domain)
    latest = connection.scalar(select(func.max(registrations.c.version)).filter_by(**where)) or 0
    floor = connection.scalars(select(changes.c.version_floor)).one()
    row = {
        **where,
        "version": max(latest, floor, after) + 1,
        "registered_at": datetime.now(UTC).isoformat(),
        "restored_from": restored_from,
    }
    number: int = connection.execute(insert(registrations).values(row).returning(registrations.c.id)).scalar_one()
    connection.execute(delete(in_force).filter_by(**where))
    connection.execute(insert(in_force).values(**where, registration_id=number))
    if idempotency is not None:
        connection.execute(
            insert(idempotency_keys).values(
                key=idempotency.key, request_sha256=idempotency.request_sha256, registration_id=number
            )
        )
    return number


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


def _replayed(connection: Connection, idempotency: Idempotency | None, since: str = "") -> int | None:
    """The id of the registration that a request under this key has made ``since``."""
    if idempotency is None:
        return None
    known = select(idempotency_keys).join(registrations).where(registrations.c.registered_at >= since)
    row = connection.execute(known.where(idempotency_keys.c.key == idempotency.key)).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != idempotency.request_sha256:
        raise IdempotencyConflict(
            f"The Idempotency-Key {idempotency.key!r} belongs to an earlier registration of other clips or another "
            "section. Send a new key with a new request."
        )
    number: int = row.registration_id
    return number


def _version(connection: Connection, key: SectionKey, version: int, domain: Domain) -> int:
    """The id of one version."""
    where = _place(key, domain)
    query = select(registrations.c.version, registrations.c.id).filter_by(**where)
    known: dict[int, int] = {row.version: row.id for row in connection.execute(query)}
    if version not in known:
        raise UnknownTargetVersion(key.machine_type, key.section, version, sorted(known))
    return known[version]


def _all_in_force(connection: Connection) -> tuple[Registration, ...]:
    return tuple(_registrations_of(connection, select(in_force.c.registration_id)))


def _registration(connection: Connection, number: int) -> Registration:
    (registration,) = _registrations_of(connection, [number])
    return registration


def _registrations_of(connection: Connection, numbers: Select[tuple[int]] | list[int]) -> list[Registration]:
    """The registrations of these ids, in the order of machine types and sections, by two statements however many."""
    same_section = and_(*(in_force.c[name] == registrations.c[name] for name in SECTION))
    heads = (
        select(registrations, in_force.c.registration_id.label("current"))
        .outerjoin(in_force, same_section)
        .where(registrations.c.id.in_(numbers))
    )
    facts = (
        select(clips.c.registration_id, *_FACTS)
        .where(clips.c.registration_id.in_(numbers))
        .order_by(clips.c.registration_id, clips.c.position)
    )
    samples: defaultdict[int, list[Sample]] = defaultdict(list)
    for number, *sample in connection.execute(facts):
        samples[number].append(Sample(*sample))
    found = [
        Registration(
            id=head.id,
            key=SectionKey(head.machine_type, head.section),
            domain=Domain(head.domain),
            version=head.version,
            registered_at=datetime.fromisoformat(head.registered_at),
            restored_from=head.restored_from,
            standing={head.id: Standing.IN_FORCE, None: Standing.WITHDRAWN}.get(head.current, Standing.SUPERSEDED),
            samples=tuple(samples[head.id]),
        )
        for head in connection.execute(heads)
    ]
    return sorted(found, key=lambda one: (one.key, one.domain))  # databases order texts in ways of their own
