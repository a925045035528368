#!/usr/bin/python
"""Ansible module: the security groups of a fleet, and what may talk to what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: security_groups
short_description: The security groups of a fleet, and what may talk to what
description:
  - Makes a security group for each role, named C(<fleet>-<role>), and brings its rules for what
    comes in and its tags to what is wanted. Rules that are not wanted are removed.
  - A rule may name any group of the fleet, also one that is yet to be made.
  - A group is made with a rule that lets everything out; where that is missing it is made again.
    Other rules for what goes out are left alone, and so are groups of roles that are not named.
  - The description of a group that exists cannot be changed, and is left as it is.
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  region:
    description: Region of the groups.
    type: str
    required: true
  vpc_id:
    description: The VPC that the groups are in.
    type: str
    required: true
  openings:
    description:
      - A list of rules for each role.
      - C(ports) are numbers, or ranges as V(6379-6381). C(proto) is V(tcp) by default, or V(udp).
      - Who may come in is one or more of C(cidr_ip), networks; C(group_name), groups of the fleet
        by their whole names; C(group_id), other groups.
    type: dict
    required: true
  control:
    description: Networks that reach ssh in all groups.
    type: list
    elements: str
    required: true
  tags:
    description: Tags of the groups, which have the tag C(role) besides. Other tags are removed.
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
- name: HAProxy is open to users, and web machines to HAProxy
  security_groups:
    fleet: superset
    region: eu-central-1
    vpc_id: vpc-0123456789abcdef0
    openings:
      haproxy:
        - {ports: [80, 443], cidr_ip: [0.0.0.0/0]}
      superset_web:
        - {ports: [8088], group_name: [superset-haproxy]}
    control: [10.80.0.0/20]
"""

RETURN = r"""
groups:
  description: The id of each role's group; without those that check mode did not make.
  returned: success
  type: dict
  sample: {haproxy: sg-0123456789abcdef0}
steps:
  description: What was done, or would be done.
  returned: success
  type: list
  elements: str
  sample: [create superset-haproxy, allow superset-haproxy]
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

SSH = 22
SOURCES = ("cidr_ip", "group_name", "group_id")
EVERYWHERE = "0.0.0.0/0"


class OpeningError(Exception):
    """Says which rule of which role is wrong, and what to do."""


@dataclass(frozen=True, order=True)
class Rule:
    """Who may come in where. A source is a network, or a group by its name or its id."""

    source: str
    protocol: str = "tcp"
    first: int = -1  # where the protocol has ports
    last: int = -1

    def __str__(self) -> str:
        ports = f"{self.first}-{self.last}" if self.first != self.last else f"{self.first}"
        return f"{self.protocol} {ports} from {self.source}"


EVERYTHING = Rule(EVERYWHERE, "-1")


@dataclass(frozen=True)
class Group:
    """A security group."""

    description: str
    tags: Mapping[str, str]
    rules: frozenset[Rule]
    outgoing: frozenset[Rule] = frozenset({EVERYTHING})


def wanted_groups(
    fleet: str,
    openings: Mapping[str, list[Mapping[str, Any]]],
    control: list[str],
    tags: Mapping[str, str],
) -> dict[str, Group]:
    """Return the groups that a fleet is to have, by name. Raises OpeningError."""
    names = {f"{fleet}-{role}" for role in openings}
    return {
        f"{fleet}-{role}": Group(
            f"{role} of the fleet {fleet}",
            {**tags, "role": role},
            frozenset(
                rule
                for opening in [*(rules or []), {"ports": [SSH], "cidr_ip": control}]
                for rule in rules_of(role, opening, names)
            ),
        )
        for role, rules in openings.items()
    }


def rules_of(role: str, opening: Mapping[str, Any], names: set[str]) -> Iterable[Rule]:
    """Return the rules that an opening stands for. Raises OpeningError."""
    unknown = sorted(opening.keys() - {"ports", "proto", *SOURCES})
    if unknown:
        raise OpeningError(
            f"{role}: {', '.join(unknown)}: no such word: a rule has ports, proto, "
            f"{', '.join(SOURCES)}"
        )
    if not opening.get("ports") or not opening.keys() & {*SOURCES}:
        raise OpeningError(
            f"{role}: {dict(opening)}: a rule has ports, and who may come in:"
            f" {' or '.join(SOURCES)}"
        )
    protocol = opening.get("proto", "tcp")
    if protocol not in ("tcp", "udp"):
        raise OpeningError(f"{role}: proto {protocol}: tcp or udp")
    sources = {
        *map(network, several(opening.get("cidr_ip", []))),
        *several(opening.get("group_name", [])),
        *several(opening.get("group_id", [])),
    }
    for name in several(opening.get("group_name", [])):
        if name not in names:
            raise OpeningError(
                f"{role}: the fleet has no group {name}, it has {', '.join(sorted(names))}; name a"
                " group of others by group_id"
            )
    return [
        Rule(source, protocol, *port_range(role, port))
        for port in several(opening["ports"])
        for source in sources
    ]


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def network(text: str) -> str:
    """Return a network as AWS writes it. Raises OpeningError."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise OpeningError(f"{text} is not a network: write one as 10.80.0.0/20") from None


