"""The tables of the first release.

A database that it wrote has no revision but, on SQLite, user_version 1; it is taken over as it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "registrations",
        sa.Column("id", sa.Integer, primary_key=True),
        *_section(),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("registered_at", sa.String(32), nullable=False),
        sa.UniqueConstraint("machine_type", "section", "domain", "version"),
    )
    op.create_table(
        "clips",
        sa.Column("registration_id", sa.Integer, sa.ForeignKey("registrations.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("level_dbfs", sa.Float, nullable=False),
        sa.Column("clipped_share", sa.Float, nullable=False),
        sa.Column("audio", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "in_force",
        *_section(primary_key=True),
        sa.Column("registration_id", sa.Integer, sa.ForeignKey("registrations.id"), nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("registration_id", sa.Integer, sa.ForeignKey("registrations.id"), nullable=False),
    )


def _section(*, primary_key: bool = False) -> list[sa.Column[str]]:
    names = ("machine_type", "section", "domain")
    return [sa.Column(name, sa.String(64), nullable=False, primary_key=primary_key) for name in names]
