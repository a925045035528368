#!/usr/bin/python
"""Ansible module: what the machines of a fleet's groups start from."""

from __future__ import annotations

DOCUMENTATION = r"""
module: launch_templates
short_description: What the machines of a fleet's groups start from
description:
  - Makes a launch template for each group, named C(<fleet>-<group>). Where the newest version says
    something else than what is wanted, another one is made.
  - The newest version is the default one at once, for machines that start from now on.
  - Templates of groups that are not named are left alone.
options:
  fleet:
    description: Name of the fleet, and of its key pair.
    type: str
    required: true
  region:
    description: Region of the templates.
    type: str
    required: true
  groups:
    description:
      - The groups, each with C(role) where that is not its name. A worker group may have C(queues),
        what its machines take tasks from. These become the machines' tag C(queues).
    type: dict
    required: true
  image_id:
    description: The image that machines start from.
    type: str
    required: true
  root_device_name:
    description: Name of the root volume's device.
    type: str
    required: true
  instance_types:
    description: The instance type of each role.
    type: dict
    required: true
  volume_sizes_gb:
    description: The size of each role's root volume.
    type: dict
    required: true
  security_groups:
    description: The id of each role's security group.
    type: dict
    required: true
  queues:
    description: What worker groups without C(queues) take tasks from.
    type: list
    elements: str
    required: true
  user_data:
    description: User data of the machines.
    type: str
    default: ""
  tags:
    description: Tags of the volumes.
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
- name: Web machines start from an image
  launch_templates:
    fleet: superset
    region: eu-central-1
    groups: {superset_web: {}}
    queues: [sql_lab]
    image_id: ami-0123456789abcdef0
    root_device_name: /dev/xvda
    instance_types: {superset_web: t3.medium}
    volume_sizes_gb: {superset_web: 15}
    security_groups: {superset_web: sg-0123456789abcdef0}
"""

RETURN = r"""
steps:
  description: What was done, or would be done.
  returned: success
  type: list
  elements: str
  sample: [make a version of superset-superset_web]
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.cloud.client import AwsError
from ansible.module_utils.superset_fleet.control import preflight
from ansible.module_utils.superset_fleet.control.convergence import Step, converge, tag_list


class TemplateError(Exception):
    """Says what a group lacks, and what to do."""


@dataclass(frozen=True)
class Template:
    """A launch template: what its newest version says, and which one is the default."""

    data: Mapping[str, Any]
    newest: int = 1
    default: int = 1


def wanted_data(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the template of each group is to say, by name. Raises TemplateError."""
    fleet = options["fleet"]
    for key in ("instance_types", "volume_sizes_gb", "security_groups"):
        if lacking := sorted({*roles(options).values()} - options[key].keys()):
            raise TemplateError(
                f"{key} has no {', '.join(lacking)}: each role of a group needs one; security"
                " groups are made from fleet_openings by playbooks/provision.yml"
            )
    return {
        f"{fleet}-{group}": data_of(options, group, role) for group, role in roles(options).items()
    }


def roles(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the role of each group."""
    return {group: preflight.role_of(group, said) for group, said in options["groups"].items()}


def data_of(options: Mapping[str, Any], group: str, role: str) -> dict[str, Any]:
    """Return what the template of a group is to say."""
    volume = {
        "VolumeSize": int(options["volume_sizes_gb"][role]),
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    tags = []
    if options["tags"]:
        tags.append({"ResourceType": "volume", "Tags": tag_list(options["tags"])})
    queues = preflight.queues_of(group, options["groups"][group], options["queues"])
    if queues is not None:
        # A machine reads its queues once, when it boots. Here they make those that have others
        # old, so that upgrade.yml replaces them.
        queued = tag_list({"queues": " ".join(queues)})
        tags.append({"ResourceType": "instance", "Tags": queued})
    data = {
        "ImageId": options["image_id"],
        "InstanceType": options["instance_types"][role],
        "KeyName": options["fleet"],
        "IamInstanceProfile": {"Name": f"{options['fleet']}-{options['region']}-{role}"},
        "SecurityGroupIds": [options["security_groups"][role]],
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpProtocolIpv6": "disabled",
            "InstanceMetadataTags": "enabled",
        },
        "BlockDeviceMappings": [{"DeviceName": options["root_device_name"], "Ebs": volume}],
    }
    if tags:
        data["TagSpecifications"] = tags
    if options["user_data"]:
        data["UserData"] = base64.b64encode(options["user_data"].encode()).decode()
    return data


def plan(current: Mapping[str, Template], wanted: Mapping[str, Mapping[str, Any]]) -> list[Step]:
    """Return the steps from some templates to others."""
    steps = []
    for name, data in wanted.items():
        there = current.get(name)
        if there is None:
            steps.append(Step("create", name, data))
        elif there.data != data:
            steps.append(Step("make a version of", name, data))
        elif there.default != there.newest:
            steps.append(Step("set the default version of", name, there.newest))
    return steps


class Templates:
    """Launch templates of AWS."""

    def __init__(self, names: Iterable[str], region: str) -> None:
        self.names = list(names)
        self.ec2 = boto3.client("ec2", region_name=region)

    def read(self) -> dict[str, Template]:
        """Return the templates that there are."""
        filters = [{"Name": "launch-template-name", "Values": self.names}]
        pages = self.ec2.get_paginator("describe_launch_templates").paginate(Filters=filters)
        return {
            one["LaunchTemplateName"]: Template(
                self.version(one), one["LatestVersionNumber"], one["DefaultVersionNumber"]
            )
            for page in pages
            for one in page["LaunchTemplates"]
        }

    def version(self, template: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the newest version of a template says."""
        data: dict[str, Any] = self.ec2.describe_launch_template_versions(
            LaunchTemplateId=template["LaunchTemplateId"],
            Versions=[str(template["LatestVersionNumber"])],
        )["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        return data

    def apply(self, step: Step) -> None:
        """Do one step."""
        name, number = step.name, step.value
        if step.verb == "create":
            self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=step.value)
            return
        if step.verb == "make a version of":
            made = self.ec2.create_launch_template_version(
                LaunchTemplateName=name, LaunchTemplateData=step.value
            )
            number = made["LaunchTemplateVersion"]["VersionNumber"]
        self.ec2.modify_launch_template(LaunchTemplateName=name, DefaultVersion=str(number))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "groups": {"type": "dict", "required": True},
            "image_id": {"type": "str", "required": True},
            "root_device_name": {"type": "str", "required": True},
            "instance_types": {"type": "dict", "required": True},
            "volume_sizes_gb": {"type": "dict", "required": True},
            "security_groups": {"type": "dict", "required": True},
            "queues": {"type": "list", "elements": "str", "required": True},
            "user_data": {"type": "str", "default": ""},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    region = module.params["region"]
    if module.check_mode:  # some may be yet to be made
        to_come = {role: f"(that of {role})" for role in roles(module.params).values()}
        module.params["security_groups"] = to_come | module.params["security_groups"]
    try:
        wanted = wanted_data(module.params)
        before, steps, _ = converge(
            Templates(wanted, region),
            lambda current: plan(current, wanted),
            region,
            module.check_mode,
        )
    except (TemplateError, AwsError) as error:
        module.fail_json(msg=f"launch templates of fleet {module.params['fleet']}: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=list(map(str, steps)),
        diff={"before": {name: one.data for name, one in before.items()}, "after": wanted},
    )


if __name__ == "__main__":
    main()
