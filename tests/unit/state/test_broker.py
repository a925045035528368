"""The broker's queues, as Celery keeps them in Redis."""

import json
import time

import pytest
import redis
from celery import Celery
from kombu import Queue
from kombu.transport.redis import PRIORITY_STEPS, Channel

from superset_fleet.state import broker, jobs
from superset_fleet.state.broker import Messages


def test_a_queue_has_the_lists_that_celery_s_transport_gives_it() -> None:
    assert (Channel.sep, tuple(PRIORITY_STEPS)) == (broker.SEPARATOR, jobs.PRIORITIES)


def test_tasks_of_every_priority_wait(redis_url: str) -> None:
    celery = Celery(broker=redis_url, set_as_current=False)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        for priority in range(10):
            celery.send_task("task", queue="sql_lab", priority=priority)
        assert broker.waiting(client, ["sql_lab", "charts"]) == {"sql_lab": 10, "charts": 0}


def test_what_needs_a_browser_is_taken_after_any_query(redis_url: str) -> None:
    celery = Celery(broker=redis_url, set_as_current=False)
    celery.conf.task_routes = jobs.routes()
    redis.Redis.from_url(redis_url).flushall()
    celery.send_task("reports.execute")
    celery.send_task("sql_lab.get_sql_results", [17, "select 1"], priority=jobs.MANY)
    celery.send_task("load_chart_data_into_cache", [{"job_id": "x"}, {}])
    taken: list[str] = []
    with celery.connection_for_read() as connection:
        queues = [Queue(name) for name in ("reports", "sql_lab", "charts")]
        with connection.Consumer(queues, accept=["json"]) as consumer:
            consumer.register_callback(lambda _, message: taken.append(message.headers["task"]))
            for _ in range(3):
                connection.drain_events(timeout=5)
    assert taken == [
        "load_chart_data_into_cache", "sql_lab.get_sql_results", "reports.execute",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("unfinished", "priority"),
    [(0, jobs.FIRST), (1, jobs.NEXT), (4, jobs.NEXT), (5, jobs.MANY), (500, jobs.MANY)],
)
def test_who_has_unfinished_queries_lets_others_first_ones_go_before(
    unfinished: int, priority: int
) -> None:
    assert jobs.priority(unfinished) == priority


def test_a_task_that_nobody_confirms_is_abandoned_after_its_time(redis_url: str) -> None:
    celery = Celery(broker=redis_url, set_as_current=False)
    with redis.Redis.from_url(redis_url) as client, celery.connection_for_read() as connection:
        client.flushall()
        celery.send_task("task", queue="reports", priority=3)
        taken = connection.SimpleQueue("reports").get(timeout=5)
        assert broker.waiting(client, ["reports"]) == {"reports": 0}
        assert broker.abandoned(client, time.time() - 60) == {}
        assert broker.abandoned(client, time.time() + 1) == {"reports": 1}
        taken.ack()
        assert broker.abandoned(client, time.time() + 1) == {}


def test_messages_are_found_whatever_their_priority_and_number(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushall()
    celery = Celery(broker=redis_url, set_as_current=False)
    for number in range(450):
        celery.send_task("sql_lab.get_sql_results", [number, "select 1"], queue="sql_lab")
    celery.send_task("sql_lab.get_sql_results", [900, "s"], queue="sql_lab", priority=6)
    celery.send_task("load_chart_data_into_cache", [{"job_id": "x"}, {}], queue="charts")
    celery.send_task("reports.scheduler", queue="charts")
    expected = {f"query:{number}" for number in (*range(450), 900)}
    assert Messages(redis_url).waiting(["sql_lab", "no_such"]) == expected
    assert Messages(redis_url).waiting(["charts"]) == {"chart:x"}


def test_what_is_no_message_of_celery_is_passed_over(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        client.lpush("sql_lab", "no json", "{}", json.dumps({"body": "="}))
    assert Messages(redis_url).waiting(["sql_lab"]) == set()


def test_of_another_broker_than_redis_nothing_is_known() -> None:
    assert Messages("amqp://nobody").waiting(["sql_lab"]) is None
