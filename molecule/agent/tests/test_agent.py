"""Machines come and go by the size of their group alone: nobody runs Ansible for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from conftest import following
from shared import machines
from shared.fleet import Fleet, wait
from shared.groups import BOOT_SECONDS, Group, localcloud
from shared.machines import Machine

FACTS = "/etc/superset/facts.json"


def serves(machine: Machine) -> bool:
    try:
        return requests.get(f"http://{machine.address}:8088/health", timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def newcomer(web: Group) -> Iterator[Machine]:
    """A web machine that the group started, and that serves."""
    machine = web.add()
    wait(f"{machine.name} serves", lambda: serves(machine), BOOT_SECONDS)
    yield machine
    if machine.name in web.members("InService"):
        web.remove(machine)
    web.wait_until_gone(machine)


# -- Coming ---------------------------------------------------------------------------------------
def test_a_web_machine_serves_by_itself_and_leaves_when_it_is_not_wanted(
    newcomer: Machine, web: Group
) -> None:
    with following(newcomer) as journal:
        web.remove(newcomer)
        web.wait_until_gone(newcomer)
        assert journal.text.count("event=leaves") == 1, journal.text


def test_a_machine_has_the_facts_that_ansible_writes_and_tells_nobody(
    newcomer: Machine, facts: dict[str, Any]
) -> None:
    older = next(one for one in machines.find("superset_web") if one.name != newcomer.name)
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


@pytest.fixture
def new_worker(fleet: Fleet, workers: Group) -> Iterator[Machine]:
    """A worker's machine that the group started, and that takes queries by itself."""
    machine = workers.add()
    wait(
        "it takes queries",
        lambda: machine.host in {worker.host for worker in fleet.takers()},
        BOOT_SECONDS,
    )
    fleet.look_again()
    yield machine
    if machine.name in workers.members("InService"):
        workers.remove(machine)
    workers.wait_until_gone(machine)
    fleet.look_again()
    fleet.want_workers(*fleet.workers)


def test_a_worker_knows_its_machine_and_group(new_worker: Machine, workers: Group) -> None:
    known = new_worker.run("cat /proc/$(systemctl show -P MainPID celery-worker)/environ")
    environment = known.split("\0")
    assert f"FLEET_INSTANCE={new_worker.name}" in environment
    assert f"FLEET_GROUP={workers.name}" in environment


def test_a_worker_ends_its_queries_before_it_leaves_and_runs_no_others(
    fleet: Fleet, new_worker: Machine, workers: Group
) -> None:
    user = fleet.user()
    fleet.want_workers(new_worker)
    (slots,) = [worker.slots for worker in fleet.takers()]
    running = [user.send("select warehouse.slow(60)") for _ in range(slots)]
    for query in running:
        assert fleet.wait_for_run(f"query:{query.id}") == new_worker
    fleet.want_workers(*fleet.workers)
    with following(new_worker) as journal:
        workers.remove(new_worker)
        wait("it drains", lambda: new_worker.host not in {one.host for one in fleet.takers()})
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


def test_a_worker_that_is_cut_off_is_ended_by_its_group(
    new_worker: Machine, workers: Group, facts: dict[str, Any]
) -> None:
    localcloud("cut", new_worker.name)
    workers.remove(new_worker)
    wait("it is to leave", lambda: new_worker.name in workers.members("Terminating:Wait"))
    localcloud("forward", str(facts["fleet_leave_timeout_seconds"]))
    workers.wait_until_gone(new_worker)


def test_a_scheduler_waits_for_the_lead_by_itself(groups: dict[str, Group]) -> None:
    machine = groups["scheduler"].add()
    units = "celery-beat superset-watchdog"
    try:
        wait(
            "its services run",
            lambda: (
                set(machine.run(f"systemctl is-active {units}", check=False).split()) == {"active"}
            ),
            BOOT_SECONDS,
        )
    finally:
        groups["scheduler"].remove(machine)


# -- Leaving, with faults -------------------------------------------------------------------------
def test_an_api_that_is_lost_meanwhile_is_told_when_it_is_back(
    newcomer: Machine, web: Group
) -> None:
    api = urlsplit(web.endpoint_url)
    assert api.hostname and api.port
    with following(newcomer) as journal:
        with newcomer.cut_off(api.hostname, api.port):
            web.remove(newcomer)
            wait("the agent cannot tell it", lambda: "event=trouble" in journal.text, 200)
            assert "event=stopped" in journal.text
            assert newcomer.name in web.members("Terminating:Wait")
        web.wait_until_gone(newcomer)


def test_a_gunicorn_that_hangs_does_not_hold_the_machine(newcomer: Machine, web: Group) -> None:
    newcomer.run(
        """mkdir -p /run/systemd/system/superset-web.service.d
        printf '[Service]\\nTimeoutStopSec=5\\n' >/run/systemd/system/superset-web.service.d/t.conf
        systemctl daemon-reload"""
    )
    newcomer.signal("superset-web", "STOP")
    web.remove(newcomer)
    web.wait_until_gone(newcomer)


def test_a_second_signal_changes_nothing(newcomer: Machine, web: Group) -> None:
    newcomer.signal("superset-web", "STOP")  # it will not be gone too soon
    with following(newcomer) as journal:
        web.remove(newcomer)
        wait("it leaves", lambda: "event=leaves" in journal.text)
        newcomer.signal("fleet-agent", "TERM")
        newcomer.run("systemctl stop --no-block superset-web")
        wait("the next agent goes on", lambda: journal.text.count("event=leaves") == 2)
        newcomer.signal("superset-web", "CONT")
        web.wait_until_gone(newcomer)
