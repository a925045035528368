#!/usr/bin/python
"""Ansible module: what the machines of each role may ask of the cloud."""

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_profiles
short_description: What the machines of each role may ask of the cloud
description:
  - Makes an IAM role and an instance profile for each role of the fleet, both named
    C(<fleet>-<region>-<role>), and brings who may take the role, the inline policy C(fleet),
    description and tags to what is wanted.
  - Other policies of these roles are left alone, and so are the profiles of roles that are not
    named.
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  region:
    description: Region of the fleet. IAM itself is the same in all regions.
    type: str
    required: true
  permissions:
    description: For each role the list of its policy's statements.
    type: dict
    required: true
  tags:
    description: Tags of the IAM roles, which have the tag C(role) besides. Others are removed.
    type: dict
    default: {}
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
- name: Load balancers see the groups
  instance_profiles:
    fleet: superset
    region: eu-central-1
    permissions:
      haproxy:
        - {Effect: Allow, Action: ["autoscaling:Describe*"], Resource: "*"}
"""

RETURN = r"""
steps:
  description: What was done, or would be done.
  returned: success
  type: list
  elements: str
  sample: [create role superset-eu-central-1-haproxy, permit superset-eu-central-1-haproxy]
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import boto3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.cloud.client import AwsError
from ansible.module_utils.superset_fleet.cloud.groups import tags_of
from ansible.module_utils.superset_fleet.control.convergence import (
    Step,
    converge,
    tag_list,
    tag_steps,
)

VERSION = "2012-10-17"
POLICY = "fleet"
TRUST = {
    "Version": VERSION,
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "ec2.amazonaws.com"},
        }
    ],
}


@dataclass(frozen=True)
class Profile:
    """An IAM role, and the instance profile of its name."""

    description: str
    tags: Mapping[str, str]
    policy: Mapping[str, Any] | None
    trust: Mapping[str, Any]
    holds: tuple[str, ...] | None = None  # roles that the instance profile holds; there is none


def wanted_profiles(
    fleet: str, region: str, permissions: Mapping[str, list[Any]], tags: Mapping[str, str]
) -> dict[str, Profile]:
    """Return the profiles that a fleet is to have, by name."""
    return {
        (name := f"{fleet}-{region}-{role}"): Profile(
            description=f"{role} of the fleet {fleet}",
            tags={**tags, "role": role},
            policy={"Version": VERSION, "Statement": statements},
            trust=TRUST,
            holds=(name,),
        )
        for role, statements in permissions.items()
    }


def plan(current: Mapping[str, Profile], wanted: Mapping[str, Profile]) -> list[Step]:
    """Return the steps from some profiles to others."""
    steps = []
    for name, profile in wanted.items():
        there = current.get(name)
        if there is None:
            steps.append(Step("create role", name, profile))
            # The instance profile may have outlived its role, and holds nothing then.
            there = Profile(profile.description, profile.tags, None, profile.trust)
        if there.description != profile.description:
            steps.append(Step("describe", name, profile.description))
        if there.trust != profile.trust:
            steps.append(Step("trust", name, profile.trust))
        if there.policy != profile.policy:
            steps.append(Step("permit", name, profile.policy))
        steps += tag_steps(name, there.tags, profile.tags)
        if there.holds is None:
            steps.append(Step("create instance profile", name, profile.tags))
        if old := set(there.holds or ()) - {name}:
            steps.append(Step("empty", name, sorted(old)))
        if name not in (there.holds or ()):
            steps.append(Step("fill", name))
    return steps


class Profiles:
    """IAM."""

    def __init__(self, names: Iterable[str], region: str) -> None:
        self.names = list(names)
        self.iam = boto3.client("iam", region_name=region)

    def read(self) -> dict[str, Profile]:
        """Return the profiles that there are."""
        return {name: found for name in self.names if (found := self.read_one(name))}

    def read_one(self, name: str) -> Profile | None:
        """Return a role with its instance profile, or None where there is no such role."""
        iam = self.iam
        try:
            role = iam.get_role(RoleName=name)["Role"]
        except iam.exceptions.NoSuchEntityException:
            return None
        try:
            said = iam.get_role_policy(RoleName=name, PolicyName=POLICY)
            policy = said["PolicyDocument"]
        except iam.exceptions.NoSuchEntityException:
            policy = None
        try:
            profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
            holds = tuple(role["RoleName"] for role in profile["Roles"])
        except iam.exceptions.NoSuchEntityException:
            holds = None
        return Profile(
            role.get("Description", ""),
            tags_of(role.get("Tags", [])),
            policy,
            role["AssumeRolePolicyDocument"],
            holds,
        )

    def apply(self, step: Step) -> None:
        """Do one step."""
        iam, name, value = self.iam, step.name, step.value
        match step.verb:
            case "create role":
                iam.create_role(
                    RoleName=name,
                    Description=value.description,
                    AssumeRolePolicyDocument=json.dumps(value.trust),
                    Tags=tag_list(value.tags),
                )
            case "describe":
                iam.update_role(RoleName=name, Description=value)
            case "trust":
                iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(value))
            case "permit":
                iam.put_role_policy(
                    RoleName=name, PolicyName=POLICY, PolicyDocument=json.dumps(value)
                )
            case "tag":
                iam.tag_role(RoleName=name, Tags=tag_list(value))
            case "untag":
                iam.untag_role(RoleName=name, TagKeys=value)
            case "create instance profile":
                with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
                    iam.create_instance_profile(InstanceProfileName=name, Tags=tag_list(value))
            case "empty":
                for role in value:
                    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role)
            case "fill":
                iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "permissions": {"type": "dict", "required": True},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    options = module.params
    fleet, region = options["fleet"], options["region"]
    wanted = wanted_profiles(fleet, region, options["permissions"], options["tags"])
    try:
        before, steps, _ = converge(
            Profiles(wanted, region),
            lambda current: plan(current, wanted),
            region,
            module.check_mode,
        )
    except AwsError as error:
        module.fail_json(msg=f"instance profiles of fleet {fleet}: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=list(map(str, steps)),
        diff={"before": shown(before), "after": shown(wanted)},
    )


def shown(profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """Return profiles as a diff shows them."""
    return {name: asdict(profile) for name, profile in sorted(profiles.items())}


if __name__ == "__main__":
    main()
