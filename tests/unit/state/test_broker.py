"""The broker's queues, as Celery keeps them in Redis."""

import time

import redis
from celery import Celery
from kombu.transport.redis import PRIORITY_STEPS, Channel

from superset_fleet.state import broker


def test_a_queue_has_the_lists_that_celery_s_transport_gives_it() -> None:
    assert (Channel.sep, tuple(PRIORITY_STEPS)) == (broker.SEPARATOR, broker.PRIORITIES)


def test_tasks_of_every_priority_wait(redis_url: str) -> None:
    celery = Celery(broker=redis_url, set_as_current=False)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        for priority in range(10):
            celery.send_task("task", queue="sql_lab", priority=priority)
        assert broker.waiting(client, ["sql_lab", "charts"]) == {"sql_lab": 10, "charts": 0}


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
