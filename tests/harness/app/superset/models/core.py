"""See superset."""

from types import SimpleNamespace

from superset import db


class Database(db.Model):  # type: ignore[misc]
    """A database that queries are about."""

    __tablename__ = "dbs"
    id = db.Column(db.Integer, primary_key=True)
    db_engine_spec = SimpleNamespace(engine="postgresql")
