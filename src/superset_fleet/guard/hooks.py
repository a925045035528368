"""What superset_config.py hooks into Superset, Celery and gunicorn, guarded or not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import beat_init, task_postrun, worker_process_init, worker_ready

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


# -- gunicorn -------------------------------------------------------------------------------------
def close_connections(server: Any) -> None:
    """Close the database connections of the parent, which its processes would share."""
    from superset.extensions import db

    with server.app.wsgi().app_context():
        db.engine.dispose()
