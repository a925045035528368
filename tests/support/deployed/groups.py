"""The auto-scaling groups of the local cloud, and what HAProxy makes of their members."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import boto3

from superset_fleet.control import status
from superset_fleet.control.ask import ROOT

from .fleet import wait
from .machines import Machine, facts, find

BOOT_SECONDS = 300  # a machine, and Superset, beside a fleet on two processors
# Shorter than the hook's time-out: who is gone by then was not terminated by that.
LEAVE_SECONDS = 200


class Group:
    """An auto-scaling group of this checkout's fleet, as operators use it."""

    def __init__(self, role: str) -> None:
        known = facts()
        self.name = f"{known['fleet_name']}-{role}"
        os.environ["AWS_CONFIG_FILE"] = known["fleet_aws_config_file"]
        session = boto3.Session(region_name=known["fleet_region"])
        self._scaling, self._ec2 = session.client("autoscaling"), session.client("ec2")
        self.endpoint_url = str(self._scaling.meta.endpoint_url)
        sizes = "MinSize", "MaxSize", "DesiredCapacity"
        self._before = {size: self._group()[size] for size in sizes}

    def _group(self) -> Any:
        (group,) = self._scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])[
            "AutoScalingGroups"
        ]
        return group

    @property
    def desired(self) -> int:
        """How many members the group wants."""
        return int(self._group()["DesiredCapacity"])

    def members(self, *states: str) -> set[str]:
        """Return the ids of members, of those in one of the states if any is named."""
        return {
            one["InstanceId"]
            for one in self._group()["Instances"]
            if not states or one["LifecycleState"] in states
        }

    def want(self, number: int) -> None:
        """Set how many members the group wants, and has room for."""
        group = self._group()
        least, room = min(number, group["MinSize"]), max(number, group["MaxSize"])
        self.resize(MinSize=least, DesiredCapacity=number, MaxSize=room)

    def resize(self, **sizes: int) -> None:
        """Set the group's sizes, in the API's words."""
        self._scaling.update_auto_scaling_group(AutoScalingGroupName=self.name, **sizes)

    def add(self) -> Machine:
        """Want one more machine, and return it as soon as somebody can log in."""
        before = self.members()
        self.want(self.desired + 1)
        (name,) = wait("a newcomer", lambda: self.members("InService") - before)
        found = self._ec2.describe_instances(InstanceIds=[name])["Reservations"]
        address = found[0]["Instances"][0]["PrivateIpAddress"]
        wait(f"{name} takes logins", lambda: listens(address, 22), BOOT_SECONDS)
        (machine,) = find(name)
        return machine

    def launched(self, machine: Machine) -> float:
        """Return when the group launched a machine, in seconds since 1970."""
        found = self._scaling.describe_scaling_activities(AutoScalingGroupName=self.name)
        return next(
            float(one["StartTime"].timestamp())
            for one in found["Activities"]
            if one["Description"].endswith(f"Launching a new EC2 instance: {machine.name}")
        )

    def remove(self, machine: Machine) -> None:
        """Want one machine less, which is to be this one."""
        self._scaling.terminate_instance_in_auto_scaling_group(
            InstanceId=machine.name, ShouldDecrementDesiredCapacity=True
        )

    def wait_until_gone(self, machine: Machine) -> None:
        """Wait for its leave, and no longer than a leave in order takes."""
        wait(f"{machine.name} has left", lambda: machine.name not in self.members(), LEAVE_SECONDS)

    def restore(self) -> None:
        """Have the sizes of before, and as many machines in service."""
        self.resize(**self._before)
        size = self._before["DesiredCapacity"]
        wait(f"{self.name} has {size}", lambda: len(self.members("InService")) == size)


def listens(address: str, port: int) -> bool:
    """Tell whether somebody answers there."""
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


class Rotation:
    """HAProxy's servers, by its statistics page."""

    def __init__(self) -> None:
        self._balancers = [host for host in status.inventory().hosts if host.statistics]

    def servers(self) -> dict[str, Any]:
        """Return the servers of the first load balancer."""
        return status.ask_haproxy(self._balancers[0])

    def up(self) -> set[str]:
        """Return the servers that get requests."""
        return {name for name, one in self.servers().items() if one["state"].startswith("up")}


def localcloud(*arguments: str) -> None:
    """Let something happen to the local cloud's machines: kill, pause, resume, cut, join."""
    command = [sys.executable, "-m", "localcloud", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
