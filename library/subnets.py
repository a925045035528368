#!/usr/bin/python
"""Ansible module: the subnets of a fleet, one in each zone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: subnets
short_description: The subnets of a fleet, one in each zone
description:
  - Makes a subnet in each zone, named C(<fleet>-<zone>), and brings its tags to what is wanted. Its
    machines get public addresses, without which there would be no way out to the package
    repositories.
  - Each gets 1024 addresses of the VPC, in the order of the zones. The first 1024 stay free.
  - Subnets that are not named are left alone.
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  region:
    description: Region of the VPC.
    type: str
    required: true
  vpc_id:
    description: The VPC.
    type: str
    required: true
  vpc_cidr:
    description: Addresses of the VPC.
    type: str
    required: true
  zones:
    description: The zones.
    type: list
    elements: str
    required: true
  tags:
    description: Tags of the subnets, which have the tag C(Name) besides. Others are removed.
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
- name: Two zones
  subnets:
    fleet: superset
    region: eu-central-1
    vpc_id: vpc-0123456789abcdef0
    vpc_cidr: 10.80.0.0/20
    zones: [eu-central-1a, eu-central-1b]
"""

RETURN = r"""
ids:
  description: The ids of the subnets, in the order of the zones.
  returned: success
  type: list
  elements: str
steps:
  description: What was done, or would be done.
  returned: success
  type: list
  elements: str
  sample: [create 10.80.4.0/22]
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
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

PREFIX = 22


class SubnetError(Exception):
    """Says what does not fit, and what to do."""


@dataclass(frozen=True)
class Subnet:
    """A subnet."""

    zone: str
    tags: Mapping[str, str]
    public: bool = True  # whether its machines get public addresses


def wanted_subnets(
    fleet: str, vpc_cidr: str, zones: list[str], tags: Mapping[str, str]
) -> dict[str, Subnet]:
    """Return the subnets that a fleet is to have, by their addresses. Raises SubnetError."""
    block = ipaddress.ip_network(vpc_cidr)
    room = 2 ** max(0, PREFIX - block.prefixlen) - 1
    if len(zones) > room:
        raise SubnetError(
            f"fleet_vpc_cidr {vpc_cidr} has room for {room} subnets of 1024 addresses beside the"
            f" one that stays free, and fleet_zones are {len(zones)}: make it larger, or take fewer"
        )
    parts = islice(block.subnets(new_prefix=PREFIX), 1, None)
    return {
        str(part): Subnet(zone, {**tags, "Name": f"{fleet}-{zone}"})
        for zone, part in zip(zones, parts, strict=False)
    }


def plan(current: Mapping[str, Subnet], wanted: Mapping[str, Subnet]) -> list[Step]:
    """Return the steps from some subnets to others. Raises SubnetError."""
    steps = []
    for block, subnet in wanted.items():
        there = current.get(block)
        if there is None:
            steps.append(Step("create", block, subnet))
            there = Subnet(subnet.zone, subnet.tags, public=False)
        if there.zone != subnet.zone:
            raise SubnetError(
                f"subnet {block} is in zone {there.zone} and not in {subnet.zone}: leave"
                " fleet_zones in the order that they were in, and add new ones at the end"
            )
        steps += tag_steps(block, there.tags, subnet.tags)
        if not there.public:
            steps.append(Step("give public addresses in", block))
    return steps


class Subnets:
    """The subnets of a VPC of AWS."""

    def __init__(self, vpc_id: str, region: str) -> None:
        self.vpc_id = vpc_id
        self.ec2 = boto3.client("ec2", region_name=region)
        self.ids: dict[str, str] = {}

    def read(self) -> dict[str, Subnet]:
        """Return the subnets that there are."""
        pages = self.ec2.get_paginator("describe_subnets").paginate(
            Filters=[{"Name": "vpc-id", "Values": [self.vpc_id]}]
        )
        found = [subnet for page in pages for subnet in page["Subnets"]]
        self.ids |= {subnet["CidrBlock"]: subnet["SubnetId"] for subnet in found}
        return {
            subnet["CidrBlock"]: Subnet(
                subnet["AvailabilityZone"],
                tags_of(subnet.get("Tags", [])),
                subnet["MapPublicIpOnLaunch"],
            )
            for subnet in found
        }

    def apply(self, step: Step) -> None:
        """Do one step."""
        block, value = step.name, step.value
        match step.verb:
            case "create":
                made = self.ec2.create_subnet(
                    VpcId=self.vpc_id,
                    CidrBlock=block,
                    AvailabilityZone=value.zone,
                    TagSpecifications=[{"ResourceType": "subnet", "Tags": tag_list(value.tags)}],
                )
                self.ids[block] = made["Subnet"]["SubnetId"]
            case "tag":
                self.ec2.create_tags(Resources=[self.ids[block]], Tags=tag_list(value))
            case "untag":
                tags = [{"Key": key} for key in value]
                self.ec2.delete_tags(Resources=[self.ids[block]], Tags=tags)
            case "give public addresses in":
                self.ec2.modify_subnet_attribute(
                    SubnetId=self.ids[block], MapPublicIpOnLaunch={"Value": True}
                )


def shown(subnets: Mapping[str, Subnet], blocks: Iterable[str]) -> dict[str, Any]:
    """Return subnets as a diff shows them."""
    return {block: asdict(subnets[block]) for block in blocks if block in subnets}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "vpc_id": {"type": "str", "required": True},
            "vpc_cidr": {"type": "str", "required": True},
            "zones": {"type": "list", "elements": "str", "required": True},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    fleet, region = module.params["fleet"], module.params["region"]
    try:
        wanted = wanted_subnets(
            fleet, module.params["vpc_cidr"], module.params["zones"], module.params["tags"]
        )
        subnets = Subnets(module.params["vpc_id"], region)
        before, steps, _ = converge(
            subnets, lambda current: plan(current, wanted), region, module.check_mode
        )
    except (SubnetError, AwsError) as error:
        module.fail_json(msg=f"subnets of fleet {fleet}: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=list(map(str, steps)),
        ids=[subnets.ids[block] for block in wanted if block in subnets.ids],
        diff={"before": shown(before, wanted), "after": shown(wanted, wanted)},
    )


if __name__ == "__main__":
    main()
