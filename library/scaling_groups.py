#!/usr/bin/python
"""Ansible module: the auto-scaling groups of a fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: scaling_groups
short_description: The auto-scaling groups of a fleet
description:
  - Makes the groups, named C(<fleet>-<group>), each from the default version of the launch template
    of its name, and brings bounds, subnets, tags and hooks to what is wanted. What was changed is
    waited for, until each group has its machines in service.
  - The number of machines is left to whoever scales the group, within the bounds. A group that had
    room for none begins with C(desired).
  - Web machines and workers have the lifecycle hook C(leave), which lets them finish what they work
    on. There is none for machines that come; until the first site.yml none could become ready.
  - Fails where a worker group that the scaler scales has a scaling policy, or a scheduled action,
    in the cloud. Two that set the same size undo each other's work.
  - Other tags and hooks, and groups that are not named, are left alone.
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  region:
    description: Region of the groups.
    type: str
    required: true
  groups:
    description:
      - The groups by name, each with C(min), C(desired) and C(max); with C(role) where that is not
        its name; worker groups with C(queues) and C(scaling) where they are not the usual ones.
    type: dict
    required: true
  queues:
    description: What worker groups without C(queues) take tasks from.
    type: list
    elements: str
    required: true
  subnets:
    description: Ids of the subnets that machines are in.
    type: list
    elements: str
    required: true
  open:
    description: Whether there may be machines. Without, all groups have room for none.
    type: bool
    default: true
  leave_timeout:
    description: Seconds without a heartbeat after which a machine that leaves is terminated.
    type: int
    required: true
  tags:
    description: Tags of the groups and their machines, which have those of the group besides.
    type: dict
    default: {}
  timeout:
    description: Seconds that machines may take to come.
    type: int
    default: 300
requirements: [boto3]
notes:
  - Credentials and endpoints are those of the AWS configuration.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Two web machines, up to four
  scaling_groups:
    fleet: superset
    region: eu-central-1
    groups: {superset_web: {min: 1, desired: 2, max: 4}}
    queues: [sql_lab]
    subnets: [subnet-0123456789abcdef0]
    leave_timeout: 260
"""

RETURN = r"""
steps:
  description: What was done, or would be done.
  returned: success
  type: list
  elements: str
  sample: [create superset-superset_web]
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import boto3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.cloud.client import AwsError, explained
from ansible.module_utils.superset_fleet.cloud.groups import tags_of
from ansible.module_utils.superset_fleet.control import preflight
from ansible.module_utils.superset_fleet.control.convergence import Step, converge
from ansible.module_utils.superset_fleet.roles import DRAINABLE

LOOK_SECONDS = 1
HOOK = "leave"  # as the agent knows it
GRACE_SECONDS = 300
METRICS = (
    "GroupMinSize",
    "GroupMaxSize",
    "GroupDesiredCapacity",
    "GroupInServiceInstances",
    "GroupPendingInstances",
    "GroupStandbyInstances",
    "GroupTerminatingInstances",
    "GroupTotalInstances",
)


class GroupError(Exception):
    """Says what is wrong with which group, and what to do."""


@dataclass(frozen=True)
class Group:
    """An auto-scaling group, with what is wanted of it."""

    min: int
    max: int
    desired: int
    subnets: tuple[str, ...]  # sorted
    tags: Mapping[str, str]
    template: str  # its name and version
    metrics: bool = True  # whether METRICS are collected
    leave_timeout: int | None = None  # of the hook; there is none


def wanted_groups(options: Mapping[str, Any]) -> dict[str, Group]:
    """Return the groups that a fleet is to have, by name. Raises GroupError."""
    return {
        f"{options['fleet']}-{group}": wanted_group(options, group, said)
        for group, said in options["groups"].items()
    }


def wanted_group(options: Mapping[str, Any], group: str, said: Mapping[str, Any]) -> Group:
    """Return what a group is to be. Raises GroupError."""
    if missing := [key for key in ("min", "desired", "max") if key not in said]:
        raise GroupError(f"{group} has no {', '.join(missing)}: complete it in fleet_groups")
    sizes = [int(said[key]) if options["open"] else 0 for key in ("min", "desired", "max")]
    if not 0 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise GroupError(
            f"{group} has min {sizes[0]}, desired {sizes[1]}, max {sizes[2]}: in fleet_groups"
            " desired is between min and max"
        )
    role = preflight.role_of(group, said)
    tags = {**options["tags"], "fleet": options["fleet"], "role": role, "Name": group}
    queues = preflight.queues_of(group, said, options["queues"])
    if queues is not None:
        tags |= {"queues": " ".join(queues), "scaling": said.get("scaling", "scaler")}
    return Group(
        min=sizes[0],
        desired=sizes[1],
        max=sizes[2],
        subnets=tuple(sorted(options["subnets"])),
        tags=tags,
        template=f"{options['fleet']}-{group} $Default",
        leave_timeout=options["leave_timeout"] if role in DRAINABLE else None,
    )


def plan(current: Mapping[str, Group], wanted: Mapping[str, Group]) -> list[Step]:
    """Return the steps from some groups to others."""
    steps = []
    for name, group in wanted.items():
        there = current.get(name)
        if there is None:
            steps.append(Step("create", name, group))
            continue
        kept = kept_size(there, group)
        if tags := {
            key: value for key, value in group.tags.items() if there.tags.get(key) != value
        }:
            steps.append(Step("tag", name, tags))
        if group.leave_timeout not in (None, there.leave_timeout):
            steps.append(Step("set the hook of", name, group.leave_timeout))
        if not there.metrics:
            steps.append(Step("collect metrics of", name))
        # Last: machines that come for it find the rest as it is to be.
        if settings(there) != settings(kept):
            steps.append(Step("update", name, kept))
    return steps


def kept_size(there: Group, wanted: Group) -> Group:
    """Return what is wanted with the number of machines that there is, where that may stay."""
    if not there.max:
        return wanted
    return replace(wanted, desired=sorted((wanted.min, there.desired, wanted.max))[1])


def settings(group: Group) -> dict[str, Any]:
    """Return the settings of a group in AWS's words."""
    template, _, version = group.template.rpartition(" ")
    return {
        "LaunchTemplate": {"LaunchTemplateName": template, "Version": version},
        "MinSize": group.min,
        "MaxSize": group.max,
        "DesiredCapacity": group.desired,
        "VPCZoneIdentifier": ",".join(group.subnets),
    }


