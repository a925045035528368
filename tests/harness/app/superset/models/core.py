"""See superset."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg2
from sqlalchemy.dialects.postgresql.psycopg2 import dialect

from superset import db


class Database(db.Model):  # type: ignore[misc]
    """A database that queries are about."""

    __tablename__ = "dbs"
    id = db.Column(db.Integer, primary_key=True)
    db_engine_spec = SimpleNamespace(engine="postgresql")

    def get_dialect(self) -> Any:
        """Return SQLAlchemy's dialect, without a driver."""
        return dialect()

    @contextmanager
    def get_raw_connection(self) -> Iterator[Any]:
        """Connect."""
        with closing(psycopg2.connect(os.environ["WAREHOUSE"])) as connection:
            yield connection
