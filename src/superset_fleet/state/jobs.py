"""The tasks that are guarded, the names of their jobs, and the queues of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

QUERIES = ("sql_lab.get_sql_results", "query_execution.execute_sql")
CHARTS = ("load_chart_data_into_cache", "load_explore_json_into_cache")
TASKS = QUERIES + CHARTS
# The queue that a task is sent to, by a pattern of its name.
ROUTES = {
    "sql_lab.*": "sql_lab",
    "query_execution.*": "sql_lab",
    "load_*_into_cache": "charts",
    "reports.execute": "reports",
    "cache_*": "thumbnails",
    "cache-warmup": "warmup",
    "fetch_url": "warmup",
}
DEFAULT_QUEUE = "default"  # of all other tasks
QUEUES = tuple(dict.fromkeys((*ROUTES.values(), DEFAULT_QUEUE)))
QUERY_QUEUES = ("sql_lab", "charts")
BROWSER_QUEUES = ("reports", "thumbnails")  # of tasks that need a browser
# Of all that waits a free slot takes what has the lowest number, and of that the oldest. The broker
# in Redis has lists for these numbers. A user's first query goes first, then the next ones of who
# has some unfinished, then those of who has many; what needs a browser goes last.
PRIORITIES = FIRST, NEXT, MANY, LAST = 0, 3, 6, 9
SOME = 5  # unfinished queries of a user, of which one more is one of many


def routes() -> dict[str, dict[str, Any]]:
    """Return Celery's `task_routes`."""
    return {
        task: {"queue": queue, "priority": LAST if queue in BROWSER_QUEUES else FIRST}
        for task, queue in ROUTES.items()
    }


def priority(unfinished: int) -> int:
    """Return the priority of a query whose user has so many unfinished ones besides."""
    if not unfinished:
        return FIRST
    return NEXT if unfinished < SOME else MANY


def first(name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> Any:
    """Return a task's first argument, by whichever way it was given."""
    return args[0] if args else (kwargs or {}).get(name)


def job_name(task: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
    """Return the name of a task's job, or '' where it has none."""
    if task in QUERIES:
        query_id = first("query_id", args, kwargs)
        return "" if query_id is None else f"query:{query_id}"
    if task in CHARTS:
        metadata = first("job_metadata", args, kwargs) or {}
        return f"chart:{metadata['job_id']}" if "job_id" in metadata else ""
    return ""


def query_id_of(job: str) -> int | None:
    """Return the id of the row that a job is about, None for a chart."""
    kind, _, name = job.partition(":")
    return int(name) if kind == "query" else None


def query_name(query_id: int) -> str:
    """Return the name of a query's job."""
    return f"query:{query_id}"
