#!/usr/bin/python
"""Ansible module: secrets in the parameter store, made where they are missing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: parameters
short_description: Secrets in the parameter store, made where they are missing
description:
  - Brings parameters below a path to what is wanted. All of them are encrypted (SecureString).
  - Values are in no output, log or diff. Parameters that are not named are left alone.
options:
  path:
    description: What the names of the parameters begin with.
    type: str
    required: true
  region:
    description: Region of the parameters.
    type: str
    required: true
  passwords:
    description:
      - Parameters that get a password of 40 letters and digits, drawn at random, where they are
        missing. One that is there is neither read nor changed.
    type: list
    elements: str
    default: []
  values:
    description: Parameters that are to have a value, by name.
    type: dict
    default: {}
  absent:
    description: Parameters that are not to be there.
    type: list
    elements: str
    default: []
  tags:
    description: Tags of parameters that are made. Those of others stay as they are.
    type: dict
    default: {}
requirements: [boto3]
notes:
  - Credentials and endpoints are those of the AWS configuration.
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details: Which parameters are made, changed and removed; never a value.
author:
  - The superset-fleet project
"""

EXAMPLES = r"""
- name: Make the passwords that are missing
  parameters:
    path: /superset-fleet/superset/secrets
    region: eu-central-1
    passwords: [redis_cache_password, redis_results_password]
"""

RETURN = r"""
steps:
  description: What was done, or would be done.
  returned: success
  type: list
  elements: str
  sample: [make redis_cache_password]
"""

import secrets
import string
from collections.abc import Mapping

import boto3
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.superset_fleet.cloud.client import AwsError
from ansible.module_utils.superset_fleet.control.convergence import Step, converge, tag_list

LENGTH = 40
CHARACTERS = string.ascii_letters + string.digits


def plan(
    current: Mapping[str, str],
    passwords: list[str],
    values: Mapping[str, str],
    absent: list[str],
) -> list[Step]:
    """Return the steps from some parameters to others. Of those in `passwords` only names count."""
    return [
        *(Step("make", name) for name in passwords if name not in current),
        *(Step("store", name, value) for name, value in values.items() if name not in current),
        *(
            Step("change", name, value)
            for name, value in values.items()
            if current.get(name, value) != value
        ),
        *(Step("remove", name) for name in absent if name in current),
    ]


class Parameters:
    """The parameters below a path of AWS's parameter store."""

    def __init__(self, path: str, region: str, decrypt: bool, tags: Mapping[str, str]) -> None:
        self.path = path.rstrip("/")
        self.decrypt = decrypt
        self.tags = tags
        self.ssm = boto3.client("ssm", region_name=region)

    def read(self) -> dict[str, str]:
        """Return the parameters that there are, with their values where these are needed."""
        pages = self.ssm.get_paginator("get_parameters_by_path").paginate(
            Path=self.path, WithDecryption=self.decrypt
        )
        return {
            one["Name"].rpartition("/")[2]: one["Value"]
            for page in pages
            for one in page["Parameters"]
        }

    def apply(self, step: Step) -> None:
        """Do one step."""
        name = f"{self.path}/{step.name}"
        stored = {"Name": name, "Type": "SecureString"}
        match step.verb:
            case "make" | "store":
                value = step.value or "".join(secrets.choice(CHARACTERS) for _ in range(LENGTH))
                self.ssm.put_parameter(**stored, Value=value, Tags=tag_list(self.tags))
            case "change":
                self.ssm.put_parameter(**stored, Value=step.value, Overwrite=True)
            case "remove":
                self.ssm.delete_parameters(Names=[name])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "passwords": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "values": {"type": "dict", "default": {}, "no_log": True},
            "absent": {"type": "list", "elements": "str", "default": []},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    options = module.params
    passwords, values, absent = options["passwords"], options["values"], options["absent"]
    parameters = Parameters(options["path"], options["region"], bool(values), options["tags"])
    try:
        before, steps, _ = converge(
            parameters,
            lambda current: plan(current, passwords, values, absent),
            options["region"],
            module.check_mode,
        )
    except AwsError as error:
        module.fail_json(msg=f"parameters below {options['path']}: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=list(map(str, steps)),
        diff={
            "before": "".join(f"{name}\n" for name in sorted(before)),
            "after": "".join(f"{line}\n" for line in outcome(before, steps)),
        },
    )


def outcome(before: Mapping[str, str], steps: list[Step]) -> list[str]:
    """Return the names of the parameters after some steps; another value is said to be another."""
    verbs = {step.name: step.verb for step in steps}
    return [
        f"{name} (another value)" if verbs.get(name) == "change" else name
        for name in sorted(before.keys() | verbs.keys())
        if verbs.get(name) != "remove"
    ]


if __name__ == "__main__":
    main()