def hook(leave_timeout: int) -> dict[str, Any]:
    """Return the hook in AWS's words."""
    return {
        "LifecycleHookName": HOOK,
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        "HeartbeatTimeout": leave_timeout,
        "DefaultResult": "CONTINUE",
    }


class Groups:
    """Auto-scaling groups of AWS."""

    def __init__(self, names: Iterable[str], region: str) -> None:
        self.names = list(names)
        self.autoscaling = boto3.client("autoscaling", region_name=region)

    def describe(self) -> list[dict[str, Any]]:
        """Return the groups as AWS tells them."""
        pages = self.autoscaling.get_paginator("describe_auto_scaling_groups").paginate(
            AutoScalingGroupNames=self.names
        )
        return [group for page in pages for group in page["AutoScalingGroups"]]

    def read(self) -> dict[str, Group]:
        """Return the groups that there are."""
        return {group["AutoScalingGroupName"]: self.group(group) for group in self.describe()}

    def group(self, said: Mapping[str, Any]) -> Group:
        """Return a group."""
        template = said.get("LaunchTemplate", {})
        hooks = self.autoscaling.describe_lifecycle_hooks(
            AutoScalingGroupName=said["AutoScalingGroupName"], LifecycleHookNames=[HOOK]
        )["LifecycleHooks"]
        as_wanted = hooks and hook(hooks[0]["HeartbeatTimeout"]).items() <= hooks[0].items()
        return Group(
            min=said["MinSize"],
            max=said["MaxSize"],
            desired=said["DesiredCapacity"],
            subnets=tuple(sorted(filter(None, said.get("VPCZoneIdentifier", "").split(",")))),
            tags=tags_of(said.get("Tags", [])),
            template=f"{template.get('LaunchTemplateName')} {template.get('Version')}",
            metrics={*METRICS} <= {one["Metric"] for one in said.get("EnabledMetrics", [])},
            leave_timeout=hooks[0]["HeartbeatTimeout"] if as_wanted else None,
        )

    def apply(self, step: Step) -> None:
        """Do one step."""
        api, name, value = self.autoscaling, step.name, step.value
        match step.verb:
            case "create":
                api.create_auto_scaling_group(
                    AutoScalingGroupName=name,
                    **settings(value),
                    HealthCheckType="EC2",
                    HealthCheckGracePeriod=GRACE_SECONDS,
                    Tags=group_tags(name, value.tags),
                    LifecycleHookSpecificationList=(
                        [] if value.leave_timeout is None else [hook(value.leave_timeout)]
                    ),
                )
                self.collect_metrics(name)
            case "tag":
                api.create_or_update_tags(Tags=group_tags(name, value))
            case "set the hook of":
                api.put_lifecycle_hook(AutoScalingGroupName=name, **hook(value))
            case "collect metrics of":
                self.collect_metrics(name)
            case "update":
                api.update_auto_scaling_group(AutoScalingGroupName=name, **settings(value))

    def collect_metrics(self, name: str) -> None:
        """Let the cloud collect the group's metrics."""
        self.autoscaling.enable_metrics_collection(
            AutoScalingGroupName=name, Granularity="1Minute", Metrics=list(METRICS)
        )

    def wait(self, timeout: float) -> None:
        """Wait until all groups have their machines. Raises GroupError after so many seconds."""
        deadline = time.monotonic() + timeout
        while short := {
            group["AutoScalingGroupName"]: f"{there} of {group['DesiredCapacity']}"
            for group in self.describe()
            if (there := in_service(group)) < group["DesiredCapacity"]
        }:
            if time.monotonic() >= deadline:
                told = ", ".join(f"{name} has {count}" for name, count in short.items())
                raise GroupError(
                    f"{told} machines in service after {timeout:.0f} s; scaling activities say why:"
                    f" aws autoscaling describe-scaling-activities --auto-scaling-group-name "
                    f"{next(iter(short))}"
                )
            time.sleep(LOOK_SECONDS)

    def refuse_policies(self, names: Iterable[str]) -> None:
        """Raise GroupError where the cloud has something that sets the size of groups."""
        if told := policies(self.autoscaling, names):
            raise GroupError(
                f"{'; '.join(told)}, but the scaler sets the size of these groups, and two do"
                " not agree. Remove what is named here, or let the cloud scale the group: scaling:"
                " cloud in fleet_groups."
            )


