"""See superset."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

from flask import current_app
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql.psycopg2 import dialect
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

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
        url, options = current_app.config["DB_CONNECTION_MUTATOR"](
            make_url(os.environ["WAREHOUSE"]), {"poolclass": NullPool}, None, None, None
        )
        with closing(create_engine(url, **options).raw_connection()) as connection:
            yield connection
