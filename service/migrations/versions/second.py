"""A count of changes, by which instances notice each other's, and the version that a registration restores."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add them; on SQLite the first release, which would not count its changes, is kept out by user_version."""
    changes = op.create_table(
        "changes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("number", sa.BigInteger, nullable=False)
    )
    op.bulk_insert(changes, [{"id": 1, "number": 0}])
    op.add_column("registrations", sa.Column("restored_from", sa.Integer, nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version=2")
