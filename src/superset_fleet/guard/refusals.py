"""Tasks that are not sent, and what their users are told."""

from __future__ import annotations

from typing import Any

from ..state.records import Queue
from ..state.words import NEVER_RAN, nobody_takes, since


class Refused(Exception):
    """A task was not sent. The message is for the user; `reason` is no_worker or broker."""

    def __init__(self, message: str, job: str, reason: str) -> None:
        super().__init__(message)
        self.message, self.job, self.reason = message, job, reason


def no_worker(name: str, queue: Queue, wake: bool) -> str:
    """Return what a user is told whose query nobody would take.

    With `wake`, why no worker is started for it, too.
    """
    return (
        f"{nobody_takes(name, since(queue.silent_seconds), queue, wake)}, so this one {NEVER_RAN}. "
        "Run it again in a minute. If this stays so, tell your administrator that the Celery "
        "workers are down."
    )


def unreachable(error: Exception) -> str:
    """Return what a user is told when the task could not be sent."""
    return (
        "The message broker, by which queries reach the workers, does not answer "
        f"({type(error.__cause__ or error).__name__}), so this query {NEVER_RAN}. Run it again in "
        "a minute. If this stays so, tell your administrator that the Redis instance "
        "'coordination' is down."
    )


def too_many(message: str) -> dict[str, Any]:
    """Return a refusal of a request, not of a task, as Superset's pages and clients read it."""
    error = {"message": message, "error_type": "GENERIC_BACKEND_ERROR", "level": "error"}
    return {"message": message, "errors": [error | {"extra": {}}]}
