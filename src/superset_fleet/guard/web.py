"""What clients and operators see: refusals in their own words, /fleet/health, /fleet/metrics, and
a banner while queries cannot run.

Nobody logs in for /fleet, so it names no machine, address or query. The state is read from Redis
at most once a second in each process, so many requests cost no more than few.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flask
import jinja2
import kombu.exceptions
from redis import RedisError

from ..daemon.journal import tell
from ..state import registry, rows
from ..state.jobs import CHARTS, QUERIES, query_id_of
from ..times import TIMES
from .ready import EXTENSION

if TYPE_CHECKING:
    from .publish import Refused
    from .setup import Guard

STATE_SECONDS = 1.0  # how long a state is shown before Redis is asked again
TEMPLATES = Path(__file__).with_name("templates")


# -- The state ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class QueueState:
    """What is known of a queue. A worker that takes several queues counts in each of them."""

    workers: int = 0  # that take tasks
    draining: int = 0  # that take no more and end what they run
    slots: int = 0  # tasks that the workers can run at a time
    active: int = 0  # tasks that run, on draining workers too
    waiting: int | None = None  # tasks in the broker; None where they cannot be counted
    silent_seconds: float | None = None  # since a worker was heard; None where there never was one
    # Whether the scaler starts a worker for what waits. None where nobody waits for that.
    wakes: bool | None = None
    starting_seconds: float | None = None  # since the first one was asked for; None: none is

    @property
    def takes(self) -> bool:
        """Whether a query is taken: it runs, or waits for a worker that is started."""
        return self.workers > 0 or bool(self.wakes)


@dataclass(frozen=True)
class State:
    """All queues by name, and how often the watchdog decided what."""

    queues: dict[str, QueueState]
    decisions: dict[str, int] = field(default_factory=dict)


class Unknown(Exception):
    """The state cannot be told; the message, which anybody may read, says why."""


def count(
    name: str, queue: registry.Queue, live: Iterable[registry.Worker], waiting: int | None
) -> QueueState:
    """Return a queue's state, given the workers of all queues that are not silent."""
    mine = [worker for worker in live if name in worker.queues]
    return QueueState(
        workers=queue.workers,
        draining=sum(worker.draining for worker in mine),
        slots=sum(worker.slots for worker in mine if not worker.draining),
        active=sum(worker.tasks for worker in mine),
        waiting=waiting,
        silent_seconds=queue.silent_seconds,
    )


def waking(state: QueueState, queue: registry.Queue, now: float) -> QueueState:
    """Return a queue's state with what the scaler says of it; `now` is by Redis."""
    wake = queue.wake
    starting = wake is not None and wake.state == "starting" and not queue.workers
    seconds = max(0.0, round(now - wake.since, 1)) if wake and starting else None
    return replace(state, wakes=queue.starts, starting_seconds=seconds)


def look(
    known: registry.Registry,
    names: Iterable[str],
    lengths: Callable[[list[str]], dict[str, int]],
    wake: bool = False,
) -> State:
    """Return the state of these queues, and of all that ever had a worker.

    With `wake`, what the scaler says of them, too. Raises Unknown where Redis does not tell.
    """
    try:
        now = known.now()
        live = [
            worker
            for worker in known.workers().values()
            if now - worker.last_beat <= TIMES.silent_seconds
        ]
        queues = {name: known.queue(name) for name in sorted({*names, *known.queues()})}
        empty = not all(queue.workers for queue in queues.values())
        if empty and known.up_seconds() <= TIMES.redis_start_seconds:
            raise Unknown("Redis has just started: its workers come back one by one.")
        decisions = known.decisions()
    except RedisError as error:
        # Its own text holds the address.
        raise Unknown(f"Redis does not answer ({type(error).__name__}).") from error
    waiting = lengths(list(queues))
    states = {name: count(name, queue, live, waiting.get(name)) for name, queue in queues.items()}
    if wake:
        states = {name: waking(state, queues[name], now) for name, state in states.items()}
    return State(states, decisions)


class Broker:
    """The lengths of a broker's queues, where that is a Redis."""

    def __init__(self, celery: Any) -> None:
        self._celery = celery
        self._channel: Any = None

    def lengths(self, names: list[str]) -> dict[str, int]:
        """Return how many tasks wait in each queue; nothing where that cannot be told."""
        try:
            return self._lengths(names)
        except (RedisError, OSError, kombu.exceptions.KombuError):
            return {}

    def _lengths(self, names: list[str]) -> dict[str, int]:
        if self._channel is None:
            # Celery's own time-outs are for those who have to wait for the broker.
            seconds = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), 0.5)
            connection = self._celery.connection_for_read(transport_options=seconds)
            if connection.transport.driver_type != "redis":
                return {}
            self._channel = connection.channel()
        channel = self._channel
        # One list for each priority: `queue`, `queue<sep>3`, ...
        endings = [f"{channel.sep}{step}" if step else "" for step in channel.priority_steps]
        with channel.client.pipeline(transaction=False) as pipeline:
            for name in names:
                for ending in endings:
                    pipeline.llen(name + ending)
            found = iter(pipeline.execute())
        return {name: sum(next(found) for _ in endings) for name in names}


