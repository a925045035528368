#!/usr/bin/python
"""Run a query in Superset as its users do, and return what they would see."""

from __future__ import annotations

DOCUMENTATION = r"""
module: superset_query
short_description: Run a query in Superset as its users do, and return what they would see
description:
  - Logs in, hands SQL to SQL Lab, waits for a Celery worker to run it, and fetches the result.
  - So it goes the whole way of a user's query. Through the load balancer to a web server, by the
    broker to a worker, to the database, into the results Redis, and back. When it fails, the
    message says where on this way and what to check.
  - Superset keeps no record of the worker that ran a query, so none is returned.
  - In check mode the query is not run and the task is skipped.
options:
  url:
    description: Address of Superset as its users have it, without a path.
    type: str
    required: true
  username:
    description: Superset user who may use SQL Lab and the database.
    type: str
    default: admin
  password:
    description: Password of O(username).
    type: str
    required: true
  ca_certificate:
    description:
      - PEM of the only certificate authority to trust.
      - When empty, those of the system are trusted.
    type: str
    default: ""
  database:
    description: Name of the database connection in Superset.
    type: str
    required: true
  schema:
    description: Schema in which the database looks first. When left out, its own default.
    type: str
  sql:
    description: The query. Superset refuses what the connection does not allow.
    type: str
    required: true
  limit:
    description: Rows to return at most.
    type: int
    default: 1000
  timeout:
    description:
      - Seconds to wait, from submission until the query has finished.
      - A query that still runs then is stopped. One that no worker has taken cannot be stopped
        in Superset, and runs when a worker takes it.
    type: int
    default: 60
  changes:
    description:
      - Whether the query changes something, and so whether the task reports a change.
      - The module does not guess it from the SQL.
    type: bool
    default: false
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Count the flights
  superset_query:
    url: https://superset.example.com
    password: "{{ superset_admin_password }}"
    database: warehouse
    sql: select count(*) as flights from flights
  register: count

- name: Forget old flights
  superset_query:
    url: https://superset.example.com
    password: "{{ superset_admin_password }}"
    database: warehouse
    sql: delete from flights where year < 2013
    changes: true
"""

RETURN = r"""
query_id:
  description: Superset's id of the query, as in its query history.
  returned: success
  type: int
  sample: 42
columns:
  description: Names of the columns, in the query's order.
  returned: success
  type: list
  elements: str
  sample: [flights]
rows:
  description: The rows, each a dictionary of column name and value.
  returned: success
  type: list
  elements: dict
  sample: [{"flights": 336776}]
worker:
  description:
    - Host name of the machine whose worker ran the query, as the query was signed with it by the
      fleet's SQL_QUERY_MUTATOR.
    - Empty where the configuration's overrides have another one.
  returned: success
  type: str
  sample: ip-10-80-4-7
seconds:
  description:
    - Seconds after the submission at which a worker C(started) the query and C(finished) it, by
      the clocks of the fleet's machines, and at which its result was C(fetched), by the clock of
      the machine on which this module runs.
  returned: success
  type: dict
  sample: {"started": 0.03, "finished": 0.1, "fetched": 0.26}
"""

import re
import secrets
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.control.superset import (
    SESSION_OPTIONS,
    Superset,
    SupersetError,
    rison,
)

ENDED = {"success", "failed", "stopped", "timed_out"}
WORKERS = "systemctl status celery-worker on the celery_worker machines"
# What to check, by the state in which a query hangs.
HANGS = {
    "pending": (
        "no Celery worker has begun it. Check that workers are up and read the queue sql_lab"
        f" ({WORKERS}), that they reach the coordination Redis, and that they are not all busy. If"
        " their log (journalctl -u celery-worker) says that a key cannot be decrypted, they have"
        " another SECRET_KEY (superset_secret_key) than the web servers. The query stays queued"
        " and runs when a worker takes it"
    ),
    "running": (
        "a worker has taken it and has not finished it. Either it needs longer: give a longer"
        f" timeout; or its worker is gone ({WORKERS}) and the watchdog does not run, which would"
        " have failed it: systemctl status fleet-watchdog on the scheduler machines"
    ),
}
# What to check, by a part of Superset's message.
CAUSES = {
    "No worker takes queries": WORKERS,
    "The message broker": "systemctl status redis-server@coordination",
    "Invalid decryption key": (
        "what Superset saved was encrypted under another SECRET_KEY: web servers and workers must"
        " all have the same superset_secret_key; run playbooks/site.yml"
    ),
    "Failed to start remote query on a worker": (
        "the web server cannot hand over the query: check the coordination Redis (systemctl status"
        " redis-server@coordination) and that the superset_web machines reach it"
    ),
    # What redis-py says; the database's drivers say "connection to".
    " connecting to ": (
        "the result cannot be stored or read: check the results Redis (systemctl status"
        " redis-server@results) and that celery_worker and superset_web machines reach it"
    ),
    "Failed to store query results": (
        "the results Redis refuses to write: check its memory (redis_results_memory_mb) and its log"
        " (journalctl -u redis-server@results)"
    ),
}
LOST = (
    "the query has succeeded, but its result is not in the results Redis: it was lost when"
    " Redis was killed, evicted for want of memory, or kept for too short a time. Check systemctl"
    " status redis-server@results, its maxmemory, and superset_results_ttl_seconds"
)


