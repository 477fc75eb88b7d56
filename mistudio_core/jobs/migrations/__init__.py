"""Schema migrations (Alembic). `migrate(path)` brings a file to the newest schema."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from mistudio_core.jobs.database import check_database, open_engine

HEAD = "0002"
"""The newest revision."""


def migrate(path: Path) -> None:
    """Creates or upgrades the database. Raises Corrupt for a damaged file.

    A file that is at HEAD is left alone without loading Alembic's environment, so that a start is quick.
    """
    engine = open_engine(path)
    try:
        check_database(engine)
        if _revision(engine) != HEAD:
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent))
            config.attributes["engine"] = engine
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if revision is None else str(revision)
