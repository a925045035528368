"""See superset."""

import json
from typing import Any

from superset import db


class Query(db.Model):  # type: ignore[misc]
    """A query of SQL Lab."""

    __tablename__ = "query"
    id = db.Column(db.Integer, primary_key=True)
    client_id = db.Column(db.String(11), unique=True)
    database_id = db.Column(db.Integer, db.ForeignKey("dbs.id"))
    database = db.relationship("Database")
    user_id = db.Column(db.Integer)
    status = db.Column(db.String(16), default="pending")
    sql = db.Column(db.Text)
    executed_sql = db.Column(db.Text)
    select_as_cta = db.Column(db.Boolean, default=False)
    tmp_table_name = db.Column(db.String(256))
    progress = db.Column(db.Integer, default=0)
    rows = db.Column(db.Integer)
    error_message = db.Column(db.Text)
    results_key = db.Column(db.String(64))
    extra_json = db.Column(db.Text)
    start_running_time = db.Column(db.Numeric(precision=20, scale=6))
    end_time = db.Column(db.Numeric(precision=20, scale=6))
    changed_on = db.Column(db.DateTime)

    def set_extra(self, key: str, value: Any) -> None:
        """Set one of the things that have no column."""
        self.extra_json = json.dumps({**json.loads(self.extra_json or "{}"), key: value})
