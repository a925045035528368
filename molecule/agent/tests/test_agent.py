"""Machines come and go by the size of their group alone: nobody runs Ansible for them.

All that come do so at once, and each goes in another way, so the tests go on from one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from conftest import Journal, following

from tests.support.deployed import machines
from tests.support.deployed.fleet import WORKER, Fleet, wait
from tests.support.deployed.groups import BOOT_SECONDS, Group, localcloud
from tests.support.deployed.machines import Machine

FACTS = "/etc/superset/facts.json"
# What becomes of each newcomer, and its group.
NEWCOMERS = {
    "leaves": "superset_web",
    "is hindered": "superset_web",
    "works": "celery_worker",
    "is cut off": "celery_worker",
    "waits": "scheduler",
}


@pytest.fixture(scope="module")
def newcomers(groups: dict[str, Group], fleet: Fleet) -> Iterator[dict[str, Machine]]:
    """Machines that their groups started."""
    made = {name: groups[group].add() for name, group in NEWCOMERS.items()}
    fleet.look_again()
    yield made
    for machine in made.values():
        if machine.name in groups[machine.group].members("InService"):
            groups[machine.group].remove(machine)
    for machine in made.values():
        groups[machine.group].wait_until_gone(machine)


def serves(machine: Machine) -> bool:
    try:
        return requests.get(f"http://{machine.address}:8088/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def newcomer(newcomers: dict[str, Machine]) -> Machine:
    """A web machine that serves by itself."""
    machine = newcomers["leaves"]
    wait(f"{machine.name} serves", lambda: serves(machine), BOOT_SECONDS)
    return machine


class Hindered(NamedTuple):
    """A machine that is to leave, what its agent says, and what cuts it off from the cloud."""

    machine: Machine
    journal: Journal
    cut: ExitStack


@pytest.fixture(scope="module")
def hindered(newcomers: dict[str, Machine], web: Group) -> Iterator[Hindered]:
    """A web machine that is to leave while its gunicorn hangs and the cloud's API is lost to it."""
    machine = newcomers["is hindered"]
    wait(f"{machine.name} serves", lambda: serves(machine), BOOT_SECONDS)
    api = urlsplit(web.endpoint_url)
    assert api.hostname and api.port
    machine.run(
        """mkdir -p /run/systemd/system/superset-web.service.d
        printf '[Service]\\nTimeoutStopSec=5\\n' >/run/systemd/system/superset-web.service.d/t.conf
        systemctl daemon-reload"""
    )
    machine.signal("superset-web", "STOP")
    with following(machine) as journal, ExitStack() as cut:
        cut.enter_context(machine.cut_off(api.hostname, api.port))
        web.remove(machine)
        yield Hindered(machine, journal, cut)


@pytest.fixture
def new_worker(fleet: Fleet, newcomers: dict[str, Machine]) -> Machine:
    """A worker's machine that takes queries by itself."""
    machine = newcomers["works"]
    wait("it takes queries", lambda: machine.host in takers(fleet), BOOT_SECONDS)
    return machine


def takers(fleet: Fleet) -> set[str]:
    """Return the hosts whose workers take queries."""
    return {worker.host for worker in fleet.takers()}


@contextmanager
def alone(fleet: Fleet, machine: Machine) -> Iterator[None]:
    """Let one machine alone take queries; the others drain."""
    others = [each for each in fleet.workers if each != machine]
    try:
        for other in others:
            other.run(f"touch /run/{WORKER}/draining")
        wait(f"{machine.name} alone takes queries", lambda: takers(fleet) == {machine.host})
        yield
    finally:
        for other in others:
            other.run(f"rm /run/{WORKER}/draining")


# -- Coming ---------------------------------------------------------------------------------------
def test_a_machine_has_the_facts_that_ansible_writes_and_tells_nobody(
    newcomer: Machine, newcomers: dict[str, Machine], facts: dict[str, Any]
) -> None:
    new = {machine.name for machine in newcomers.values()}
    older = next(one for one in machines.find("superset_web") if one.name not in new)
    assert newcomer.run(f"sha256sum {FACTS}") == older.run(f"sha256sum {FACTS}")
    assert newcomer.run(f"stat --format '%a %U' {FACTS}") == "600 root"
    journal = newcomer.run("journalctl --boot --unit fleet-boot --unit fleet-agent")
    assert "event=booted units=superset-web,fleet-agent" in journal
    known = facts["superset_facts"]
    for secret in (
        known["secret_key"],
        known["database"]["password"],
        *(redis["password"] for redis in known["redis"].values()),
    ):
        assert secret not in journal


