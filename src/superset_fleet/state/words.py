"""What is said of a queue without a worker, to users and operators alike."""

from __future__ import annotations

from .records import Queue

NEVER_RAN = "was not started and has not touched the database"


def last_seen(when: str) -> str:
    """Return when a queue had its last worker, e.g. `at 12:00 UTC`; '': it never had one."""
    return f"the last one was seen {when}" if when else "none was ever seen"


def since(seconds: float | None) -> str:
    """Return how long ago a queue had its last worker; None: it never had one."""
    if seconds is None:
        return last_seen("")
    return last_seen(f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago")


def not_started(queue: Queue, wakes: bool) -> str:
    """Return why no worker is started where queries wait for one, and '' where they do not."""
    return f", and none is started ({queue.not_started})" if wakes else ""


def nobody_takes(name: str, seen: str, queue: Queue, wakes: bool) -> str:
    """Return that a queue has no worker, since when, and why none is started: without a full stop.

    `wakes` says whether queries wait for a worker that the scaler starts.
    """
    return f"No worker takes queries from the queue '{name}' ({seen}){not_started(queue, wakes)}"
