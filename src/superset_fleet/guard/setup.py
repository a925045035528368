"""The guard, as superset_config.py switches it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis import RedisError

from ..daemon.journal import in_words, tell
from ..state.jobs import TASKS
from ..state.registry import Registry
from . import publish, run

EXTENSION = "superset_fleet_guard"  # its place in Flask's app.extensions


class Guard:
    """Guards the tasks of queries and charts, where they are sent and where they run.

    `redis_url` is the database of the registry, where Global Async Queries must have their
    streams, too. `wake` says what becomes of a task that no worker would take: it is refused
    (False), or it waits where the scaler starts one (True).
    """

    def __init__(self, redis_url: str, wake: bool = False) -> None:
        self.registry = Registry(redis_url)
        self.wake = wake
        self.app: Any = None  # Superset's application
        self.worker = ""  # name of this life of the worker, in its processes

    def annotations(
        self, attributes: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return CeleryConfig.task_annotations: the guards, and more attributes of tasks.

        `@name` is Celery's own notation for "wrap this method", so nothing is patched.
        """
        guards = {"@apply_async": publish.around(self), "@run": run.around(self)}
        names = {**dict.fromkeys(TASKS), **dict.fromkeys(attributes or {})}
        return {
            name: {**(guards if name in TASKS else {}), **(attributes or {}).get(name, {})}
            for name in names
        }

    def forget(self, job: str) -> None:
        """Take off a job that is over; the watchdog does it where this fails."""
        try:
            self.registry.forget(job)
        except RedisError as error:
            tell("not_forgotten", job=job, reason=in_words(error))

    def install(self, app: Any) -> None:
        """Join Superset's application: its FLASK_APP_MUTATOR, in web processes and workers."""
        from . import web, worker

        self.app = app
        app.extensions[EXTENSION] = self
        run.fence_rows(app)
        worker.beat_from(self)
        web.init(app, self)
