"""A worker that is told to stop takes no more, and finishes what it runs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import testinfra

from superset_fleet.control.ask import run_module
from superset_fleet.state.facts import GUARD, redis_url
from superset_fleet.state.registry import Registry
from tests.support.deployed.fleet import WORKER, Fleet, operator, wait

QUERY = {
    "url": "{{ superset_url }}",
    "password": "{{ superset_admin_password }}",
    "ca_certificate": "{{ haproxy_ca_certificate }}",
    "database": "warehouse",
    "sql": "select warehouse.slow(10)",
}


@pytest.fixture
def workers(request):
    """The machines of workers, by their host names."""
    inventory = request.config.option.ansible_inventory
    hosts = testinfra.get_hosts(["ansible://celery_worker"], ansible_inventory=inventory)
    return {host.check_output("hostname"): host for host in hosts}


def test_a_worker_that_stops_leaves_its_queues_at_once_and_finishes_its_query(workers):
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
                wait("it has stopped", lambda: run.worker not in registry.workers())
            finally:
                host.check_output("systemctl start celery-worker")


@pytest.fixture
def fleet():
    """The fleet, whose workers all take tasks before and after."""
    fleet = Fleet()
    assert len(fleet.workers) > 1
    fleet.want_workers(*fleet.workers)
    yield fleet
    fleet.want_workers(*fleet.workers)


@pytest.fixture
def busy(fleet):
    """A machine whose worker runs a query, the user who sent it, and the query."""
    user = fleet.user()
    query = user.send("select warehouse.slow(15)")
    return fleet.wait_for_run(f"query:{query.id}"), user, query


def takes(fleet, machine):
    """Tell whether a machine's worker takes tasks."""
    return machine.host in {worker.host for worker in fleet.takers()}


def test_an_operator_drains_a_worker_which_finishes_its_query_and_takes_no_other(fleet, busy):
    machine, user, query = busy
    status, said = operator("drain", machine.name)
    assert (status, said.splitlines()[-1].endswith("runs nothing")) == (0, True), said
    user.wait([query], timeout=5)
    assert (query.status, query.host) == ("success", machine.host), query
    others = user.wait(user.send("select 1") for _ in range(5))
    assert {(one.status, one.host == machine.host) for one in others} == {("success", False)}
    assert machine.run(f"systemctl is-active {WORKER}") == "active"
    assert not takes(fleet, machine)
    status, said = operator("drain", "--undo", machine.name)
    assert (status, said.splitlines()[-1].endswith("takes tasks")) == (0, True), said
    assert takes(fleet, machine)


def test_a_drained_worker_that_is_restarted_takes_tasks_again(fleet):
    machine = fleet.workers[0]
    assert operator("drain", machine.name)[0] == 0
    machine.run(f"systemctl restart {WORKER}")
    wait("it takes tasks", lambda: takes(fleet, machine))


def test_a_drained_worker_that_is_told_to_stop_finishes_its_query_first(fleet, busy):
    machine, user, query = busy
    machine.run(f"touch /run/{WORKER}/draining && systemctl stop --no-block {WORKER}")
    wait("it drains", lambda: not takes(fleet, machine))
    user.wait([query])
    assert (query.status, query.host) == ("success", machine.host), query
    wait("it has stopped", lambda: not fleet.beating(machine))


def test_a_worker_that_stops_gives_back_at_once_what_it_does_not_run(fleet, busy):
    """A report whose time has not come is taken by another worker, not an hour later."""
    machine, user, query = busy
    fleet.want_workers(machine)
    sent = fleet.publish("reports.scheduler", "default", countdown=3600)
    wait("it holds the task", lambda: sent in fleet.unconfirmed())
    machine.run(f"systemctl stop --no-block {WORKER}")
    wait("it has given it back", lambda: sent not in fleet.unconfirmed(), 10)
    assert user.look(query).status == "running"
    assert fleet.broker.llen("default") == 1
    fleet.broker.delete("default")
    user.wait([query])
