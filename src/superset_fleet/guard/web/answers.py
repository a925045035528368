"""Superset's answers to who sends or stops a query, put right where Superset cannot know better."""

from __future__ import annotations

from typing import Any

import flask

from ...daemon.journal import tell
from ...state import rows
from ...state.jobs import query_id_of
from ..refusals import Refused


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
