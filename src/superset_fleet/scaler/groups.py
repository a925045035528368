"""Worker groups: machines that serve the same queues, as the cloud and their workers tell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..cloud import client as aws
from ..cloud import groups as cloud
from ..cloud.metadata import Metadata
from ..roles import WORKER
from ..state.records import Worker
from ..times import TIMES

# Machines that no cloud has, as one group.
STANDING = WORKER
MOST = 1000  # machines of these: as many as are needed

SCALER, CLOUD = "scaler", "cloud"  # the tag `scaling`: who sets a group's desired capacity
NOT_OURS = {
    CLOUD: "the cloud's own policies set its size",
    "none": "nobody sets its size but you",
}
NAMESPACE = "superset-fleet"  # of the metrics; fleet_permissions names it, too


class Machine(NamedTuple):
    """A member of a group."""

    id: str
    in_service: bool
    protected: bool = False


@dataclass(frozen=True)
class WorkerGroup:
    """Machines that serve the same queues."""

    name: str
    queues: tuple[str, ...]  # none: all that there are
    scaling: str
    min: int
    max: int
    desired: int
    machines: tuple[Machine, ...] = ()

    @property
    def obstacle(self) -> str:
        """Why its size is not set here; '' where it is."""
        if self.scaling != SCALER:
            return NOT_OURS.get(self.scaling, f"its tag `scaling` is {self.scaling!r}")
        return "" if self.max else "it may have no machine (its max is 0)"


def worker_group(group: cloud.Group) -> WorkerGroup:
    """Return the worker group that an auto-scaling group is."""
    machines = [
        Machine(one.id, one.lifecycle == "in_service" and one.healthy, one.protected)
        for one in group.members
        if one.lifecycle != "terminating"
    ]
    return WorkerGroup(
        group.name,
        tuple(group.tags.get("queues", "").split()),
        group.tags.get("scaling", SCALER),
        group.min,
        group.max,
        group.desired,
        tuple(machines),
    )


def standing(lives: Mapping[str, Worker]) -> WorkerGroup:
    """Return the machines that no cloud has."""
    machines = tuple(Machine(name, in_service=True) for name in lives)
    return WorkerGroup(STANDING, (), "none", 0, MOST, len(machines), machines)


def machine_of(worker: Worker) -> str:
    """Return the machine that a worker is on."""
    return worker.instance or worker.host


def lives(workers: Iterable[Worker], now: float) -> dict[str, Worker]:
    """Return by machine the newest of its workers that were heard lately."""
    heard = [worker for worker in workers if now - worker.last_beat < TIMES.lost_seconds]
    return {machine_of(worker): worker for worker in sorted(heard, key=lambda one: one.since)}


def owners(groups: Iterable[WorkerGroup]) -> dict[str, str]:
    """Return which group's matter a queue is: of several the one that serves the fewest.

    The others take from it, too, but have machines for queues of their own. A group that cannot
    have more machines leaves it to one that can.
    """
    fewest = sorted(
        groups,
        key=lambda group: (
            bool(group.obstacle) or group.desired >= group.max,
            len(group.queues),
            group.name,
        ),
        reverse=True,
    )
    return {queue: group.name for group in fewest for queue in group.queues}


class CloudGroups:
    """The worker groups of the fleet that this machine is a part of.

    Every method raises AwsError, or MetadataError where the machine does not learn which fleet
    that is.
    """

    def __init__(self, metadata: Metadata, config_file: Path | None) -> None:
        self._metadata, self._config_file = metadata, config_file
        self._region = self._fleet = ""
        self._autoscaling: Any = None
        self._cloudwatch: Any = None

    def groups(self) -> list[WorkerGroup]:
        """Return the groups, in one call."""
        self._connect()
        with aws.explained(self._region):
            found = cloud.groups(self._autoscaling, fleet=self._fleet, role=WORKER)
        return [worker_group(group) for group in found]

    def resize(self, group: str, desired: int) -> None:
        """Let a group have so many machines."""
        with aws.explained(self._region):
            self._autoscaling.set_desired_capacity(
                AutoScalingGroupName=group, DesiredCapacity=desired
            )

    def protect(self, group: str, machines: list[str], protected: bool) -> None:
        """Let scale-in terminate none of these machines, or any of them."""
        with aws.explained(self._region):
            for start in range(0, len(machines), 50):  # AWS takes no more at once
                self._autoscaling.set_instance_protection(
                    AutoScalingGroupName=group,
                    InstanceIds=machines[start : start + 50],
                    ProtectedFromScaleIn=protected,
                )

    def measured(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Give the metrics of groups to CloudWatch: by name of the group, by name of the metric."""
        data = [
            {
                "MetricName": name,
                "Dimensions": [{"Name": "AutoScalingGroupName", "Value": group}],
                "Value": value,
                "Unit": "Count",
            }
            for group, metrics in values.items()
            for name, value in metrics.items()
        ]
        with aws.explained(self._region):
            self._cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=data)

    def _connect(self) -> None:
        if self._autoscaling:
            return
        me = self._metadata.identity()
        self._region, self._fleet = me.region, me.fleet
        with aws.explained(me.region):
            session = aws.patient(self._config_file)
            self._cloudwatch, self._autoscaling = (
                aws.client(session, service, me.region, timeout_seconds=TIMES.cloud_seconds)
                for service in ("cloudwatch", "autoscaling")
            )