def advice(reason: str) -> str:
    """Return the reason, with what to check added where Superset's message has a known cause."""
    checks = [check for part, check in CAUSES.items() if part in reason]
    return "; ".join([reason.strip().rstrip("."), *checks])


def hang(state: str, seconds: int) -> str:
    """Return what it means that a query has not finished in time."""
    check = HANGS.get(state, f"see its worker's log: {WORKERS}")
    return f"still {state} after {seconds} s: {check}"


def submit(superset: Superset, options: dict[str, Any]) -> dict[str, Any]:
    """Hand the query to the workers and return Superset's record of it."""
    name = options["database"]
    database = superset.find_database(name)
    if database is None:
        raise SupersetError(
            f"find database {name}", "Superset has none of this name that this user may see"
        )
    request = {
        "database_id": database,
        "schema": options["schema"],
        "sql": options["sql"],
        "queryLimit": options["limit"],
        "runAsync": True,
        "client_id": secrets.token_hex(5),  # names the query in the request that stops it
    }
    action = f"submit the query to database {name}"
    answer = superset.ask(action, "POST", "/api/v1/sqllab/execute/", request)
    return {"id": answer["query"]["queryId"], "client_id": request["client_id"]}


def stop(superset: Superset, query: dict[str, Any]) -> str:
    """Stop a running query and return what came of it, as the end of a message."""
    body = {"client_id": query["client_id"]}
    try:
        superset.ask(f"stop query {query['id']}", "POST", "/api/v1/query/stop", body)
    except SupersetError as error:
        return f". It could not be stopped: {error}"
    return ". It was stopped"


def await_end(superset: Superset, query: dict[str, Any], timeout: int) -> dict[str, Any]:
    """Return the record of a query that has succeeded.

    Raises SupersetError when it fails, and, after stopping it, when it takes longer than timeout.
    """
    action = f"run query {query['id']}"
    deadline = time.monotonic() + timeout
    pause = 0.05
    while True:
        path = f"/api/v1/query/{query['id']}"
        record: dict[str, Any] = superset.ask(f"watch query {query['id']}", "GET", path)["result"]
        state = record["status"]
        if state == "success":
            return record
        if state in ENDED:
            reason = record["error_message"] or "no reason given"
            raise SupersetError(action, f"{state}: {reason}")
        if time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, 1)
    stopped = stop(superset, query) if state == "running" else ""
    raise SupersetError(action, hang(state, timeout) + stopped)


def fetch(superset: Superset, record: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a query that has succeeded."""
    action = f"fetch the result of query {record['id']}"
    if not record["results_key"]:
        raise SupersetError(action, LOST)
    key = f"(key:{rison(record['results_key'])})"
    try:
        result: dict[str, Any] = superset.ask(action, "GET", "/api/v1/sqllab/results/", query=key)
    except SupersetError as error:
        if error.status != 410:
            raise
        raise SupersetError(action, LOST, 410) from None
    return result


def worker(executed_sql: str | None) -> str:
    """Return the host name of the worker that signed the SQL which the database was sent."""
    signature = re.match(r"-- superset celery_worker on (\S+)\n", executed_sql or "")
    return signature[1] if signature else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **SESSION_OPTIONS,
            "database": {"type": "str", "required": True},
            "schema": {"type": "str"},
            "sql": {"type": "str", "required": True},
            "limit": {"type": "int", "default": 1000},
            "timeout": {"type": "int", "default": 60},
            "changes": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    if module.check_mode:
        module.exit_json(changed=options["changes"], skipped=True, msg="queries are not run")
    try:
        superset = Superset(options["url"], options["ca_certificate"])
        superset.log_in(options["username"], options["password"])
        submitted = time.monotonic()
        query = submit(superset, options)
        record = await_end(superset, query, options["timeout"])
        result = fetch(superset, record)
        fetched = time.monotonic() - submitted
    except SupersetError as error:
        module.fail_json(msg=advice(str(error)))
    begin = float(record["start_time"])
    module.exit_json(
        changed=options["changes"],
        query_id=query["id"],
        columns=[column["column_name"] for column in result["columns"]],
        rows=result["data"],
        worker=worker(record["executed_sql"]),
        seconds={
            "started": round((float(record["start_running_time"]) - begin) / 1000, 3),
            "finished": round((float(record["end_time"]) - begin) / 1000, 3),
            "fetched": round(fetched, 3),
        },
    )


if __name__ == "__main__":
    main()
