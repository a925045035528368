"""What superset_config.py hooks into Superset, Celery and gunicorn, guarded or not."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.signals import (
    beat_init,
    celeryd_init,
    task_postrun,
    worker_process_init,
    worker_ready,
)

from ..daemon.loop import notify, notify_alive

Mutator = Callable[[Any], object]  # changes Superset's application


# -- Superset -------------------------------------------------------------------------------------
def signed_by(service: str) -> Callable[..., str]:
    """Return SQL_QUERY_MUTATOR, which signs a query with the service and machine that run it.

    The database's log and Superset's query history then tell who ran it.
    """

    def sign(sql: str, **_: Any) -> str:
        return f"-- superset {service} on {socket.gethostname()}\n{sql}"

    return sign


def in_turn(*mutators: Mutator) -> Mutator:
    """Return a mutator that does what these do, one after the other."""

    def mutate(app: Any) -> None:
        for each in mutators:
            each(app)

    return mutate


def last(fleet: Mutator, overrides: Mutator | None) -> Mutator:
    """Return what the overrides make FLASK_APP_MUTATOR, and the fleet's own mutator after it."""
    if not overrides or overrides is fleet:
        return fleet
    return in_turn(overrides, fleet)


# -- Celery ---------------------------------------------------------------------------------------
def look_for_due_reports(task: Any, *_: Any, **__: Any) -> None:
    """Look, in beat's own process, whether reports are due: the task's `apply_async`.

    So no worker is kept awake for that, every minute. Beat does not wait for the database.
    """
    threading.Thread(target=task.apply, name="due reports", daemon=True).start()


def disconnect_teardown(**_: Any) -> None:
    """Take off a receiver that Superset 6.1 has left over: it only fails, loudly, at each task.

    The session is removed with the application context, in which every task runs.
    Beat looks for due reports by such a task.
    """
    from superset.tasks.celery_app import teardown

    task_postrun.disconnect(teardown)


def notify_ready(**_: Any) -> None:
    """Tell systemd that the service takes work now; gunicorn does so by itself."""
    notify("READY=1")


def watch_ticks(sender: Any, **_: Any) -> None:
    """Let systemd's watchdog watch whether a beat ticks, by the limit of its unit.

    Only from the first tick on: before that nothing of it turns while it waits for the lock.
    """
    limit = os.environ.get("WATCHDOG_USEC")
    if not limit:
        return
    notify("WATCHDOG_USEC=0")
    tick = sender.scheduler.tick

    def watched(*args: Any, **kwargs: Any) -> Any:
        notify_alive(f"WATCHDOG_USEC={limit}\n")
        return tick(*args, **kwargs)

    sender.scheduler.tick = watched


def connect_signals() -> None:
    """Listen to Celery's signals.

    A beat that waits for the lock is as ready as the one that has it. So this comes before
    redbeat, whose own receiver of beat_init waits.
    """
    for signal in (worker_process_init, beat_init):
        signal.connect(disconnect_teardown, weak=False)
    for signal in (worker_ready, beat_init):
        signal.connect(notify_ready, weak=False)
    beat_init.connect(watch_ticks, weak=False)


def allowed_memory(root: str | Path = "/") -> int | None:
    """Return how many bytes this service may have, None where that is not limited."""
    try:
        own = Path(root, "proc/self/cgroup").read_text().strip().rpartition("::")[2]
        return int(Path(root, "sys/fs/cgroup", own.lstrip("/"), "memory.max").read_text())
    except (OSError, ValueError):  # no cgroup of this kind, or `max`
        return None


def share_memory() -> None:
    """Give each process of a worker's pool its part of what the service may have.

    What wants more gets none, and fails with that reason. Else the kernel would kill the process
    when the service has taken all, and nobody could say for what.
    """
    slots: int

    def note(options: Any, **_: Any) -> None:
        nonlocal slots
        slots = options.get("concurrency") or os.cpu_count() or 1

    def limit(**_: Any) -> None:
        if allowed := allowed_memory():
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (allowed // slots, hard))

    celeryd_init.connect(note, weak=False)
    worker_process_init.connect(limit, weak=False)


# -- gunicorn -------------------------------------------------------------------------------------
def close_connections(server: Any) -> None:
    """Close the database connections of the parent, which its processes would share."""
    from superset.extensions import db

    with server.app.wsgi().app_context():
        db.engine.dispose()
