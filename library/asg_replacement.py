#!/usr/bin/python
"""Ansible module: one round of replacing the instances of an auto-scaling group."""

from __future__ import annotations

DOCUMENTATION = r"""
module: asg_replacement
short_description: Replace the instances of an auto-scaling group, one round at a time
description:
  - An instance is old when the version of the launch template that it was made from says something
    else than the version that the group starts instances from now.
  - Each run does the next round and waits until the group is complete again. The first round
    adds O(surge) instances, each later one terminates up to O(surge) old ones. Once no more than
    the added ones are left to go, they are not replaced; so no instance is made in vain.
    The last round gives the group its size back. There is never less capacity than before.
  - What the next round is follows from the state of the group alone, so a replacement that was
    interrupted goes on. The size before the first round is in the group's tag C(size_before).
  - Whether newcomers work is for others to find out, between the rounds.
options:
  group:
    description: Name of the group.
    type: str
    required: true
  surge:
    description: How many instances the group may have more than before.
    type: int
    default: 1
  region:
    description: Region of the group.
    type: str
    required: true
  timeout:
    description: Seconds that a round may take until the group is complete.
    type: int
    default: 600
requirements: [boto3]
notes:
  - Credentials and endpoints are those of the AWS configuration.
attributes:
  check_mode:
    support: full
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Do the next round
  asg_replacement:
    group: superset-superset_web
    region: eu-central-1
  register: replacement
"""

