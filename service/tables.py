"""The tables of target clips as they are today; `service.migrations` makes them."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()
SECTION: Final = ("machine_type", "section", "domain")


def _section_columns(*, primary_key: bool = False) -> list[Column[Any]]:
    return [Column(name, String(64), nullable=False, primary_key=primary_key) for name in SECTION]


registrations = Table(
    "registrations",
    metadata,
    Column("id", Integer, primary_key=True),
    *_section_columns(),
    Column("version", Integer, nullable=False),
    Column("registered_at", String(32), nullable=False),
    Column("restored_from", Integer),
    UniqueConstraint(*SECTION, "version"),
)
clips = Table(
    "clips",
    metadata,
    Column("registration_id", ForeignKey("registrations.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("level_dbfs", Float, nullable=False),
    Column("clipped_share", Float, nullable=False),
    Column("audio", LargeBinary, nullable=False),
)
in_force = Table(
    "in_force",
    metadata,
    *_section_columns(primary_key=True),
    Column("registration_id", ForeignKey("registrations.id"), nullable=False),
)
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("request_sha256", String(64), nullable=False),
    Column("registration_id", ForeignKey("registrations.id"), nullable=False),
)
changes = Table(
    "changes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("version_floor", Integer, nullable=False, server_default="0"),
)
"""One row: the number of the last change, and one that new versions exceed. Every writer begins with it, which makes
writers wait for each other."""
