"""The scaler on the machines of the schedulers: what it sees, and that it can be held.

Who leads is what the scenario `scheduler` tests, how it scales the soak `workers`.
"""

import json

import pytest

from tests.support.deployed.fleet import operator, wait

testinfra_hosts = ["ansible://scheduler"]


def scale(*arguments):
    """What `fleet scale` says, for programs."""
    status, said = operator("scale", "--json", *arguments)
    assert status == 0, said
    return json.loads(said)


@pytest.fixture
def held():
    """Nobody holds the scaler before, and nobody does after."""
    scale("--release")
    yield
    scale("--release")


def free():
    """Whether nothing keeps any group from its size: who was released says so a tick later."""
    return not any(group["obstacle"] for group in scale()["groups"])


def test_it_reports_every_worker_group_of_the_fleet():
    wait("nobody holds it", free, 10)
    said = scale()
    assert said["trouble"] == ""
    (group,) = [each for each in said["groups"] if each["name"].endswith("-celery_worker")]
    assert {"sql_lab", "charts"} <= {*group["queues"]}
    assert group["min"] <= group["desired"] <= group["max"]


def test_it_sees_the_workers_of_its_groups():
    def complete():
        return all(group["workers"] == group["desired"] for group in scale()["groups"])

    wait("every machine has a worker", complete, 120)


def test_held_it_says_so_until_it_is_released(held):
    assert scale("--hold", "a test")["hold"]["reason"] == "a test"
    wait(
        "it is held",
        lambda: all("held: a test" in group["obstacle"] for group in scale()["groups"]),
    )
    assert scale("--release")["hold"] is None


def test_its_user_reads_no_facts_but_by_its_unit(host):
    with host.sudo("scaler"):
        assert host.run("cat /etc/superset/facts.json").failed
