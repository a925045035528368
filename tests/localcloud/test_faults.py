"""Faults by command: power cuts, frozen machines, lost networks."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.localcloud.conftest import Group, LocalCloud, wait


@pytest.fixture(scope="module")
def instance(cloud: LocalCloud) -> dict[str, Any]:
    made: dict[str, Any] = cloud.start()
    cloud.ssh(made["PrivateIpAddress"], "true")
    return made


def do(cloud: LocalCloud, verb: str, instance_id: str) -> str:
    """Run the command twice, as it must not fail when its effect is there. Return its output."""
    said: set[str] = set()
    for _ in range(2):
        done = cloud.command(verb, instance_id)
        assert done.returncode == 0, done.stderr
        said.add(done.stdout.strip())
    return said.pop()


def test_a_paused_machine_answers_when_it_goes_on(
    cloud: LocalCloud, instance: dict[str, Any]
) -> None:
    name, address = instance["InstanceId"], instance["PrivateIpAddress"]
    assert do(cloud, "pause", name) == f"{name}: paused"
    assert (cloud.machine(name) or {})["reason"] == "paused"
    with socket.create_connection((address, 22), timeout=20) as connection:  # by its kernel
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(4)
        assert do(cloud, "resume", name) == f"{name}: runs"
        connection.settimeout(20)
        assert connection.recv(4) == b"SSH-"
    assert (cloud.machine(name) or {})["reason"] == ""


def test_a_machine_without_network_goes_on_and_comes_back(
    cloud: LocalCloud, instance: dict[str, Any]
) -> None:
    name, address = instance["InstanceId"], instance["PrivateIpAddress"]
    pings = cloud.cloud.machines / name / "upper/pings"
    ping = "ping -c 1 -W 1 169.254.169.254 >/dev/null; echo $? >> /pings"
    cloud.ssh(address, f"sudo systemd-run --quiet sh -c 'while :; do {ping}; done'")
    wait("an answer to the machine", lambda: pings.exists() and "0" in pings.read_text())
    assert do(cloud, "cut", name) == f"{name}: off the network"
    assert not cloud.reachable(address)
    assert (cloud.machine(name) or {})["reason"] == "cut off"
    wait("the machine misses the answer", lambda: "1" in pings.read_text())
    assert do(cloud, "join", name) == f"{name}: on the network"
    assert cloud.ssh(address, "tail -n 1 /pings")
    assert cloud.instance(name)["State"]["Name"] == "running"


def test_a_plain_machine_whose_power_is_cut_is_stopped(cloud: LocalCloud) -> None:
    instance = cloud.start()
    name, address = instance["InstanceId"], instance["PrivateIpAddress"]
    cloud.ssh(address, "echo kept > keep; sync")
    do(cloud, "pause", name)  # even then
    done = cloud.command("kill", name)
    assert (done.returncode, done.stdout) == (0, f"{name}: power cut\n")
    wait("stopped", lambda: cloud.instance(name)["State"]["Name"] == "stopped")
    assert cloud.command("kill", name).stdout == f"{name}: is off\n"
    refused = cloud.command("pause", name)
    assert (refused.returncode, refused.stderr) == (
        1,
        f"the machine of {name} does not run, it is stopped\n",
    )
    cloud.ec2.start_instances(InstanceIds=[name])
    assert cloud.ssh(address, "cat keep") == "kept"


def test_a_member_whose_power_is_cut_is_replaced_and_its_hook_waits(
    cloud: LocalCloud, new_group: Callable[..., Group]
) -> None:
    """Health checks for instances in an Auto Scaling group; How lifecycle hooks work."""
    group = new_group(image=cloud.base(), DesiredCapacity=1)
    group.hook("leave", "TERMINATING")
    [name] = group.names()
    cloud.ssh(cloud.instance(name)["PrivateIpAddress"], "true")
    cloud.command("kill", name)
    wait("a replacement", lambda: set(group.names("InService")) - {name}, seconds=5)
    assert group.names("Terminating:Wait") == [name]
    assert cloud.instance(name)["State"]["Name"] == "terminated"
    group.complete("leave", name)
    assert name not in group.names()


def test_a_paused_machine_can_be_terminated(cloud: LocalCloud) -> None:
    instance = cloud.start()
    name = instance["InstanceId"]
    cloud.ssh(instance["PrivateIpAddress"], "true")
    do(cloud, "pause", name)
    cloud.ec2.terminate_instances(InstanceIds=[name])
    wait("the machine goes", lambda: cloud.machine(name) is None, seconds=10)


@pytest.mark.parametrize("verb", ["kill", "pause", "resume", "cut", "join"])
def test_a_fault_of_an_unknown_instance_names_those_that_are_there(
    cloud: LocalCloud, instance: dict[str, Any], verb: str
) -> None:
    done = cloud.command(verb, "i-unknown")
    assert done.returncode == 1
    assert done.stderr.startswith("there is no machine of i-unknown; there are: ")
    assert instance["InstanceId"] in done.stderr


def test_a_fault_in_a_cloud_that_is_down_says_so(tmp_path: Any) -> None:
    done = LocalCloud(tmp_path).command("kill", "i-1")
    assert (done.returncode, done.stderr) == (1, "the local cloud is down; bring it up with `up`\n")