RETURN = r"""
step:
  description: What was done, or would be done next.
  returned: success
  type: str
  sample: replace i-0123456789abcdef0
rounds:
  description: How many rounds are left.
  returned: success
  type: int
old:
  description: Instances that are still to be replaced.
  returned: success
  type: list
  elements: str
new:
  description: Instances in service that need no replacement.
  returned: success
  type: list
  elements: str
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.cloud.client import AwsError, explained
from ansible.module_utils.superset_fleet.cloud.groups import Member, group_of
from botocore.exceptions import ClientError

LOOK_SECONDS = 1
TAG = "size_before"  # of the group, "desired/max"
COMING = ("pending", "in_service")  # members that count


class ReplacementError(Exception):
    """Says which action failed on what, and what to do."""


@dataclass(frozen=True)
class State:
    """A group, with its members that count, the oldest launch template versions first."""

    desired: int
    max: int
    before: tuple[int, int] | None  # desired and max before the first round
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()  # in service and healthy
    pending: int = 0

    @property
    def complete(self) -> bool:
        """Whether everybody is there, and nobody too many."""
        return not self.pending and len(self.old) + len(self.new) == self.desired


@dataclass(frozen=True)
class Step:
    """One round."""

    verb: str  # wait, surge, replace, settle
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()  # without replacement

    def __str__(self) -> str:
        return " ".join([self.verb, *self.replaced, *self.removed])


def plan(state: State, surge: int) -> Step | None:
    """Return the next round, or None where nothing is left to do."""
    surge = max(1, surge)
    surged = state.before and state.max > state.before[1]
    if state.old and not surged:
        return Step("surge")
    if not state.complete:
        return Step("wait")
    if state.old and state.before:
        extra = max(0, state.desired - state.before[0])
        batch = state.old[:surge]
        replaced = max(0, min(len(batch), len(state.old) - extra))
        return Step("replace", batch[:replaced], batch[replaced:])
    return Step("settle") if state.before else None


def after(state: State, step: Step, surge: int) -> State:
    """Return what a round makes of a group when newcomers come."""
    if step.verb == "surge":
        size = state.before or (state.desired, state.max)
        added = min(max(1, surge), len(state.old))
        desired = max(state.desired, size[0] + added)
        came = ("?",) * (desired - len(state.old) - len(state.new))
        return State(desired, size[1] + added, size, state.old, state.new + came)
    if step.verb == "replace":
        left = tuple(one for one in state.old if one not in step.replaced + step.removed)
        desired = state.desired - len(step.removed)
        new = state.new + ("?",) * len(step.replaced)
        return State(desired, state.max, state.before, left, new)
    if step.verb == "wait":
        here = len(state.old) + len(state.new)
        came = ("?",) * (state.desired - here)
        desired = max(state.desired, here)
        return State(desired, state.max, state.before, state.old, state.new + came)
    assert state.before
    desired = min(state.desired, state.before[0])
    return State(desired, state.before[1], None, (), state.new[:desired])


def rounds(state: State, surge: int) -> int:
    """Return how many rounds are left."""
    count = 0
    while step := plan(state, surge):
        state, count = after(state, step, surge), count + 1
    return count


class Group:
    """An auto-scaling group of AWS."""

    def __init__(self, name: str, region: str) -> None:
        self.name = name
        self.autoscaling = boto3.client("autoscaling", region_name=region)
        self.ec2 = boto3.client("ec2", region_name=region)

    def read(self) -> State:
        """Return the state of the group. Raises ReplacementError where there is none."""
        found = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        if not found["AutoScalingGroups"]:
            raise ReplacementError(f"there is no group {self.name}: run playbooks/provision.yml")
        described = found["AutoScalingGroups"][0]
        group = group_of(described)
        match = re.fullmatch(r"(\d+)/(\d+)", group.tags.get(TAG, ""))
        members = [one for one in group.members if one.lifecycle in COMING]
        current = self.current_versions(described["LaunchTemplate"]) if members else set()
        old = [one for one in members if one.version not in current]
        new = [one for one in members if one.version in current]
        there = [one.id for one in new if one.state == "InService" and one.healthy]
        return State(
            group.desired,
            group.max,
            (int(match[1]), int(match[2])) if match else None,
            tuple(one.id for one in sorted(old, key=age)),
            tuple(there),
            len(new) - len(there),
        )

    def current_versions(self, template: Mapping[str, str]) -> set[str]:
        """Return the versions that say the same as the one that the group starts from."""
        known = {"LaunchTemplateId": template["LaunchTemplateId"]}
        pages = self.ec2.get_paginator("describe_launch_template_versions").paginate(**known)
        versions = [version for page in pages for version in page["LaunchTemplateVersions"]]
        wanted = self.ec2.describe_launch_template_versions(
            **known, Versions=[template.get("Version", "$Default")]
        )["LaunchTemplateVersions"][0]
        return {
            str(version["VersionNumber"])
            for version in versions
            if version["LaunchTemplateData"] == wanted["LaunchTemplateData"]
        }

    def apply(self, state: State, step: Step, surge: int) -> None:
        """Begin a round."""
        if step.verb == "wait":
            return
        if step.verb == "replace":
            for instance, removed in [(one, False) for one in step.replaced] + [
                (one, True) for one in step.removed
            ]:
                self.terminate(instance, removed)
            return
        wanted = after(state, step, surge)
        if wanted.before:  # is kept before anything is changed
            self.autoscaling.create_or_update_tags(
                Tags=[self.tag() | {"Value": "/".join(map(str, wanted.before))}]
            )
        self.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=self.name, DesiredCapacity=wanted.desired, MaxSize=wanted.max
        )
        if not wanted.before:
            self.autoscaling.delete_tags(Tags=[self.tag()])

    def terminate(self, instance: str, removed: bool) -> None:
        """Terminate a member, with or without a replacement.

        One that the group no longer has is what was wanted: it died, or the group balances its
        zones. How many members there are to be is seen to in a later round.
        """
        try:
            self.autoscaling.terminate_instance_in_auto_scaling_group(
                InstanceId=instance, ShouldDecrementDesiredCapacity=removed
            )
        except ClientError as error:
            if "No managed instance found" not in str(error):
                raise

    def tag(self) -> dict[str, Any]:
        return {
            "ResourceId": self.name,
            "ResourceType": "auto-scaling-group",
            "Key": TAG,
            "PropagateAtLaunch": False,
        }

    def wait(self, gone: tuple[str, ...], timeout: float) -> State:
        """Return the state once the group is complete without those that are to go.

        Raises ReplacementError after so many seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            state = self.read()
            if state.complete and not set(gone) & {*state.old, *state.new}:
                return state
            if time.monotonic() >= deadline:
                there = len(state.old) + len(state.new)
                raise ReplacementError(
                    f"{self.name} has {there} of {state.desired} instances in service after "
                    f"{timeout:.0f} s; its scaling activities say why: aws autoscaling "
                    f"describe-scaling-activities --auto-scaling-group-name {self.name}"
                )
            time.sleep(LOOK_SECONDS)


def age(member: Member) -> tuple[int, str]:
    """Return what members are ordered by, the oldest version first."""
    return int(member.version or 0), member.id


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "group": {"type": "str", "required": True},
            "surge": {"type": "int", "default": 1},
            "region": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    surge, region = module.params["surge"], module.params["region"]
    try:
        with explained(region):
            group = Group(module.params["group"], region)
            state = group.read()
            step = plan(state, surge)
            if step and not module.check_mode:
                group.apply(state, step, surge)
                state = group.wait(step.replaced + step.removed, module.params["timeout"])
        left = rounds(state, surge)
    except (ReplacementError, AwsError) as error:
        module.fail_json(msg=f"replace the instances of {module.params['group']}: {error}")
    module.exit_json(
        changed=bool(step), step=str(step or ""), rounds=left, old=state.old, new=state.new
    )


if __name__ == "__main__":
    main()
