"""What the parts of the guard share in a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redis import RedisError

from ..daemon.journal import in_words, tell
from ..state.registry import Registry
from .hangs import Breaker

EXTENSION = "superset_fleet_guard"  # its place in Flask's app.extensions


@dataclass
class Guard:
    """Guards the tasks of queries and charts in this process.

    `registry` is in the database where Global Async Queries must have their streams, too. `wake`
    says what becomes of a task that no worker would take: it is refused (False), or it waits where
    the scaler starts one (True).
    """

    registry: Registry
    wake: bool = False
    app: Any = None  # Superset's application
    worker: str = ""  # name of this life of the worker, in its processes
    broker: Breaker = field(default_factory=Breaker)

    def forget(self, job: str) -> None:
        """Take off a job that is over; the watchdog does it where this fails."""
        try:
            self.registry.forget(job)
        except RedisError as error:
            tell("not_forgotten", job=job, reason=in_words(error))