def port_range(role: str, ports: Any) -> tuple[int, int]:
    """Return first and last of a port or a range. Raises OpeningError."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(ports))
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not 0 <= first <= last <= 65535:
        raise OpeningError(f"{role}: ports {ports}: write a port, or a range as 6379-6381")
    return first, last


def plan(current: Mapping[str, Group], wanted: Mapping[str, Group]) -> list[Step]:
    """Return the steps from some groups to others: all are there before one names another."""
    steps = [Step("create", name, group) for name, group in wanted.items() if name not in current]
    for name, group in wanted.items():
        there = current.get(name, Group("", group.tags, frozenset()))
        steps += tag_steps(name, there.tags, group.tags)
        # What is new first: who is let in by both is not shut out in between.
        if new := group.rules - there.rules:
            steps.append(Step("allow", name, new))
        if old := there.rules - group.rules:
            steps.append(Step("revoke", name, old))
        if out := group.outgoing - there.outgoing:
            steps.append(Step("let out", name, out))
    return steps


class Groups:
    """The security groups of a fleet in a VPC of AWS."""

    def __init__(self, names: Iterable[str], vpc_id: str, region: str) -> None:
        self.names = list(names)
        self.vpc_id = vpc_id
        self.ec2 = boto3.client("ec2", region_name=region)
        self.ids: dict[str, str] = {}

    def read(self) -> dict[str, Group]:
        """Return the groups that there are."""
        filters = [
            {"Name": "vpc-id", "Values": [self.vpc_id]},
            {"Name": "group-name", "Values": self.names},
        ]
        pages = self.ec2.get_paginator("describe_security_groups").paginate(Filters=filters)
        found = [group for page in pages for group in page["SecurityGroups"]]
        self.ids |= {group["GroupName"]: group["GroupId"] for group in found}
        return {
            group["GroupName"]: Group(
                group["Description"],
                tags_of(group.get("Tags", [])),
                frozenset(self.rules(group["IpPermissions"])),
                frozenset(self.rules(group["IpPermissionsEgress"])),
            )
            for group in found
        }

    def rules(self, permissions: Iterable[Mapping[str, Any]]) -> Iterable[Rule]:
        """Yield the rules of AWS's permissions."""
        names = {group_id: name for name, group_id in self.ids.items()}
        for one in permissions:
            for source in (
                *(pair["CidrIp"] for pair in one.get("IpRanges", [])),
                *(pair["CidrIpv6"] for pair in one.get("Ipv6Ranges", [])),
                *(pair["PrefixListId"] for pair in one.get("PrefixListIds", [])),
                *(
                    names.get(pair["GroupId"], pair["GroupId"])
                    for pair in one.get("UserIdGroupPairs", [])
                ),
            ):
                ports = (one.get("FromPort", -1), one.get("ToPort", -1))
                yield Rule(source, one["IpProtocol"], *ports)

    def permission(self, rule: Rule) -> dict[str, Any]:
        """Return a rule as AWS has it."""
        source = rule.source
        made: dict[str, Any] = {"IpProtocol": rule.protocol}
        if rule.protocol != "-1":
            made |= {"FromPort": rule.first, "ToPort": rule.last}
        if source.startswith("pl-"):
            return made | {"PrefixListIds": [{"PrefixListId": source}]}
        if ":" in source:
            return made | {"Ipv6Ranges": [{"CidrIpv6": source}]}
        if "/" in source:
            return made | {"IpRanges": [{"CidrIp": source}]}
        return made | {"UserIdGroupPairs": [{"GroupId": self.ids.get(source, source)}]}

    def apply(self, step: Step) -> None:
        """Do one step."""
        if step.verb == "create":
            made = self.ec2.create_security_group(
                GroupName=step.name,
                Description=step.value.description,
                VpcId=self.vpc_id,
                TagSpecifications=[
                    {"ResourceType": "security-group", "Tags": tag_list(step.value.tags)}
                ],
            )
            self.ids[step.name] = made["GroupId"]
            return
        group_id = self.ids[step.name]
        if step.verb == "tag":
            self.ec2.create_tags(Resources=[group_id], Tags=tag_list(step.value))
        elif step.verb == "untag":
            tags = [{"Key": key} for key in step.value]
            self.ec2.delete_tags(Resources=[group_id], Tags=tags)
        else:
            call = {
                "allow": self.ec2.authorize_security_group_ingress,
                "revoke": self.ec2.revoke_security_group_ingress,
                "let out": self.ec2.authorize_security_group_egress,
            }[step.verb]
            call(GroupId=group_id, IpPermissions=list(map(self.permission, sorted(step.value))))


def shown(groups: Mapping[str, Group]) -> dict[str, Any]:
    """Return groups as a diff shows them."""
    return {
        name: {"tags": dict(group.tags), "rules": sorted(map(str, group.rules))}
        for name, group in sorted(groups.items())
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "fleet": {"type": "str", "required": True},
            "region": {"type": "str", "required": True},
            "vpc_id": {"type": "str", "required": True},
            "openings": {"type": "dict", "required": True},
            "control": {"type": "list", "elements": "str", "required": True},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    options = module.params
    fleet, region = options["fleet"], options["region"]
    try:
        wanted = wanted_groups(fleet, options["openings"], options["control"], options["tags"])
        groups = Groups(wanted, options["vpc_id"], region)
        before, steps, _ = converge(
            groups, lambda current: plan(current, wanted), region, module.check_mode
        )
    except (OpeningError, AwsError) as error:
        module.fail_json(msg=f"security groups of fleet {fleet}: {error}")
    module.exit_json(
        changed=bool(steps),
        steps=list(map(str, steps)),
        groups={name.removeprefix(f"{fleet}-"): one for name, one in sorted(groups.ids.items())},
        diff={"before": shown(before), "after": shown(wanted)},
    )


if __name__ == "__main__":
    main()
