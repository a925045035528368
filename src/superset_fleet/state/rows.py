"""What the guard and the watchdog do to rows of Superset's table `query`, each in one transaction.

A run owns its row by the pair (status `running`, start_running_time), which the database gave it
when it claimed the row. Whoever changes the row names the pair that it saw, so a run that lost
its row writes nothing more, however long it was paused. Times are the database's: clocks of
machines may be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import sqlalchemy

UTC_NOW = "(clock_timestamp() at time zone 'utc')"
MILLISECONDS = "round(extract(epoch from clock_timestamp())::numeric * 1000, 3)"
UNFINISHED = "pending", "running"
ISSUE = {"code": 1035, "message": "Issue 1035 - Failed to start remote query on a worker."}


class Row(NamedTuple):
    """Status of a query and the time that its run began, None while it has not."""

    status: str
    token: Decimal | None


class Claim(NamedTuple):
    """What a run needs to know of the query that it claimed."""

    token: Decimal
    database_id: int
    creates_table: bool  # of its SELECT (CREATE TABLE AS)


def errors(message: str) -> list[dict[str, Any]]:
    """Return an error as Superset's clients read it; SQL Lab titles it "Query worker Error"."""
    extra = {"engine_name": "Query worker", "issue_codes": [ISSUE]}
    error_type = "ASYNC_WORKERS_ERROR"
    return [{"message": message, "error_type": error_type, "level": "error", "extra": extra}]


def claim(connection: Any, query_id: int) -> Claim | None:
    """Make a pending query a running one; None where it was not pending."""
    statement = sqlalchemy.text(
        f"update query set status = 'running', start_running_time = {MILLISECONDS},"
        f" changed_on = {UTC_NOW} where id = :id and status = 'pending'"
        " returning start_running_time, database_id, coalesce(select_as_cta, false)"
    )
    row = connection.execute(statement, {"id": query_id}).fetchone()
    return Claim(*row) if row else None


def look(connection: Any, query_id: int, lock: bool = False) -> Row | None:
    """Return a query's row, None where there is none; with `lock` nobody changes it meanwhile."""
    statement = f"select status, start_running_time from query where id = :id{' for update' * lock}"
    row = connection.execute(sqlalchemy.text(statement), {"id": query_id}).fetchone()
    return Row(*row) if row else None


def look_at(connection: Any, query_ids: Iterable[int]) -> dict[int, Row]:
    """Return the rows of several queries, by id."""
    statement = sqlalchemy.text(
        "select id, status, start_running_time from query where id = any(:ids)"
    )
    found = connection.execute(statement, {"ids": list(query_ids)})
    return {query_id: Row(status, token) for query_id, status, token in found}


def unfinished(connection: Any, newest: int | None = None) -> dict[int, Row]:
    """Return pending and running queries, of all or of as many of the newest rows."""
    statement = sqlalchemy.text(
        "select id, status, start_running_time from query where status in ('pending', 'running')"
        " and id > (select coalesce(max(id), 0) from query) - :newest"
    )
    found = connection.execute(statement, {"newest": newest or 2**31})
    return {query_id: Row(status, token) for query_id, status, token in found}


def others_of_user(connection: Any, query_id: int, most: int) -> int:
    """Return how many unfinished queries the user of a query has besides, counted up to `most`.

    A row that did not change for a day is none: the watchdog fails what nobody runs.
    """
    statement = sqlalchemy.text(
        "select count(*) from (select from query other join query mine using (user_id)"
        " where mine.id = :id and other.id <> :id and other.status in ('pending', 'running')"
        f" and other.changed_on > {UTC_NOW} - interval '1 day' limit :most) counted"
    )
    return int(connection.execute(statement, {"id": query_id, "most": most}).scalar())


def retry(connection: Any, query_id: int, seen: Row) -> bool:
    """Let a query wait again; False where its row is no more what was seen."""
    if look(connection, query_id, lock=True) != seen:
        return False
    statement = sqlalchemy.text(
        "update query set status = 'pending', start_running_time = null, progress = 0,"
        f" changed_on = {UTC_NOW} where id = :id"
    )
    connection.execute(statement, {"id": query_id})
    return True


def note(connection: Any, query_id: int, message: str, seen: Row) -> bool:
    """Let SQL Lab show a message of a query; False where its row is no more what was seen.

    It stands where Superset says how far a query is, and a run first of all writes there.
    """
    if look(connection, query_id, lock=True) != seen:
        return False
    extra = {**extra_of(connection, query_id), "progress": message}
    statement = sqlalchemy.text(
        f"update query set extra_json = :extra, changed_on = {UTC_NOW} where id = :id"
    )
    connection.execute(statement, {"id": query_id, "extra": json.dumps(extra)})
    return True


def extra_of(connection: Any, query_id: int) -> dict[str, Any]:
    """Return what Superset keeps of a query beside the columns."""
    statement = sqlalchemy.text("select extra_json from query where id = :id")
    text = connection.execute(statement, {"id": query_id}).scalar()
    return dict(json.loads(text or "{}"))


def fail(
    connection: Any,
    query_id: int,
    message: str,
    seen: Row | None = None,
    told: list[dict[str, Any]] | None = None,
) -> bool:
    """End a query with an error; False where it is finished, or its row no more what was seen.

    `told` are the errors that its user was told, where these are not just the message.
    """
    row = look(connection, query_id, lock=True)
    if row is None or row.status not in UNFINISHED or (seen and row != seen):
        return False
    extra = {**extra_of(connection, query_id), "errors": told or errors(message), "progress": None}
    statement = sqlalchemy.text(
        "update query set status = 'failed', error_message = :message, extra_json = :extra,"
        f" tmp_table_name = null, end_time = {MILLISECONDS}, changed_on = {UTC_NOW} where id = :id"
    )
    values = {"id": query_id, "message": message, "extra": json.dumps(extra)}
    connection.execute(statement, values)
    return True


def is_used(connection: Any, client_id: str) -> bool:
    """Return whether a query has this client_id."""
    statement = sqlalchemy.text("select 1 from query where client_id = :client_id")
    return connection.execute(statement, {"client_id": client_id}).fetchone() is not None


def stop(connection: Any, client_id: str) -> bool:
    """Stop a query that waits; False where it does not wait any more."""
    statement = sqlalchemy.text(
        f"update query set status = 'stopped', end_time = {MILLISECONDS}, changed_on = {UTC_NOW}"
        " where client_id = :client_id and status = 'pending'"
    )
    return bool(connection.execute(statement, {"client_id": client_id}).rowcount)
