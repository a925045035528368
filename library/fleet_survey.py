#!/usr/bin/python
"""Ansible module: what the machines of a fleet are made from and where."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_survey
short_description: What the machines of a fleet are made from and where
description:
  - Looks up subnets, security groups and images, and changes nothing.
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  region:
    description: Region of the fleet.
    type: str
    required: true
  subnet_ids:
    description: The subnets, where they are not those with the fleet's tag.
    type: list
    elements: str
    default: []
  base_image:
    description: Who owns the base images, and what they are found by.
    type: dict
    required: true
    suboptions:
      owners:
        description: Accounts, or V(self).
        type: list
        elements: str
        required: true
      filters:
        description: Values of the EC2 API's filters, by name.
        type: dict
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
- name: Survey
  fleet_survey:
    fleet: superset
    region: eu-central-1
    base_image: {owners: [self], filters: {"tag:name": debian-12}}
  register: survey
"""

RETURN = r"""
subnets:
  description: The subnets, ordered by zone, each with its id and what else EC2 says.
  returned: success
  type: list
  elements: dict
security_groups:
  description: The id of each role's security group.
  returned: success
  type: dict
  sample: {redis: sg-0123456789abcdef0}
base_images:
  description: Base images that are available, the newest last.
  returned: success
  type: list
  elements: dict
images:
  description: Images of the fleet that are available, the newest last.
  returned: success
  type: list
  elements: dict
rejected_images:
  description: Images that an upgrade rejected, the newest last.
  returned: success
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

import boto3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.dict_transformations import camel_dict_to_snake_dict
from ansible.module_utils.superset_fleet.cloud.client import AwsError, explained
from ansible.module_utils.superset_fleet.cloud.groups import tags_of


def filters(wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return filters as EC2 wants them."""
    return [
        {"Name": name, "Values": list(map(str, value if isinstance(value, list) else [value]))}
        for name, value in wanted.items()
    ]


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what EC2 says of a thing, as Ansible's own modules have it."""
    told: dict[str, Any] = camel_dict_to_snake_dict(said, ignore_list=["Tags"])
    return told | {"tags": tags_of(said.get("Tags", []))}


class Survey:
    """EC2, as it is asked for the things of a fleet."""

    def __init__(self, fleet: str, region: str) -> None:
        self.fleet = fleet
        self.ec2 = boto3.client("ec2", region_name=region)

    def all(self, operation: str, key: str, **wanted: Any) -> list[dict[str, Any]]:
        """Return every thing that an operation tells."""
        pages = self.ec2.get_paginator(operation).paginate(**wanted)
        return [plain(one) for page in pages for one in page[key]]

    def subnets(self, subnet_ids: list[str]) -> list[dict[str, Any]]:
        """Return the subnets, ordered by zone."""
        asked = {"subnet-id": subnet_ids} if subnet_ids else {"tag:fleet": self.fleet}
        found = self.all("describe_subnets", "Subnets", Filters=filters(asked))
        found.sort(key=lambda subnet: (subnet["availability_zone"], subnet["subnet_id"]))
        return [subnet | {"id": subnet["subnet_id"]} for subnet in found]

    def security_groups(self) -> dict[str, str]:
        """Return the id of each role's security group."""
        found = self.all(
            "describe_security_groups",
            "SecurityGroups",
            Filters=filters({"tag:fleet": self.fleet, "tag-key": "role"}),
        )
        return {group["tags"]["role"]: group["group_id"] for group in found}

    def images(self, owners: list[str], asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return images that are available, the newest last."""
        found = self.all(
            "describe_images",
            "Images",
            Owners=owners,
            Filters=filters({"state": "available", **asked}),
        )
        return sorted(found, key=lambda image: str(image["creation_date"]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "subnet_ids": {"type": "list", "elements": "str", "default": []},
            "base_image": {
                "type": "dict",
                "required": True,
                "options": {
                    "owners": {"type": "list", "elements": "str", "required": True},
                    "filters": {"type": "dict", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    fleet, region, base = (module.params[key] for key in ("fleet", "region", "base_image"))
    own = {"tag:fleet": fleet}
    try:
        with explained(region):
            survey = Survey(fleet, region)
            told = {
                "subnets": survey.subnets(module.params["subnet_ids"]),
                "security_groups": survey.security_groups(),
                "base_images": survey.images(base["owners"], base["filters"]),
                "images": survey.images(["self"], own | {"tag:kind": "superset"}),
                "rejected_images": survey.images(["self"], own | {"tag:kind": "rejected"}),
            }
    except AwsError as error:
        module.fail_json(msg=f"survey of fleet {fleet}: {error}")
    module.exit_json(changed=False, **told)


if __name__ == "__main__":
    main()