class Glance:
    """A state that is at most a second old; the first who asks after that looks for all."""

    def __init__(self, look: Callable[[], State]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._seen: State | Unknown = Unknown("Nobody has looked yet.")
        self._until = 0.0  # by the monotonic clock

    def __call__(self) -> State:
        """Return the state. Raises Unknown."""
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._seen = self._look()
                except Unknown as unknown:
                    self._seen = unknown
                self._until = time.monotonic() + STATE_SECONDS
            seen = self._seen
        if isinstance(seen, Unknown):
            raise Unknown(str(seen))
        return seen


# -- /fleet ---------------------------------------------------------------------------------------
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
METRICS = {
    "workers": ("workers", "Workers that take tasks from the queue."),
    "workers_draining": ("draining", "Workers that take no more and end what they run."),
    "slots": ("slots", "Tasks that the queue's workers can run at a time."),
    "tasks_active": ("active", "Tasks that run on the queue's workers."),
    "queue_length": ("waiting", "Tasks that wait in the broker."),
    "queue_silent_seconds": ("silent_seconds", "Seconds since a worker of the queue was heard."),
    "queue_wakes": ("wakes", "Whether a worker is started for what waits in the queue."),
    "worker_starting_seconds": ("starting_seconds", "Seconds since a first worker was asked for."),
}


def health(state: State, names: Iterable[str], least: int | None) -> dict[str, Any]:
    """Return the document of /fleet/health on these queues.

    `lacking` names those with fewer workers than the least number; where none is given, those
    from which no query would be taken.
    """
    queues = {name: state.queues.get(name, QueueState()) for name in names}
    lacking = [
        name
        for name, queue in queues.items()
        if (not queue.takes if least is None else queue.workers < least)
    ]
    return {
        "status": "lacking" if lacking else "ok",
        "lacking": lacking,
        "queues": {name: asdict(queue) for name, queue in queues.items()},
    }


def metrics(state: State | None, dependencies: Mapping[str, bool]) -> str:
    """Return in Prometheus' text format which dependencies answer, and the state where known."""
    lines = head("dependency_up", "gauge", "Whether what a web machine depends on answers it.")
    for name, answers in dependencies.items():
        lines.append(f'superset_fleet_dependency_up{{dependency="{escape(name)}"}} {answers:d}')
    return "\n".join([*lines, *(metrics_of_queues(state) if state else []), ""])


def metrics_of_queues(state: State) -> list[str]:
    """Return the lines about queues, their workers and what the watchdog decided."""
    lines = []
    for metric, (attribute, meaning) in METRICS.items():
        lines += head(metric, "gauge", meaning)
        for name, queue in state.queues.items():
            value = getattr(queue, attribute)
            if value is not None:  # and of a truth value 0 or 1
                lines.append(f'superset_fleet_{metric}{{queue="{escape(name)}"}} {+value}')
    lines += head("decisions_total", "counter", "What the watchdog decided about jobs.")
    for name, number in sorted(state.decisions.items()):
        lines.append(f'superset_fleet_decisions_total{{decision="{escape(name)}"}} {number}')
    return lines


def head(metric: str, kind: str, meaning: str) -> list[str]:
    """Return the lines that introduce a metric."""
    name = f"superset_fleet_{metric}"
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def escape(value: str) -> str:
    """Return a label's value as it stands between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def pages(
    state: Callable[[], State],
    names: Callable[[], Iterable[str]],
    dependencies: Callable[[], Mapping[str, bool]] = dict,
) -> flask.Blueprint:
    """Return the pages below /fleet; `names` gives the queues of a health check that names none.

    `dependencies` looks which of them answer.
    """
    blueprint = flask.Blueprint("fleet", __name__, url_prefix="/fleet")

    @blueprint.get("/health")
    def show_health() -> Any:
        least = flask.request.args.get("min")
        if least is not None and not re.fullmatch("[0-9]{1,6}", least):
            return {"error": "min is a number of workers, for example min=2."}, 400
        wanted = flask.request.args.getlist("queue") or names()
        document = health(state(), wanted, None if least is None else int(least))
        return document, 200 if document["status"] == "ok" else 503

    @blueprint.get("/metrics")
    def show_metrics() -> Any:
        try:
            known = state()
        except Unknown:  # whose reason the dependencies tell
            known = None
        return flask.Response(metrics(known, dependencies()), content_type=PROMETHEUS)

    @blueprint.errorhandler(Unknown)
    def show_unknown(unknown: Unknown) -> Any:
        return {"status": "unknown", "reason": str(unknown)}, 503

    @blueprint.after_request
    def keep_nothing(response: flask.Response) -> flask.Response:
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint


# -- Answers of Superset --------------------------------------------------------------------------
def tell_refusal(db: Any, events: Any, response: flask.Response) -> flask.Response:
    """Give the client of a refused task the guard's words, and write them into the query's row.

    Only now, after Superset has rolled back: it would take the row's change back, too. The status
    stays: at 502 to 504 a browser would send the request again.
    """
    refused = flask.g.pop("guard_refused", None)
    if refused is None:
        return response
    query_id = query_id_of(refused.job)
    if query_id is not None:
        try:
            db.session.rollback()  # nothing of this request may hold the row
            with db.engine.begin() as connection:
                rows.fail(connection, query_id, refused.message)
        except Exception as error:  # the user is told of the refusal; the watchdog fails the row
            tell("not_failed", error, job=refused.job)
    if response.status_code < 400:
        return response  # who sent the task has coped without it
    job = chart_job(events, refused) if refused.job.startswith("chart:") else None
    told = flask.jsonify(job or {"errors": rows.errors(refused.message)})
    told.status_code = 202 if job else response.status_code
    for cookie in response.headers.getlist("Set-Cookie"):
        told.headers.add("Set-Cookie", cookie)
    return told


def chart_job(events: Any, refused: Refused) -> dict[str, Any] | None:
    """Return a refused chart's job, whose failure stands in the stream of events already.

    To Superset's pages an answer with a bad status is "Data error", whatever it says. They show
    the reason where the job is accepted and then fails. None where no event can be written.
    """
    try:
        channel = events.parse_channel_id_from_request(flask.request)
        job: dict[str, Any] = events.init_job(channel, None)
        job["job_id"] = refused.job.removeprefix("chart:")
        errors = rows.errors(refused.message)
        events.update_job(job, events.STATUS_ERROR, errors=errors)
    except Exception as error:  # whatever it is, the user is told of the refusal
        tell("not_told", error, job=refused.job)
        return None
    return job


def stop_waiting(db: Any, response: flask.Response) -> flask.Response:
    """Stop a query that still waits, which Superset cannot: there is nothing to cancel yet.

    Superset answers 422 only after it has let the user in, checked the permission to stop queries,
    read the request and found the query by the same client_id. So this stops nothing that
    Superset would not have stopped, had the query been running.
    """
    if flask.request.endpoint != "QueryRestApi.stop_query" or response.status_code != 422:
        return response
    client_id = flask.request.get_json()["client_id"]
    try:
        db.session.rollback()  # nothing of this request may hold the row
        with db.engine.begin() as connection:
            stopped = rows.stop(connection, client_id)
    except Exception as error:  # then Superset's answer is the truth
        tell("not_stopped", error, client_id=client_id)
        return response
    # Its message finds a row that does not wait and is skipped; the watchdog forgets the job.
    return flask.jsonify(result="OK") if stopped else response


# -- The banner -----------------------------------------------------------------------------------
def load_banner(beneath: jinja2.BaseLoader | None) -> jinja2.BaseLoader:
    """Return a loader that adds the banner to what another one loads.

    Superset includes tail_js_custom_extra.html in each page, for its operators. Ours includes the
    one that is there without us, as `beneath/...`, so nobody's own is lost.
    """
    ours = jinja2.FileSystemLoader(TEMPLATES)
    theirs = beneath or jinja2.DictLoader({})
    return jinja2.ChoiceLoader([ours, theirs, jinja2.PrefixLoader({"beneath": theirs})])


def init(app: flask.Flask, guard: Guard) -> None:
    """Add all this to Superset's application."""
    from superset.extensions import (
        async_query_manager,
        celery_app,
        db,
        feature_flag_manager,
        talisman,
    )

    @functools.cache  # Celery's routes do not change, and are not all known before the first call
    def names() -> list[str]:
        charts = feature_flag_manager.is_feature_enabled("GLOBAL_ASYNC_QUERIES")
        route = celery_app.amqp.router.route
        return sorted({route({}, task)["queue"].name for task in QUERIES + CHARTS * charts})

    broker = Broker(celery_app)
    seen = Glance(lambda: look(guard.registry, names(), broker.lengths, guard.wake))
    ready = app.extensions.get(EXTENSION)
    blueprint = pages(seen, names, ready.dependencies if ready else dict)
    app.register_blueprint(blueprint)
    for endpoint in ("fleet.show_health", "fleet.show_metrics"):
        # As Superset's own /health: probes come by plain HTTP, past the load balancer.
        talisman(force_https=False)(app.view_functions[endpoint])
    for limiter in app.extensions.get("limiter", ()):
        limiter.exempt(blueprint)  # which asks Redis more often than this does
    app.after_request(functools.partial(tell_refusal, db, async_query_manager))
    app.after_request(functools.partial(stop_waiting, db))
    app.jinja_loader = load_banner(app.jinja_loader)
