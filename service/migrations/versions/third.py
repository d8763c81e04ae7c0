"""The number that new versions must exceed: versions of a database that was lost are not given again."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    """Add it; with a default, by which an instance of the release before goes on."""
    op.add_column("changes", sa.Column("version_floor", sa.Integer, nullable=False, server_default="0"))
