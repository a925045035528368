"""See superset."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import sqlglot
from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded
from flask import current_app

from superset import db
from superset.extensions import celery_app
from superset.models.core import Database
from superset.models.sql_lab import Query


class Stopped(Exception):
    """The query was stopped by its user."""


def execute(
    statements: list[str], step: Callable[[int, int], object] = lambda *_: None
) -> tuple[list[Any], int]:
    """Run statements in one transaction and return the last one's rows, and how many.

    `step` is called before each of them with its number and the id of the database's process.
    """
    with db.session.get(Database, 1).get_raw_connection() as connection:
        with connection.cursor() as cursor:
            for number, statement in enumerate(statements):
                step(number, connection.dbapi_connection.get_backend_pid())
                cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
            count = cursor.rowcount
        connection.commit()
    return rows, count


def keep(rows: list[Any]) -> str:
    """Write rows into the results backend and return their key."""
    key = str(uuid.uuid4())
    assert current_app.config["RESULTS_BACKEND"].set(key, json.dumps(rows))
    return key


@celery_app.task(name="sql_lab.get_sql_results", time_limit=21660)  # type: ignore[untyped-decorator]
def get_sql_results(query_id: int, rendered_query: str) -> None:
    """Run a query of SQL Lab, and keep its rows."""
    try:
        execute_sql_statements(query_id, rendered_query)
    except Exception as error:
        handle_query_error(error, db.session.get(Query, query_id))


def execute_sql_statements(query_id: int, rendered_query: str) -> None:
    """Run a query, with a row that is written at each step."""
    query = db.session.get(Query, query_id)
    statements = [
        each.sql("postgres") for each in sqlglot.parse(rendered_query, "postgres") if each
    ]
    if query.select_as_cta:
        statements[-1] = f"create table {query.tmp_table_name} as {statements[-1]}"
    query.executed_sql = f"-- {current_task.request.hostname}\n{rendered_query}"
    query.start_running_time = time.time() * 1000
    query.status = "running"

    def step(number: int, process: int) -> None:
        if number == 0:
            query.set_extra("cancel_query", process)
            db.session.commit()
        db.session.refresh(query)
        if query.status == "stopped":
            raise Stopped
        query.set_extra("progress", f"Running statement {number + 1} of {len(statements)}")
        query.progress = 100 * number // len(statements)
        db.session.commit()

    try:
        rows, query.rows = execute(statements, step)
    except Stopped:
        return
    except SoftTimeLimitExceeded as error:
        query.status = "timed_out"
        raise TimeoutError("The query exceeded the time limit.") from error
    query.progress, query.end_time = 100, time.time() * 1000
    query.set_extra("progress", None)
    if not query.select_as_cta:
        query.results_key = keep(rows)
    query.status = "success"
    db.session.commit()


def handle_query_error(error: Exception, query: Query) -> None:
    """Write down that a query failed."""
    db.session.refresh(query)
    if query.status == "stopped":
        return
    query.error_message = str(error)
    query.tmp_table_name = None
    query.status = "failed"
    query.end_time = query.end_time or time.time() * 1000
    db.session.flush()  # as where Superset reads the database's record to look into the error
    query.set_extra("errors", [{"message": str(error)}])
    db.session.commit()
