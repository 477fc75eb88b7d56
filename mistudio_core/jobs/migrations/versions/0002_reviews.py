"""Reviews: what people decided about explanations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("feature_id", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("verdict", "correction", "reason", "author", "tenant")),
        sa.Column("reviewed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("reviews_by_explanation", "reviews", ["job_id", "feature_id", "id"])
