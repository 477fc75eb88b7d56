"""Alembic's entry: runs migrations on the engine that `migrate` passes."""

from __future__ import annotations

from alembic import context

from mistudio_core.jobs import schema

engine = context.config.attributes["engine"]
with engine.connect().execution_options(write=True) as connection:
    context.configure(connection=connection, target_metadata=schema.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
