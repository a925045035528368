"""A worker that is told to stop takes no more, and ends what it runs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import testinfra
from shared.fleet import wait

from superset_fleet.ansible import run_module
from superset_fleet.facts import GUARD, redis_url
from superset_fleet.guard.registry import Registry

QUERY = {
    "url": "{{ superset_url }}",
    "password": "{{ superset_admin_password }}",
    "ca_certificate": "{{ haproxy_ca_certificate }}",
    "database": "warehouse",
    "sql": "select warehouse.slow(15)",
}


@pytest.fixture
def workers(request):
    """The machines of workers, by their host names."""
    inventory = request.config.option.ansible_inventory
    hosts = testinfra.get_hosts(["ansible://celery_worker"], ansible_inventory=inventory)
    return {host.check_output("hostname"): host for host in hosts}


def test_a_worker_that_stops_leaves_its_queues_at_once_and_ends_its_query(workers):
    facts = run_module("redis", "ansible.builtin.debug", {"var": "superset_facts"})
    (known,) = (result["superset_facts"] for result in facts.values())
    registry = Registry(redis_url(known["redis"]["coordination"], GUARD), 10)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(run_module, "haproxy[0]", "superset_query", QUERY)
        (run,) = wait("the query runs", lambda: list(registry.runs().values()))
        worker = registry.workers()[run.worker]
        host = workers[worker.host]
        with host.sudo():
            host.check_output("systemctl stop --no-block celery-worker")
            try:
                wait("it drains", lambda: registry.workers()[run.worker].draining, 5)
                for queue in worker.queues:
                    assert registry.queue(queue).workers == len(workers) - 1
                assert not asked.done()
                (result,) = asked.result().values()
                assert result["worker"] == worker.host
                wait("it has ended", lambda: run.worker not in registry.workers())
            finally:
                host.check_output("systemctl start celery-worker")
