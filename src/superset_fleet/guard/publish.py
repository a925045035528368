"""Where a task is sent: refuse at once what nobody would take, and write down the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flask
import redis
from celery.utils import uuid
from kombu.exceptions import OperationalError
from kombu.utils import json
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from ..daemon.journal import in_words, tell
from ..state import rows
from ..state.jobs import SOME, job_name, priority, query_id_of
from ..state.records import Job
from .context import Guard
from .refusals import Refused, no_worker, unreachable


def queue_name(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> str:
    """Return the queue to which Celery would route a task."""
    given = {key: options[key] for key in ("queue", "exchange", "routing_key") if options.get(key)}
    routed = task.app.amqp.router.route(given, task.name, args or (), kwargs or {}, task)
    queue = routed.get("queue")
    return str(getattr(queue, "name", queue) or task.app.conf.task_default_queue)


def admit(guard: Guard, task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> bool:
    """Write a task's job down and return True, False where the registry cannot be asked.

    Raises Refused where the task's queue has no worker, and none is started for it.
    """
    queue = queue_name(task, args, kwargs, options)
    name = job_name(task.name, args, kwargs)
    job = Job(task=task.name, task_id=options["task_id"], queue=queue)
    message = json.dumps({"args": list(args or ()), "kwargs": dict(kwargs or {})})
    try:
        empty = guard.registry.admit(queue, name, job, message, guard.wake)
    except RedisError as error:
        # Whether there is a worker is not known, and an outage must not become a larger one.
        tell("unguarded", job=name, reason=in_words(error))
        return False
    if empty:
        guard.broker.tell(hung=False)  # it was not asked
        raise Refused(no_worker(queue, empty, guard.wake), name, "no_worker")
    return bool(name)


def share(query_id: int) -> int:
    """Return the priority of a query: that of who has others must not keep anybody's first."""
    from superset import db

    return priority(rows.others_of_user(db.session.connection(), query_id, SOME))


def around(guard: Guard) -> Callable[[Any], Any]:
    """Return the annotation of a task's apply_async."""

    def annotation(original: Any) -> Any:
        @functools.wraps(original)
        def apply_async(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            if self.app.conf.task_always_eager:
                return original(self, args, kwargs, **options)
            options.setdefault("task_id", uuid())
            name = job_name(self.name, args, kwargs)
            query_id = query_id_of(name)
            if query_id is not None and flask.has_request_context():
                options.setdefault("priority", share(query_id))
            try:
                if not guard.broker.allows():
                    raise Refused(unreachable(redis.TimeoutError()), name, "broker")
                admitted = admit(guard, self, args, kwargs, options)
                try:
                    sent = original(self, args, kwargs, **options)
                except Exception as error:
                    if admitted:
                        guard.forget(name)
                    if isinstance(error, OperationalError):
                        guard.broker.tell(hung=isinstance(error.__cause__, redis.TimeoutError))
                        raise Refused(unreachable(error), name, "broker") from error
                    raise
                guard.broker.tell(hung=False)
                return sent
            except Refused as refused:
                report(guard, refused)
                raise

        return apply_async

    return annotation


def report(guard: Guard, refused: Refused) -> None:
    """See to it that the refusal is told to the user and written into the query's row.

    Superset rolls back what it writes when sending fails, and words the error by itself; so in a
    request this is done when that is over (web/answers.py).
    """
    tell("refused", job=refused.job, reason=refused.reason)
    query_id = query_id_of(refused.job)
    if flask.has_request_context():
        flask.g.guard_refused = refused
    elif query_id is not None and guard.app:
        from superset import db

        try:
            with guard.app.app_context(), db.engine.begin() as connection:
                rows.fail(connection, query_id, refused.message)
        except SQLAlchemyError as error:  # the watchdog fails the row
            tell("not_failed", job=refused.job, reason=in_words(error))