def policies(autoscaling: Any, groups: Iterable[str]) -> list[str]:
    """Return in words what the cloud has that sets the size of groups."""
    return [
        f"{group} has the {what} {one[name]}"
        for group in groups
        for what, operation, key, name in (
            ("scaling policy", "describe_policies", "ScalingPolicies", "PolicyName"),
            (
                "scheduled action",
                "describe_scheduled_actions",
                "ScheduledUpdateGroupActions",
                "ScheduledActionName",
            ),
        )
        for page in autoscaling.get_paginator(operation).paginate(AutoScalingGroupName=group)
        for one in page[key]
    ]


def group_tags(name: str, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return tags of a group, which its machines have as well, in AWS's words."""
    return [
        {
            "ResourceId": name,
            "ResourceType": "auto-scaling-group",
            "Key": key,
            "Value": value,
            "PropagateAtLaunch": True,
        }
        for key, value in sorted(tags.items())
    ]


def in_service(group: Mapping[str, Any]) -> int:
    """Return how many machines of a group are in service."""
    states = [member["LifecycleState"] for member in group.get("Instances", [])]
    return states.count("InService")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "groups": {"type": "dict", "required": True},
            "queues": {"type": "list", "elements": "str", "required": True},
            "subnets": {"type": "list", "elements": "str", "required": True},
            "open": {"type": "bool", "default": True},
            "leave_timeout": {"type": "int", "required": True},
            "tags": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    options, region = module.params, module.params["region"]
    try:
        wanted = wanted_groups(options)
        groups = Groups(wanted, region)
        with explained(region):
            there = {group["AutoScalingGroupName"] for group in groups.describe()}
            scaled = [name for name, one in wanted.items() if one.tags.get("scaling") == "scaler"]
            groups.refuse_policies(sorted(there.intersection(scaled)))
        before, steps, _ = converge(
            groups, lambda current: plan(current, wanted), region, module.check_mode
        )
        if steps and not module.check_mode:
            with explained(region):
                groups.wait(options["timeout"])
    except (GroupError, AwsError) as error:
        module.fail_json(msg=f"groups of fleet {options['fleet']}: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=list(map(str, steps)),
        diff={"before": shown(before), "after": shown(before | after(before, wanted))},
    )


def after(before: Mapping[str, Group], wanted: Mapping[str, Group]) -> dict[str, Group]:
    """Return what becomes of groups, of which more may be left as it is than is wanted."""
    return {
        name: replace(
            kept_size(there, group),
            tags={**there.tags, **group.tags},
            leave_timeout=group.leave_timeout or there.leave_timeout,
        )
        if (there := before.get(name))
        else group
        for name, group in wanted.items()
    }


def shown(groups: Mapping[str, Group]) -> dict[str, Any]:
    """Return groups as a diff shows them."""
    return {name: asdict(group) for name, group in sorted(groups.items())}


if __name__ == "__main__":
    main()
