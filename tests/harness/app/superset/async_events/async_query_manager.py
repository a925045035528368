"""See superset."""

import json
import uuid
from typing import Any

import flask
import redis


class Backend:
    """A client of Redis."""

    def __init__(self, **options: Any) -> None:
        self._cache = redis.Redis(**options)
        self.xadd: Any = self._cache.xadd


class AsyncQueryManager:
    """Events of charts' jobs, in streams of Redis."""

    STATUS_DONE, STATUS_ERROR, STATUS_RUNNING = "done", "error", "running"

    def init_app(self, app: flask.Flask) -> None:
        """Take the configuration."""
        at = app.config["GLOBAL_ASYNC_QUERIES_CACHE_BACKEND"]
        self._cache = Backend(
            host=at["CACHE_REDIS_HOST"],
            port=at["CACHE_REDIS_PORT"],
            password=at["CACHE_REDIS_PASSWORD"],
            db=at["CACHE_REDIS_DB"],
        )
        self._stream_prefix = "async-events-"
        self._stream_limit, self._stream_limit_firehose = 1000, 1000000

    def parse_channel_id_from_request(self, request: flask.Request) -> str:
        """Return whose request it is."""
        return request.headers["channel"]

    def init_job(self, channel_id: str, user_id: int | None) -> dict[str, Any]:
        """Return a new job."""
        ids = {"channel_id": channel_id, "job_id": str(uuid.uuid4()), "user_id": user_id}
        return {**ids, "status": "pending", "errors": []}

    def update_job(self, job_metadata: dict[str, Any], status: str, **kwargs: Any) -> None:
        """Write an event."""
        event = {"data": json.dumps({**job_metadata, "status": status, **kwargs})}
        for stream in (job_metadata["channel_id"], "full"):
            self._cache.xadd(f"{self._stream_prefix}{stream}", event)
