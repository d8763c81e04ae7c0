"""How long the database keeps what no longer scores: earlier versions of a section's target clips, idempotency keys.

What is in force is never deleted, nor the section's newest version, by which the next one is numbered, nor one that a
repeated request would be answered by. Deleting is part of the transaction that registers, so that a database grows no
further than this, without a task of its own.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, select

from service.tables import clips, idempotency_keys, in_force, registrations

_AT_ONCE: Final = 20
"""Of versions: a database that kept thousands is not brought down to few while a registration waits."""


@dataclass(frozen=True, slots=True)
class Retention:
    """``versions``: how many a section keeps, the newest; ``keys_s``: how long an idempotency key is known."""

    versions: int = 100
    keys_s: float = 86_400.0

    def keys_since(self) -> str:
        """The earliest `registered_at` of registrations whose idempotency keys are known."""
        return (datetime.now(UTC) - timedelta(seconds=self.keys_s)).isoformat()

    def forget_keys(self, connection: Connection) -> None:
        """Delete the idempotency keys that are no longer known."""
        old = select(registrations.c.id).where(registrations.c.registered_at < self.keys_since())
        connection.execute(delete(idempotency_keys).where(idempotency_keys.c.registration_id.in_(old)))

    def forget_versions(self, connection: Connection, place: dict[str, str]) -> None:
        """Delete the versions of a section that are too many."""
        newest = select(registrations.c.version).filter_by(**place).order_by(registrations.c.version.desc())
        oldest = connection.scalar(newest.offset(self.versions - 1).limit(1))
        if oldest is None:
            return
        needed = select(in_force.c.registration_id).union(select(idempotency_keys.c.registration_id))
        surplus = (registrations.c.version < oldest, registrations.c.id.not_in(needed))
        oldest_first = select(registrations.c.id).filter_by(**place).where(*surplus).order_by(registrations.c.version)
        doomed = connection.scalars(oldest_first.limit(_AT_ONCE)).all()
        connection.execute(delete(clips).where(clips.c.registration_id.in_(doomed)))
        connection.execute(delete(registrations).where(registrations.c.id.in_(doomed)))


RETENTION: Final = Retention()
"""Of a store that is told nothing else."""
