"""The fleet's auto-scaling groups, which have their sizes of before in the end."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import pytest
from shared import machines
from shared.fleet import wait
from shared.machines import Machine

BOOT_SECONDS = 300  # a machine, and Superset, beside a fleet on two processors
# Shorter than the hook's time-out: who is gone by then was not ended by that.
LEAVE_SECONDS = 200


class Group:
    """An auto-scaling group, as operators use it."""

    def __init__(self, api: Any, ec2: Any, fleet: str, role: str) -> None:
        self.api, self.ec2, self.role, self.name = api, ec2, role, f"{fleet}-{role}"
        self.sizes = {size: self.describe()[size] for size in ("MaxSize", "DesiredCapacity")}

    def describe(self) -> Any:
        groups = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        return groups["AutoScalingGroups"][0]

    def members(self, state: str = "") -> set[str]:
        """Return the ids of the members, or of those in a state."""
        return {
            one["InstanceId"]
            for one in self.describe()["Instances"]
            if state in ("", one["LifecycleState"])
        }

    def address(self, name: str) -> str:
        found = self.ec2.describe_instances(InstanceIds=[name])["Reservations"]
        return str(found[0]["Instances"][0]["PrivateIpAddress"])

    def resize(self, **sizes: int) -> None:
        self.api.update_auto_scaling_group(AutoScalingGroupName=self.name, **sizes)

    def add(self) -> Machine:
        """Want one more machine, and return it as soon as somebody can log in."""
        before, sizes = self.members(), self.describe()
        wanted = sizes["DesiredCapacity"] + 1
        self.resize(DesiredCapacity=wanted, MaxSize=max(wanted, sizes["MaxSize"]))
        (name,) = wait("a newcomer", lambda: self.members("InService") - before)
        address = self.address(name)
        wait(f"{name} takes logins", lambda: listens(address, 22), BOOT_SECONDS)
        (machine,) = machines.find(name)
        return machine

    def remove(self, machine: Machine) -> None:
        """Want one machine less, which is to be this one."""
        self.api.terminate_instance_in_auto_scaling_group(
            InstanceId=machine.name, ShouldDecrementDesiredCapacity=True
        )

    def wait_until_gone(self, machine: Machine) -> None:
        wait(f"{machine.name} has left", lambda: machine.name not in self.members(), LEAVE_SECONDS)

    def restore(self) -> None:
        """Have the sizes of before, and no machine that still leaves."""
        self.resize(**self.sizes)
        size = self.sizes["DesiredCapacity"]

        def settled() -> bool:
            return len(self.members()) == len(self.members("InService")) == size

        wait(f"{self.name} has {size} machines", settled, LEAVE_SECONDS)


def listens(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


class Journal:
    """What a machine's agent says; its last words may be lost with the machine."""

    def __init__(self, machine: Machine) -> None:
        command = [*machine.ssh, "sudo journalctl --follow --output cat --unit fleet-agent"]
        self._follows = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._text = b""
        assert self._follows.stdout
        os.set_blocking(self._follows.stdout.fileno(), False)

    @property
    def text(self) -> str:
        assert self._follows.stdout
        self._text += self._follows.stdout.read() or b""
        return self._text.decode()

    def close(self) -> None:
        self._follows.kill()
        self._follows.wait()


@contextmanager
def following(machine: Machine) -> Iterator[Journal]:
    journal = Journal(machine)
    try:
        yield journal
    finally:
        journal.close()


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    return machines.facts()


@pytest.fixture(scope="session")
def groups(facts: dict[str, Any]) -> Iterator[dict[str, Group]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_CONFIG_FILE", facts["fleet_aws_config_file"])
        session = boto3.Session()
        api, ec2 = session.client("autoscaling"), session.client("ec2")
        made = {role: Group(api, ec2, facts["fleet_name"], role) for role in facts["fleet_groups"]}
        yield made
        for group in made.values():
            group.restore()


@pytest.fixture
def web(groups: dict[str, Group]) -> Group:
    return groups["superset_web"]
