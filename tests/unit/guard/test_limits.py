"""Limits of requests and of logins, by a real Flask-Limiter, with the settings of the role."""

from __future__ import annotations

import logging
from typing import Any

import flask
import pytest
from flask_limiter import Limiter
from werkzeug.exceptions import HTTPException

from superset_fleet.guard.web import limits

FORM, API = limits.LOGINS


@pytest.fixture
def app() -> flask.Flask:
    """An application that answers as Superset does."""
    app = flask.Flask("superset")
    app.secret_key = "secret"
    app.config.update(
        RATELIMIT_ENABLED=True,
        RATELIMIT_APPLICATION="30 per minute",
        RATELIMIT_APPLICATION_EXEMPT_WHEN=limits.is_probe,
        RATELIMIT_KEY_FUNC=limits.caller,
        RATELIMIT_ON_BREACH_CALLBACK=limits.say_when,
        RATELIMIT_STORAGE_URI="memory://",
    )
    Limiter(key_func=app.config["RATELIMIT_KEY_FUNC"]).init_app(app)

    @app.errorhandler(HTTPException)
    def as_superset_does(error: HTTPException) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, error.code or 500

    @app.get("/page")
    def page() -> str:
        return "page"

    @app.get("/health")
    def health() -> str:
        return "OK"

    @app.route(FORM, methods=["GET", "POST"])
    def form() -> Any:
        if flask.request.form.get("password") != "right":
            return flask.redirect(FORM)
        flask.session["_user_id"] = "1"
        return flask.redirect("/")

    @app.post(API)
    def api() -> Any:
        right = flask.request.get_json()["password"] == "right"
        return ({}, 200) if right else ({}, 401)

    limits.install(app)
    return app


def client(app: flask.Flask, user: str = "") -> Any:
    made = app.test_client()
    if user:
        with made.session_transaction() as session:
            session["_user_id"] = user
    return made


def log_in(
    app: flask.Flask, name: str, password: str, address: str = "192.0.2.7", path: str = FORM
) -> Any:
    given = {"username": name, "password": password}
    asked = {"json": given} if path == API else {"data": given}
    return client(app).post(path, environ_base={"REMOTE_ADDR": address}, **asked)


# -- Requests -------------------------------------------------------------------------------------
def test_each_user_behind_one_address_has_a_limit_of_their_own(app: flask.Flask) -> None:
    for user in ("", "1", "2"):
        asks = client(app, user)
        assert [asks.get("/page").status_code for _ in range(31)] == [200] * 30 + [429]


def test_a_session_that_nobody_signed_is_nobody_s(app: flask.Flask) -> None:
    for number in range(31):
        forger = client(app)
        forger.set_cookie("session", f"eyJfdXNlcl9pZCI6IjEifQ.aCk.forged{number}")
        status = forger.get("/page").status_code
    assert status == 429


def test_who_exceeds_a_limit_is_told_which_and_when_to_try_again(app: flask.Flask) -> None:
    asks = client(app)
    for _ in range(31):
        reply = asks.get("/page")
    assert 0 < int(reply.headers["Retry-After"]) <= 61
    message = reply.get_json()["errors"][0]["message"]
    assert "30 per 1 minute" in message and "Try again in" in message


def test_probes_have_no_limit(app: flask.Flask) -> None:
    asks = client(app)
    assert {asks.get("/health").status_code for _ in range(100)} == {200}


# -- Logins ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [FORM, API])
def test_failed_logins_lock_an_account_for_the_address_that_they_come_from(
    app: flask.Flask, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failed = [log_in(app, "ann", "wrong", path=path).status_code for _ in range(11)]
    assert failed == [302 if path == FORM else 401] * 10 + [429]
    locked = log_in(app, "Ann", "right", path=path)
    assert (locked.status_code, int(locked.headers["Retry-After"]) > 60) == (429, True)
    assert "Too many failed logins" in locked.get_json()["message"]
    assert log_in(app, "bob", "right", path=path).status_code in (200, 302)
    assert log_in(app, "ann", "right", "192.0.2.8", path).status_code in (200, 302)
    told = [record.message for record in caplog.records]
    assert told == ['event=login_failed login="login from 192.0.2.7 as ann"'] * 10


@pytest.mark.parametrize("path", [FORM, API])
def test_logins_that_succeed_lock_nobody_out(app: flask.Flask, path: str) -> None:
    assert 429 not in {log_in(app, "ann", "right", path=path).status_code for _ in range(25)}


def test_passwords_are_not_tried_on_many_accounts(app: flask.Flask) -> None:
    statuses = []
    for number in range(101):
        # Each of a user's who is logged in elsewhere, so that only failures count.
        asks = client(app, f"{number % 10}")
        reply = asks.post(API, json={"username": f"user{number}", "password": "wrong"})
        statuses.append(reply.status_code)
    assert statuses == [401] * 100 + [429]
