"""The auto-scaling groups of the local cloud, and what HAProxy makes of their members."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import boto3

from superset_fleet import status
from superset_fleet.ansible import ROOT

from .machines import facts


class Group:
    """An auto-scaling group of this checkout's fleet."""

    def __init__(self, role: str) -> None:
        known = facts()
        self.name = f"{known['fleet_name']}-{role}"
        os.environ["AWS_CONFIG_FILE"] = known["fleet_aws_config_file"]
        self._scaling = boto3.client("autoscaling", region_name=known["fleet_region"])

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
        """Set how many members the group wants."""
        self._scaling.set_desired_capacity(AutoScalingGroupName=self.name, DesiredCapacity=number)


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
