"""Machines of the group come and go while users ask all the time, and fleet-membership follows."""

import os

import boto3
import pytest

from superset_fleet.control.ask import ROOT
from tests.support.deployed import machines
from tests.support.deployed.fleet import wait
from tests.support.deployed.load import Load, pages

testinfra_hosts = ["ansible://haproxy"]

DRAINING = "/run/superset-web/draining"


@pytest.fixture(scope="module")
def cloud():
    os.environ["AWS_CONFIG_FILE"] = str(ROOT / ".localcloud/aws.ini")
    return boto3.Session().client("autoscaling")


@pytest.fixture
def servers(told):
    """The servers that HAProxy has, each with whether it gets requests."""
    return lambda: {
        each["name"]: each["state"] == "ready" and each["up"] for each in told()["servers"]
    }


@pytest.fixture
def web(servers, cloud):
    """One of at least two web machines, all of them in use before and after."""
    webs = machines.find("superset_web")
    assert len(webs) > 1
    everyone = {machine.name: True for machine in webs}
    wait("all web machines are in use", lambda: servers() == everyone)
    web = webs[0]
    yield web
    web.run(f"rm -f {DRAINING}")
    if web.name not in servers():
        cloud.exit_standby(InstanceIds=[web.name], AutoScalingGroupName=group_of(cloud, web))
    wait("all web machines are in use", lambda: servers() == everyone)


def group_of(cloud, machine):
    (member,) = cloud.describe_auto_scaling_instances(InstanceIds=[machine.name])[
        "AutoScalingInstances"
    ]
    return member["AutoScalingGroupName"]


def test_no_request_is_lost_when_a_machine_leaves_its_group_and_comes_back(
    fact, cloud, web, servers
):
    url, ca_certificate = fact("superset_url"), fact("haproxy_ca_certificate")
    group = {"InstanceIds": [web.name], "AutoScalingGroupName": group_of(cloud, web)}
    with Load(url, ca_certificate, pages(url, ca_certificate)) as load:
        cloud.enter_standby(**group, ShouldDecrementDesiredCapacity=True)
        wait("it has left", lambda: web.name not in servers())
        web.run("systemctl stop superset-web; systemctl start superset-web")
        cloud.exit_standby(**group)
        wait("it is in use again", lambda: servers().get(web.name))
        load.more(100)
    assert not load.failed, load.report()


def test_a_machine_that_is_not_ready_is_not_let_in(cloud, web, servers, told):
    group = {"InstanceIds": [web.name], "AutoScalingGroupName": group_of(cloud, web)}
    cloud.enter_standby(**group, ShouldDecrementDesiredCapacity=True)
    wait("it has left", lambda: web.name not in servers())
    web.run(f"touch {DRAINING}")
    cloud.exit_standby(**group)

    def waits():
        return [step["verb"] for step in told()["steps"] if step["server"] == web.name]

    wait("the daemon sees that it is wanted and waits for it", lambda: waits() == ["wait"])
    assert web.name not in servers()
    web.run(f"rm {DRAINING}")
    wait("it is in use", lambda: servers().get(web.name))
