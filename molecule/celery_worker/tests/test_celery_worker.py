"""What those who publish tasks may rely on."""

import time

import pytest
import testinfra
from celery import Celery

from superset_fleet.state.facts import BROKER, GUARD, redis_url
from superset_fleet.state.registry import Registry
from superset_fleet.times import TIMES
from tests.support.deployed.fleet import wait

testinfra_hosts = ["ansible://celery_worker"]


@pytest.fixture(autouse=True)
def root(host):
    with host.sudo():
        yield


@pytest.fixture
def broker(fact):
    """URL of the queues."""
    return redis_url(fact("superset_facts")["redis"]["coordination"], BROKER)


@pytest.fixture
def registry(fact):
    """What the workers say of themselves."""
    return Registry(redis_url(fact("superset_facts")["redis"]["coordination"], GUARD), 10)


def beating(host, registry):
    """Return what this host's workers say of themselves, without those that died."""
    hostname, since = host.check_output("hostname"), registry.now() - TIMES.silent_seconds
    workers = registry.workers().values()
    return [each for each in workers if each.host == hostname and each.last_beat > since]


@pytest.fixture
def inspect(host, broker):
    """Ask this host's worker one of Celery's questions."""

    def inspect(question):
        name = "worker@" + host.check_output("hostname")
        with Celery(broker=broker, set_as_current=False) as app:
            return getattr(app.control.inspect([name], timeout=10), question)()[name]

    return inspect


def test_takes_tasks_from_every_queue_that_it_is_for(inspect, fact):
    taken = {queue["name"] for queue in inspect("active_queues")}
    assert taken == set(fact("celery_worker_queues"))


def test_beats_for_every_queue_that_it_is_for(host, fact, registry):
    (worker,) = beating(host, registry)
    assert set(worker.queues) == set(fact("celery_worker_queues"))
    assert not worker.draining


def test_stops_by_itself_is_gone_at_once_and_has_started_only_when_it_takes_tasks(
    host, registry, inspect
):
    host.check_output("systemctl stop celery-worker")
    try:
        shown = host.check_output("systemctl show --property Result,ExecMainStatus celery-worker")
        assert set(shown.splitlines()) == {"Result=success", "ExecMainStatus=0"}
        assert beating(host, registry) == []
    finally:
        host.check_output("systemctl start celery-worker")
    assert inspect("ping") == {"ok": "pong"}
    wait("it beats", lambda: beating(host, registry), 10)


def test_holds_no_more_tasks_than_it_runs(inspect, fact):
    stats = inspect("stats")
    assert stats["pool"]["max-concurrency"] == fact("celery_worker_concurrency")
    assert stats["prefetch_count"] == fact("celery_worker_concurrency")


def test_runs_what_is_published(request, broker):
    inventory = request.config.option.ansible_inventory
    workers = testinfra.get_hosts(testinfra_hosts, ansible_inventory=inventory)
    with Celery(broker=broker, set_as_current=False) as app:
        task = app.send_task("reports.scheduler", queue="default").id
    done = f"journalctl --unit celery-worker --grep '{task}.* succeeded'"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for worker in workers:  # any of them may have taken it
            with worker.sudo():
                if worker.run(done).rc == 0:
                    return
        time.sleep(0.2)
    pytest.fail("the task did not succeed within 20 seconds")


def test_knows_the_tasks_of_charts_where_web_machines_run_them_themselves(inspect):
    known = {task.split()[0] for task in inspect("registered")}
    assert {"load_chart_data_into_cache", "load_explore_json_into_cache"} <= known


def test_starts_at_boot(host):
    service = host.service("celery-worker")
    assert service.is_running
    assert service.is_enabled
