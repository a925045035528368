"""Switches on what superset_config.py wants: the one place that knows all parts of the guard."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import psycopg2.extensions

from ..roles import WEB, WORKER
from ..state.jobs import TASKS
from . import databases, hangs, hooks, publish, run, worker
from .context import EXTENSION, Guard
from .mend import mend
from .web import app as web
from .web import limits, permissions
from .web.ready import Ready


def task_annotations(
    service: str, limits: Mapping[str, Any], guard: Guard | None
) -> dict[str, dict[str, Any]]:
    """Return CeleryConfig.task_annotations.

    `limits` are attributes of the tasks of queries and charts. Those bring limits of their own,
    which only annotations overrule. `@name` is Celery's own notation for "wrap this method", so
    nothing is patched.
    """
    guards = {"@apply_async": publish.around(guard), "@run": run.around(guard)} if guard else {}
    found: dict[str, dict[str, Any]] = {name: {**guards, **limits} for name in TASKS}
    if service == "scheduler":
        found["reports.scheduler"] = {"apply_async": hooks.look_for_due_reports}
    return found


def mutator(service: str, redis_urls: Mapping[str, str], guard: Guard | None) -> hooks.Mutator:
    """Return FLASK_APP_MUTATOR, which adds to Superset's application what is the fleet's."""
    ready = [Ready(redis_urls).install, hangs.bound, limits.install] if service == WEB else []
    guards = [functools.partial(join, guard)] if guard else []
    return hooks.in_turn(*ready, *guards)


def join(guard: Guard, app: Any) -> None:
    """Let the guard be a part of Superset's application, in web processes and workers."""
    guard.app = app
    app.extensions[EXTENSION] = guard
    mend(app)
    run.fence_rows(app)
    worker.beat_from(guard)
    web.add_pages(app, guard)


def listen(service: str) -> None:
    """Listen to Celery's signals, and where PostgreSQL works to time limits and to its silence."""
    hooks.connect_signals()
    if service == WORKER:
        hooks.share_memory()
    if service in (WORKER, WEB):
        psycopg2.extensions.set_wait_callback(databases.wait)


def action_log() -> Any:
    """Return EVENT_LOGGER of web machines."""
    from .web.actions import Actions

    return Actions()


def security_manager(service: str, guard: Guard | None, manager: Any) -> Any:
    """Return CUSTOM_SECURITY_MANAGER, which on web machines keeps what roles may do."""
    return permissions.keep(manager) if guard and service == WEB else manager
