"""Whose limit of requests counts, and what is said when it is exceeded."""

import time
from types import SimpleNamespace

import flask
import pytest
from werkzeug.exceptions import HTTPException, TooManyRequests

from superset_fleet.guard.web import limits


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask("superset")
    app.secret_key = "secret"

    @app.errorhandler(HTTPException)
    def as_superset_does(error: HTTPException) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, error.code or 500

    @app.get("/caller")
    def show() -> str:
        return limits.caller()

    @app.get("/page")
    def refuse() -> str:
        limits.say_when(SimpleNamespace(limit="50 per 1 second", reset_at=time.time() + 3))
        raise TooManyRequests

    return app


def test_each_user_behind_one_address_has_a_limit_of_their_own(app: flask.Flask) -> None:
    def caller(user: str = "", address: str = "192.0.2.7") -> str:
        client = app.test_client()
        with client.session_transaction() as session:
            session.update({"_user_id": user} if user else {})
        return client.get("/caller", environ_base={"REMOTE_ADDR": address}).text

    assert caller() == caller() == "192.0.2.7"
    assert len({caller(), caller(address="192.0.2.8"), caller("1"), caller("2")}) == 4
    assert caller("1") == caller("1", "192.0.2.8")


def test_a_session_that_nobody_signed_is_nobody_s(app: flask.Flask) -> None:
    client = app.test_client()
    client.set_cookie("session", "eyJfdXNlcl9pZCI6IjEifQ.aCk.forged")
    assert client.get("/caller").text == "127.0.0.1"


def test_who_exceeds_a_limit_is_told_which_and_when_to_try_again(app: flask.Flask) -> None:
    reply = app.test_client().get("/page")
    assert reply.status_code == 429
    assert reply.headers["Retry-After"] in ("2", "3")
    message = reply.get_json()["errors"][0]["message"]
    assert "50 per 1 second" in message and "Try again in" in message


@pytest.mark.parametrize(
    ("path", "probe"), [("/health", True), ("/fleet/health?min=2", True), ("/login/", False)]
)
def test_probes_have_no_limit(app: flask.Flask, path: str, probe: bool) -> None:
    with app.test_request_context(path):
        assert limits.is_probe() is probe
