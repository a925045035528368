"""/fleet/health and /fleet/metrics.

Nobody logs in for them, so they name no machine, address or query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import flask

from .metrics import PROMETHEUS, metrics
from .queues import QueueState, QueuesUnknown, State


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


def routes(
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
        except QueuesUnknown:  # whose reason the dependencies tell
            known = None
        return flask.Response(metrics(known, dependencies()), content_type=PROMETHEUS)

    @blueprint.errorhandler(QueuesUnknown)
    def show_unknown(unknown: QueuesUnknown) -> Any:
        return {"status": "unknown", "reason": str(unknown)}, 503

    @blueprint.after_request
    def keep_nothing(response: flask.Response) -> flask.Response:
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint
