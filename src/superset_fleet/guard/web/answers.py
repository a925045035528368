"""Superset's answers to who sends or stops a query, put right where Superset cannot know better."""

from __future__ import annotations

from typing import Any

import flask

from ...daemon.journal import tell
from ...state import rows
from ...state.jobs import query_id_of, query_name
from ..refusals import Refused

WAITS = rows.Row("pending", None)  # a row as Superset makes it
# What Superset leaves out of some of its errors, and its pages read.
ERROR = {"error_type": "GENERIC_BACKEND_ERROR", "level": "error", "extra": {}}


def note_row(_: Any, __: Any, query: Any) -> None:
    """Note that this request made a query's row: SQLAlchemy's event `after_insert`."""
    if flask.has_request_context():
        flask.g.guard_row = query.id


def fail_row(db: Any, query_id: int, *values: Any) -> None:
    """Fail a row as `rows.fail` does; where that fails, the watchdog does it later."""
    try:
        db.session.rollback()  # nothing of this request may hold the row
        with db.engine.begin() as connection:
            rows.fail(connection, query_id, *values)
    except Exception as error:  # whatever it is, the user is told what is to be told
        tell("not_failed", error, job=query_name(query_id))


def keep_error(db: Any, response: flask.Response) -> flask.Response:
    """Write into the row of a query that was not sent what its user is told.

    Superset commits the row before it looks at the SQL. Where it refuses that, it takes back, with
    the rest of the request, that the query failed, and the row waits for a worker for ever.
    """
    query_id = flask.g.pop("guard_row", None)
    if query_id is None or response.status_code < 400:
        return response
    said = response.get_json(silent=True) or {}
    told = said.get("errors") or [
        {"message": said.get("message") or f"Superset refused this query: {response.status}."}
    ]
    errors = [{**ERROR, **error} for error in told]
    fail_row(db, query_id, str(errors[0]["message"]), WAITS, errors)
    return response


def tell_used(db: Any, response: flask.Response) -> flask.Response:
    """Say that a client_id names another query, where Superset takes it for an error of its own."""
    if (
        flask.request.endpoint != "SqlLabRestApi.execute_sql_query"
        or response.status_code != 500
        or "guard_row" in flask.g
    ):
        return response
    client_id = (flask.request.get_json(silent=True) or {}).get("client_id", "")
    try:
        db.session.rollback()  # nothing of this request may hold its own row
        with db.engine.begin() as connection:
            used = rows.is_used(connection, client_id)
    except Exception as error:  # then Superset's answer is the best that is known
        tell("not_told", error, client_id=client_id)
        return response
    if not used:
        return response
    message = (
        f"The client_id '{client_id}' was used for another query before, so this one was not "
        "started and has not touched the database. Send it with a client_id of its own."
    )
    return flask.make_response({"errors": [{**ERROR, "message": message}]}, 409)


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
        fail_row(db, query_id, refused.message)
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
