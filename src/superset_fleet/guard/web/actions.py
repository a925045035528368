"""What users do, in Superset's table `logs`, without a request that waits for it (EVENT_LOGGER).

Superset's own logger commits within the request, once for each action, after which the request
reads again from the database what it knew: the user, the roles, the chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from superset.utils import json
from superset.utils.log import AbstractEventLogger

from .buffer import Buffer, Row, insert

ROW_BYTES = 1000  # of a row in memory, beside its texts


class Actions(AbstractEventLogger):  # type: ignore[misc]
    """Puts into the buffer what Superset's DBEventLogger writes."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._buffer = Buffer(self._write)

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

        self._engine = db.engine  # which needs the application, that the thread has not
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

    def _write(self, rows: Sequence[Row]) -> int:
        from superset.models.core import Log

        return insert(self._engine, Log.__table__, rows)
