"""Auto-scaling groups and their members, as AWS describes them: the one reading for everybody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import client as aws

# States of auto-scaling groups' members, up to the colon, and of plain instances. What AWS may
# add one day counts as standby: on hold, no work.
LIFECYCLES = {
    "Pending": "pending",
    "InService": "in_service",
    "Terminating": "terminating",
    "Terminated": "terminating",
    "Detaching": "terminating",
    "Detached": "terminating",
    "pending": "pending",
    "running": "in_service",
    "shutting-down": "terminating",
}


def lifecycle_of(state: str) -> str:
    """Return in_service, pending, terminating or standby."""
    return LIFECYCLES.get(state.partition(":")[0], "standby")


def tags_of(listed: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return tags as AWS lists them, without AWS's own, as a dictionary."""
    return {tag["Key"]: tag["Value"] for tag in listed if not tag["Key"].startswith("aws:")}


class Member(NamedTuple):
    """An instance of a group."""

    id: str
    state: str  # its LifecycleState
    healthy: bool
    zone: str
    protected: bool  # from scale-in
    version: str  # of the launch template that it was made from; '' where it has none

    @property
    def lifecycle(self) -> str:
        """in_service, pending, terminating or standby."""
        return lifecycle_of(self.state)


class Group(NamedTuple):
    """An auto-scaling group."""

    name: str
    tags: dict[str, str]
    min: int  # machines, as max and desired
    max: int
    desired: int
    members: tuple[Member, ...]

    @property
    def role(self) -> str:
        """Its tag `role`. Raises AwsError when it has none."""
        if role := self.tags.get("role"):
            return role
        raise aws.AwsError(f"auto-scaling group {self.name} has no tag `role`: add it")


def group_of(described: Mapping[str, Any]) -> Group:
    """Return a group as AWS describes it."""
    members = tuple(
        Member(
            one["InstanceId"],
            one["LifecycleState"],
            one["HealthStatus"].lower() == "healthy",
            one["AvailabilityZone"],
            one.get("ProtectedFromScaleIn", False),
            str(one.get("LaunchTemplate", {}).get("Version", "")),
        )
        for one in described.get("Instances", ())
    )
    return Group(
        described["AutoScalingGroupName"],
        tags_of(described.get("Tags", ())),
        described["MinSize"],
        described["MaxSize"],
        described["DesiredCapacity"],
        members,
    )


def groups(autoscaling: Any, **tags: str) -> list[Group]:
    """Return the groups that have all these tags, in one call for each 100.

    `autoscaling` is a client, whose errors pass.
    """
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
    found = [
        group_of(described)
        for page in aws.pages(
            autoscaling.describe_auto_scaling_groups, Filters=filters, MaxRecords=100
        )
        for described in page["AutoScalingGroups"]
    ]
    # AWS' filters are for tags as such: a group may pass them by two different tags.
    return [group for group in found if tags.items() <= group.tags.items()]