def test_a_scheduler_waits_for_the_lead_by_itself(
    newcomers: dict[str, Machine], groups: dict[str, Group]
) -> None:
    machine = newcomers["waits"]
    units = "celery-beat fleet-watchdog"
    wait(
        "its services run",
        lambda: set(machine.run(f"systemctl is-active {units}", check=False).split()) == {"active"},
        BOOT_SECONDS,
    )
    groups["scheduler"].remove(machine)


def test_a_worker_knows_its_machine_and_group(new_worker: Machine, workers: Group) -> None:
    known = new_worker.run("cat /proc/$(systemctl show -P MainPID celery-worker)/environ")
    environment = known.split("\0")
    assert f"FLEET_INSTANCE={new_worker.name}" in environment
    assert f"FLEET_GROUP={workers.name}" in environment


# -- Leaving --------------------------------------------------------------------------------------
def test_a_machine_whose_gunicorn_hangs_stops_all_the_same_and_a_second_signal_changes_nothing(
    hindered: Hindered,
) -> None:
    machine, journal, _ = hindered
    wait("it leaves", lambda: "event=leaves" in journal.text)
    machine.signal("fleet-agent", "TERM")
    machine.run("systemctl stop --no-block superset-web")
    wait("the next agent goes on", lambda: journal.text.count("event=leaves") == 2)
    wait("gunicorn was killed", lambda: "event=stopped" in journal.text)


def test_a_worker_finishes_its_queries_before_it_leaves_and_runs_no_others(
    fleet: Fleet, new_worker: Machine, workers: Group
) -> None:
    user = fleet.user()
    with alone(fleet, new_worker):
        (slots,) = [worker.slots for worker in fleet.takers()]
        running = [user.send("select warehouse.slow(30)") for _ in range(slots)]
        for query in running:
            assert fleet.wait_for_run(f"query:{query.id}") == new_worker
    with following(new_worker) as journal:
        workers.remove(new_worker)
        wait("it drains", lambda: takers(fleet) and new_worker.host not in takers(fleet))
        waiting = user.wait(user.send("select warehouse.slow(1)") for _ in range(5))
        assert new_worker.name in workers.members("Terminating:Wait")
        user.wait(running)
        workers.wait_until_gone(new_worker)
        assert journal.text.count("event=leaves") == 1, journal.text
    assert {(one.status, one.host) for one in running} == {("success", new_worker.host)}
    assert new_worker.host not in {one.host for one in waiting}
    histories = fleet.ledger.histories(one.client_id for one in running + waiting)
    for query in running + waiting:
        assert len(histories[query.client_id].runs) == 1
        assert histories[query.client_id].ended_once(False)


def test_a_web_machine_leaves_when_it_is_not_wanted(newcomer: Machine, web: Group) -> None:
    with following(newcomer) as journal:
        web.remove(newcomer)
        web.wait_until_gone(newcomer)
        assert journal.text.count("event=leaves") == 1, journal.text


def test_an_api_that_is_lost_meanwhile_is_told_when_it_is_back(
    hindered: Hindered, web: Group
) -> None:
    machine, journal, cut = hindered
    wait("the agent cannot tell it", lambda: "event=trouble" in journal.text, 200)
    assert machine.name in web.members("Terminating:Wait")
    cut.close()
    web.wait_until_gone(machine)


def test_a_worker_that_is_cut_off_is_terminated_by_its_group(
    newcomers: dict[str, Machine], workers: Group, facts: dict[str, Any]
) -> None:
    machine = newcomers["is cut off"]
    localcloud("cut", machine.name)
    workers.remove(machine)
    wait("it is to leave", lambda: machine.name in workers.members("Terminating:Wait"))
    localcloud("forward", str(facts["fleet_leave_timeout_seconds"]))
    workers.wait_until_gone(machine)
