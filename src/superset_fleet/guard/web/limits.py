"""How many requests each user may make in a time: what Superset's own limits ask, and say.

They are Flask-Limiter's, by the settings RATELIMIT_*.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import flask

from ...daemon.journal import tell
from ..refusals import too_many

# Failed logins of an account from an address, and of all accounts from it. Nobody else can lock an
# account so, and the lock ends.
FAILURES = {"10 per 5 minute": "account", "100 per 5 minute": "address"}
LOGINS = ("/login/", "/api/v1/security/login")
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


def install(app: flask.Flask) -> None:
    """Let nobody try passwords at will, by the form or the API, and write down failed logins.

    Superset limits the page of the form alone, not what takes the password.
    """
    keys = {"account": account, "address": address}
    for rule in list(app.url_map.iter_rules()):
        if rule.rule in LOGINS and "POST" in (rule.methods or ()):
            for limiter in app.extensions.get("limiter", ()):
                for words, key in FAILURES.items():
                    limited = limiter.limit(
                        words, key_func=keys[key], methods=["POST"], deduct_when=has_failed
                    )
                    app.view_functions[rule.endpoint] = limited(app.view_functions[rule.endpoint])
    app.after_request(tell_failure)


def address() -> str:
    """Return whence a login comes."""
    return f"login from {flask.request.remote_addr}"


def account() -> str:
    """Return which account a login is for, and whence it comes."""
    given = flask.request.form or flask.request.get_json(silent=True)
    name = given.get("username") if isinstance(given, Mapping) else ""
    return f"{address()} as {str(name).lower()[:100]}"


def is_login() -> bool:
    """Tell whether a request is a login."""
    return flask.request.method == "POST" and flask.request.path in LOGINS


def has_failed(response: flask.Response) -> bool:
    """Tell whether a login has failed. The form's answer is a redirection either way."""
    if flask.request.path == LOGINS[0]:
        return response.status_code < 400 and "_user_id" not in flask.session
    return response.status_code == 401


def tell_failure(response: flask.Response) -> flask.Response:
    """Write down a failed login."""
    if is_login() and has_failed(response):
        tell("login_failed", login=account())
    return response


def say_when(limit: Any) -> None:
    """Let the answer to who has exceeded a limit say which it is, and when to try again.

    Superset makes its own answer of the error, so this comes after it.
    """
    seconds = max(1, math.ceil(limit.reset_at - time.time()))
    allowed = limit.limit
    if is_login():
        message = f"Too many failed logins: {allowed} are allowed. Try again in {seconds} s."
    else:
        message = (
            f"Too many requests: {allowed} are allowed for each user, or for each address where"
            f" nobody is logged in. Try again in {seconds} s."
        )

    @flask.after_this_request
    def answer(_: flask.Response) -> flask.Response:
        told = flask.jsonify(too_many(message))
        told.status_code = 429
        told.headers["Retry-After"] = str(seconds)
        told.headers["Cache-Control"] = "no-store"
        return told
