"""How many requests each user may make in a time: what Superset's own limits ask, and say.

They are Flask-Limiter's, by the settings RATELIMIT_*.
"""

from __future__ import annotations

import math
import time
from typing import Any

import flask

from ..refusals import too_many

PROBES = ("/health", "/healthcheck", "/ping", "/ready", "/fleet/health", "/fleet/metrics")


def caller() -> str:
    """Return whose limit counts: the user's who is logged in, else the address'.

    So an office behind one address is many. The session is signed; no database is asked.
    """
    user = flask.session.get("_user_id")
    return f"user {user}" if user else flask.request.remote_addr or "nobody"


def is_probe() -> bool:
    """Tell whether a request is one of monitoring and load balancers, which no limit is for."""
    return flask.request.path in PROBES


def say_when(limit: Any) -> None:
    """Let the answer to who has exceeded a limit say which it is, and when to try again.

    Superset makes its own answer of the error, so this comes after it.
    """
    seconds = max(1, math.ceil(limit.reset_at - time.time()))
    allowed = limit.limit
    message = (
        f"Too many requests: {allowed} are allowed for each user, or for each address where nobody"
        f" is logged in. Try again in {seconds} s."
    )

    @flask.after_this_request
    def answer(_: flask.Response) -> flask.Response:
        told = flask.jsonify(too_many(message))
        told.status_code = 429
        told.headers["Retry-After"] = str(seconds)
        told.headers["Cache-Control"] = "no-store"
        return told
