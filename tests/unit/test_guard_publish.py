"""What the publish guard says, and by which names it knows jobs."""

import pytest
from celery import Celery

from superset_fleet.guard import publish
from superset_fleet.guard.registry import Queue
from superset_fleet.guard.tasks import job_name, query_id_of

METADATA = {"job_id": "1f0c", "channel_id": "c"}


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "name"),
    [
        ("sql_lab.get_sql_results", [17, "select 1"], {}, "query:17"),
        ("sql_lab.get_sql_results", [], {"query_id": 17}, "query:17"),
        ("query_execution.execute_sql", (17, "select 1"), None, "query:17"),
        ("load_chart_data_into_cache", [METADATA, {}], {}, "chart:1f0c"),
        ("load_explore_json_into_cache", None, {"job_metadata": METADATA}, "chart:1f0c"),
        ("load_chart_data_into_cache", [], {}, ""),
        ("reports.scheduler", [17], {}, ""),
    ],
)
def test_a_job_is_named_after_the_query_or_the_chart_s_request(
    task: str, args: list[object] | None, kwargs: dict[str, object] | None, name: str
) -> None:
    assert job_name(task, args, kwargs) == name


def test_only_a_query_s_job_is_about_a_row() -> None:
    assert query_id_of("query:17") == 17
    assert query_id_of("chart:1f0c") is None
    assert query_id_of("") is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "none was ever seen"), (42.4, "seen 42 s ago"), (7200.0, "seen 120 min ago")],
)
def test_a_refusal_names_the_queue_and_since_when_it_has_no_worker(
    seconds: float | None, words: str
) -> None:
    message = publish.no_worker("sql_lab", Queue(0, seconds))
    assert "'sql_lab'" in message
    assert words in message
    assert "Run it again" in message


def nothing() -> None:
    """A task that does nothing."""


@pytest.fixture
def app() -> Celery:
    """Celery with two tasks, one of them routed."""
    app = Celery(broker="memory://")
    app.conf.update(
        task_default_queue="default",
        task_routes={"sql_lab.*": {"queue": "sql_lab"}},
    )
    return app


def test_the_queue_asked_for_is_the_one_that_celery_routes_to(app: Celery) -> None:
    routed = app.task(nothing, name="sql_lab.get_sql_results")
    other = app.task(nothing, name="other")
    assert publish.queue_name(routed, None, None, {}) == "sql_lab"
    assert publish.queue_name(routed, None, None, {"queue": "reports"}) == "reports"
    assert publish.queue_name(other, None, None, {}) == "default"
