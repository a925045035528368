"""A user of Superset, who sends queries through the load balancer and sees how they end."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from superset_fleet.control.superset import Superset, SupersetError, rison

ENDED = {"success", "failed", "stopped", "timed_out"}


@dataclass
class Query:
    """A query that was sent. One that was refused has no id that its user knows."""

    sql: str
    client_id: str
    sent_at: float  # seconds since 1970
    id: int = 0
    status: str = "pending"
    error: str = ""
    results_key: str = ""
    host: str = ""  # of the machine whose worker ran it, as the query is signed
    answered_in: float = 0.0  # seconds
    http_status: int = 202
    stopped: bool = False  # by its user


@dataclass
class User:
    """A session with Superset. Not for several threads at once."""

    url: str
    ca_certificate: str
    password: str = field(repr=False)
    username: str = "admin"
    database: str = "warehouse"
    sent: list[Query] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Longer than HAProxy waits: what is seen is the fleet's answer.
        self.superset = Superset(self.url, self.ca_certificate, timeout=180)
        self.superset.log_in(self.username, self.password)
        self.database_id = self.superset.find_database(self.database)

    # -- SQL Lab ----------------------------------------------------------------------------------
    def send(self, sql: str, **options: Any) -> Query:
        """Send a query. Where it is refused, the query says so."""
        query = Query(sql, secrets.token_hex(5), time.time())
        self.sent.append(query)
        request = {
            "database_id": self.database_id,
            "sql": sql,
            "queryLimit": 1000,
            "runAsync": True,
            "client_id": query.client_id,
            **options,
        }
        begin = time.monotonic()
        try:
            answer = self.superset.ask("send", "POST", "/api/v1/sqllab/execute/", request)
            query.id = answer["query"]["queryId"]
        except SupersetError as error:
            query.status, query.error = "refused", str(error)
            query.http_status = error.status
        query.answered_in = time.monotonic() - begin
        return query

    def look(self, query: Query) -> Query:
        """Ask how a query is."""
        path = f"/api/v1/query/{query.id}"
        record = self.superset.ask(f"look at query {query.id}", "GET", path)["result"]
        signed = re.match(r"-- superset celery_worker on (\S+)\n", record["executed_sql"] or "")
        query.host = signed[1] if signed else ""
        return self._note(query, record["status"], record["error_message"], record["results_key"])

    def look_at_all(self, queries: Iterable[Query], since: float) -> float:
        """Ask once how one's queries are, as SQL Lab does: only of what changed since then.

        `since` is in milliseconds since 1970; returns when the newest change was.
        """
        known = {query.id: query for query in queries}
        path = "/api/v1/query/updated_since"
        answer = self.superset.ask(
            "look at queries", "GET", path, query=f"(last_updated_ms:{since:.0f})"
        )
        for record in answer["result"]:
            changed_on = datetime.fromisoformat(record["changed_on"]).replace(tzinfo=UTC)
            since = max(since, changed_on.timestamp() * 1000)
            if query := known.get(record["queryId"]):
                self._note(query, record["state"], record["errorMessage"], record["resultsKey"])
        return since

    def wait(self, queries: Iterable[Query], timeout: float = 90) -> list[Query]:
        """Wait until queries have ended, and return them.

        Raises TimeoutError with the state of those that have not.
        """
        queries = list(queries)
        deadline = time.monotonic() + timeout
        while waiting := [each for each in queries if each.id and each.status not in ENDED]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ended after {timeout} s: {waiting}")
            time.sleep(0.2)
            for query in waiting:
                self.look(query)
        return queries

    def watch(self, queries: Iterable[Query], timeout: float = 90) -> None:
        """Wait until queries have ended by what changed since the last change, as SQL Lab does.

        Raises TimeoutError with the state of those whose end was not seen.
        """
        queries = list(queries)
        deadline = time.monotonic() + timeout
        since = min(query.sent_at for query in queries) * 1000
        while any(each.status not in ENDED for each in queries):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not seen to end in {timeout} s: {queries}")
            time.sleep(0.2)
            since = self.look_at_all(queries, since - 5000)

    def rows(self, query: Query) -> list[dict[str, Any]]:
        """Return the rows of a query that has succeeded. Raises SupersetError."""
        key = f"(key:{rison(query.results_key)})"
        path = "/api/v1/sqllab/results/"
        answer = self.superset.ask(f"fetch the result of query {query.id}", "GET", path, query=key)
        return list(answer["data"])

    def stop(self, query: Query, timeout: float = 30) -> None:
        """Stop a query. Raises SupersetError where that cannot be.

        One that has only just begun cannot be stopped in Superset for a moment.
        """
        query.stopped = True
        deadline = time.monotonic() + timeout
        while True:
            body = {"client_id": query.client_id}
            try:
                self.superset.ask("stop", "POST", "/api/v1/query/stop", body)
                return
            except SupersetError as error:
                if error.status != 422 or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    @staticmethod
    def _note(query: Query, status: str, error: str | None, key: str | None) -> Query:
        query.status, query.error, query.results_key = status, error or "", key or ""
        return query

    # -- The database, as an administrator --------------------------------------------------------
    def allow(self, **permissions: bool) -> dict[str, bool]:
        """Change what SQL Lab may do on the database, and return how that was."""
        path = f"/api/v1/database/{self.database_id}"
        said = self.superset.ask("read the database", "GET", path)["result"]
        body = {"database_name": self.database, **permissions}
        self.superset.ask("change the database", "PUT", path, body)
        return {name: said[name] for name in permissions}

    # -- Charts -----------------------------------------------------------------------------------
    def make_dataset(self, name: str, sql: str) -> int:
        """Make a dataset of SQL and return its id."""
        body = {"database": self.database_id, "schema": "", "table_name": name, "sql": sql}
        return int(self.superset.ask("make a dataset", "POST", "/api/v1/dataset/", body)["id"])

    def remove_dataset(self, dataset: int) -> None:
        """Remove a dataset."""
        self.superset.ask("remove a dataset", "DELETE", f"/api/v1/dataset/{dataset}")

    def ask_chart(self, dataset: int, column: str, **query: Any) -> str:
        """Ask for a chart's data anew and return the id of the job. Raises SupersetError."""
        body = {
            "datasource": {"id": dataset, "type": "table"},
            "force": True,
            "queries": [{"columns": [column], "metrics": [], "row_limit": 10, **query}],
            "result_format": "json",
            "result_type": "full",
        }
        answer = self.superset.ask("ask for a chart", "POST", "/api/v1/chart/data", body)
        return str(answer["job_id"])

    def events(self, job: str) -> list[Mapping[str, Any]]:
        """Return the events that a chart's job had, first to last."""
        answer = self.superset.ask("read events", "GET", "/api/v1/async_event/")
        return [event for event in answer["result"] if event["job_id"] == job]

    def wait_for_chart(self, job: str, timeout: float = 90) -> Mapping[str, Any]:
        """Wait until a chart's job has ended and return its last event."""
        deadline = time.monotonic() + timeout
        while not (events := self.events(job)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"chart {job} had no event for {timeout} s")
            time.sleep(0.2)
        return events[-1]

    def chart_rows(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of a chart whose data are there."""
        answer = self.superset.ask("fetch a chart", "GET", event["result_url"])
        return list(answer["result"][0]["data"])
