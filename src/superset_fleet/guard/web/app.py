"""All that clients see of the fleet, in Superset's application."""

from __future__ import annotations

import functools

import flask
import sqlalchemy

from ...state.jobs import CHARTS, QUERIES
from ..context import Guard
from . import ready
from .answers import keep_error, note_row, stop_waiting, tell_refusal, tell_used
from .banner import load_banner
from .pages import routes
from .queues import Broker, Glance, look_at_queues


def add_pages(app: flask.Flask, guard: Guard) -> None:
    """Add all this to Superset's application."""
    from superset.extensions import (
        async_query_manager,
        celery_app,
        db,
        feature_flag_manager,
        talisman,
    )
    from superset.models.sql_lab import Query

    @functools.cache  # Celery's routes do not change, and are not all known before the first call
    def names() -> list[str]:
        charts = feature_flag_manager.is_feature_enabled("GLOBAL_ASYNC_QUERIES")
        route = celery_app.amqp.router.route
        return sorted({route({}, task)["queue"].name for task in QUERIES + CHARTS * charts})

    broker = Broker(celery_app)
    seen = Glance(lambda: look_at_queues(guard.registry, names(), broker.lengths, guard.wake))
    readiness = app.extensions.get(ready.READY_EXTENSION)
    blueprint = routes(seen, names, readiness.dependencies if readiness else dict)
    app.register_blueprint(blueprint)
    for endpoint in ("fleet.show_health", "fleet.show_metrics"):
        # As Superset's own /health: probes come by plain HTTP, past the load balancer.
        talisman(force_https=False)(app.view_functions[endpoint])
    for limiter in app.extensions.get("limiter", ()):
        limiter.exempt(blueprint)  # which asks Redis more often than this does
    sqlalchemy.event.listen(Query, "after_insert", note_row)
    # The last one comes first.
    app.after_request(functools.partial(keep_error, db))
    app.after_request(functools.partial(tell_used, db))
    app.after_request(functools.partial(tell_refusal, db, async_query_manager))
    app.after_request(functools.partial(stop_waiting, db))
    app.jinja_loader = load_banner(app.jinja_loader)
