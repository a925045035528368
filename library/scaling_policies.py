#!/usr/bin/python
"""Ansible module: refuse scaling policies on groups whose size the scaler sets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: scaling_policies
short_description: Refuse scaling policies on groups whose size the scaler sets
description:
  - Fails where a group of O(groups) has a scaling policy, or a scheduled action, in the cloud. Two
    that set the same size undo each other's work.
  - Changes nothing, so it runs in check mode too.
options:
  groups:
    description: Names of auto-scaling groups that there are.
    type: list
    elements: str
    required: true
  region:
    description: Region of the groups.
    type: str
    required: true
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
- name: Refuse policies of the cloud on what the scaler scales
  scaling_policies:
    groups: [superset-celery_worker]
    region: eu-central-1
"""

RETURN = r"""# """

from typing import Any

import boto3
from ansible.module_utils.basic import AnsibleModule
from botocore.exceptions import BotoCoreError, ClientError


def found(autoscaling: Any, groups: list[str]) -> list[str]:
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


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "str", "required": True},
            "region": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        autoscaling = boto3.client("autoscaling", region_name=module.params["region"])
        problems = found(autoscaling, module.params["groups"])
    except (BotoCoreError, ClientError) as error:
        module.fail_json(msg=f"look for scaling policies: {error}")
    if problems:
        module.fail_json(
            msg=f"{'; '.join(problems)}, but the scaler sets the size of these groups, and two do"
            " not agree. Remove what is named here, or let the cloud scale the group: scaling:"
            " cloud in fleet_groups."
        )
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
