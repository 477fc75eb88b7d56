"""First schema: jobs, attempts, events, artifacts.

Written out, not taken from schema.py: a migration must not change when the schema does.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("service", "status", "tenant", "creator", "etag")),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("request_id", sa.Text),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("request_hash", "trace_context", "model_name", "start_after")
        ),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("device_request", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("fruitless_attempts", sa.Integer, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("result", sa.LargeBinary),
        sa.Column("queue_reason", sa.Text, nullable=False),
        sa.Column("last_checkpoint", sa.Text, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.UniqueConstraint("tenant", "service", "request_id", name="jobs_request_id"),
    )
    op.create_index("jobs_by_status", "jobs", ["status", "created_at"])
    op.create_index("jobs_by_service", "jobs", ["service", "created_at"])
    _create_details()


def _create_details() -> None:
    """What belongs to a job."""
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("token_sha256", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("process_start", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("last_batch", sa.BigInteger, nullable=False),
        sa.Column("checkpointed", sa.Boolean, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("uri", "kind", "sha256", "manifest", "folder", "job_id")
        ),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("artifacts_by_uri", "artifacts", ["uri", "id"])
    op.create_index("artifacts_by_job", "artifacts", ["job_id", "id"])


def downgrade() -> None:
    """Removes the tables."""
    for table in ("artifacts", "events", "attempts", "jobs"):
        op.drop_table(table)
