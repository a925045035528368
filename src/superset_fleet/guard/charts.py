"""Events of charts' jobs: each has one last event, and only the run that owns the job writes it."""

from __future__ import annotations

from typing import Any

from flask import current_app
from superset.async_events.async_query_manager import AsyncQueryManager
from superset.utils import json

from ..daemon.journal import tell
from . import run
from .context import EXTENSION


class Events(AsyncQueryManager):  # type: ignore[misc]
    """Superset's manager of events (GLOBAL_ASYNC_QUERY_MANAGER_CLASS)."""

    def update_job(self, job_metadata: dict[str, Any], status: str, **kwargs: Any) -> None:
        """Write an event; with the last one of a job also that the job is finished."""
        token = run.current.token
        if token is None or status not in (self.STATUS_DONE, self.STATUS_ERROR):
            super().update_job(job_metadata, status, **kwargs)
            return
        job = f"chart:{job_metadata['job_id']}"
        event = json.loads(json.dumps({**job_metadata, "status": status, **kwargs}))
        streams = {
            f"{self._stream_prefix}{job_metadata['channel_id']}": self._stream_limit,
            f"{self._stream_prefix}full": self._stream_limit_firehose,
        }
        registry = current_app.extensions[EXTENSION].registry
        if not registry.finish(job, str(token), event, streams):
            tell("fenced", job=job, reason="taken_or_finished")
