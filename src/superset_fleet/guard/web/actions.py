"""What users do, in Superset's table `logs`, without a request that waits for it (EVENT_LOGGER).

Superset's own logger commits within the request, once for each action, after which the request
reads again from the database what it knew: the user, the roles, the chart. Some of Superset relies
on that commit, as for renewed tokens of OAuth2: a request that has changed something is committed
here as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from superset.utils import json
from superset.utils.log import AbstractEventLogger

from ...daemon.journal import in_words, tell
from .buffer import Buffer, Row, insert

ROW_BYTES = 1000  # of a row in memory, beside its texts
CHANGED = "superset_fleet_changed"  # in the `info` of a session: it has written, and not committed


def watch_changes() -> None:
    """Let each session know whether it has written something in its transaction."""

    def written(session: Any, *_: Any) -> None:
        session.info[CHANGED] = True

    def bulk_written(context: Any) -> None:
        written(context.session)

    def committed(session: Any) -> None:
        if not session.in_nested_transaction():
            session.info.pop(CHANGED, None)

    sqlalchemy.event.listen(Session, "after_flush", written)
    sqlalchemy.event.listen(Session, "after_bulk_update", bulk_written)
    sqlalchemy.event.listen(Session, "after_bulk_delete", bulk_written)
    sqlalchemy.event.listen(Session, "after_commit", committed)


def commit_changes(session: Any) -> None:
    """Commit what a session has changed, if anything; log where that fails, as Superset does."""
    if session.new or session.dirty or session.deleted or CHANGED in session.info:
        try:
            session.commit()
        except SQLAlchemyError as error:
            tell("not_committed", reason=in_words(error))
            session.rollback()


class Actions(AbstractEventLogger):  # type: ignore[misc]
    """Puts into the buffer what Superset's DBEventLogger writes."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._table: Any = None
        self._buffer = Buffer(self._write)
        watch_changes()

    def log(
        self,
        user_id: int | None,
        action: str,
        dashboard_id: int | None,
        duration_ms: int | None,
        slice_id: int | None,
        referrer: str | None,
        *_: Any,
        records: Sequence[dict[str, Any]] = (),
        curated_payload: dict[str, Any] | None = None,
        **__: Any,
    ) -> None:
        """Log an action, or several of one kind."""
        from superset.extensions import db
        from superset.models.core import Log

        # Of the application, which the thread has not.
        self._engine, self._table = db.engine, Log.__table__
        at = datetime.utcnow()  # as the column's default
        if not records and curated_payload:
            records = [curated_payload]
        for record in records:
            try:
                text = json.dumps(record)
            except Exception:  # of whatever kind: the row is written without it
                text = None
            row = {
                "action": action,
                "json": text,
                "dashboard_id": dashboard_id or record.get("dashboard_id"),
                "slice_id": slice_id or record.get("slice_id"),
                "duration_ms": duration_ms,
                "referrer": referrer,
                "user_id": user_id,
                "dttm": at,
            }
            self._buffer.put(row, ROW_BYTES + len(text or "") + len(referrer or ""))
        commit_changes(db.session())

    def _write(self, rows: Sequence[Row]) -> int:
        return insert(self._engine, self._table, rows)
