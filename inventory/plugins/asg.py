"""Inventory plugin `asg`: the instances of the fleet, in groups by role, state and zone."""

from __future__ import annotations

DOCUMENTATION = r"""
name: asg
short_description: The fleet's instances, from AWS auto-scaling groups and plain instances
description:
  - Reads the auto-scaling groups that carry the tag C(fleet), fresh on every run, and the plain
    instances that carry the tags C(fleet) and C(role).
  - Hosts are named by instance id and have the variables C(ansible_host), C(private_address),
    C(zone) and, for members of auto-scaling groups, C(lifecycle_state).
  - The group of a role holds the instances that can take work, which is in service and healthy.
    A role that has an auto-scaling group consists of that group's members; an instance that
    only carries the tag is not in it. The instances of the other roles are plain ones.
  - The group C(fleet) is the parent of the groups of roles: all instances that can take work.
  - The other groups are C(asg_<name>) (all members), C(in_service), C(pending), C(terminating)
    and C(standby) (lifecycle), C(unhealthy), C(zone_<zone>), and C(cloud) with its child, the
    name of the environment, for the variables that all machines of a cloud share.
  - C(localhost), the control machine, is in the environment's group, so that plays on it know these
    variables too. It is in no group of a role.
  - The group C(all) gets the variables C(fleet_environment), C(fleet_name), C(fleet_region),
    with O(config_file) C(fleet_aws_config_file), and with O(private_key_file)
    C(ansible_ssh_private_key_file).
  - The address of an instance never changes, so it is asked for once and kept. When all
    members are known, a run makes two API calls.
  - A region that cannot be read stops the run. There is never a silently shorter inventory.
notes:
  - Needs the permissions C(autoscaling:DescribeAutoScalingGroups) and C(ec2:DescribeInstances).
  - Credentials, retries and endpoints are those of the AWS configuration (C(AWS_PROFILE),
    C(AWS_MAX_ATTEMPTS) and so on).
options:
  plugin:
    description: Has to be V(asg). The name of the file has to end in C(.asg.yml).
    type: str
    required: true
    choices: [asg]
  regions:
    description:
      - Regions to read, all at the same time. The first one becomes C(fleet_region).
      - None means the region of the AWS configuration.
    type: list
    elements: str
    default: []
  fleet:
    description: Name of the fleet, the value of the tag C(fleet).
    type: str
    default: superset
  environment:
    description: Name of the group, below the group C(cloud), that every instance is in.
    type: str
    default: aws
  roles:
    description:
      - The groups that always exist, empty or not.
      - Plain instances are looked for in these roles.
      - None means the roles of the package, C(superset_fleet.roles).
    type: list
    elements: str
    default: []
  profile:
    description:
      - Profile of the AWS configuration, for the inventory alone.
      - What the plays do on AWS goes by C(AWS_PROFILE), and so does the inventory without this.
    type: str
  config_file:
    description:
      - AWS configuration file, relative to the inventory source. Credentials and endpoint
        then come from this file alone.
    type: str
  private_key_file:
    description:
      - Private key of the fleet's key pair, relative to the inventory source. It becomes
        C(ansible_ssh_private_key_file).
    type: str
  endpoint_url:
    description: Where the API is, when it is not at AWS.
    type: str
  cache_path:
    description: Directory, relative to the inventory source, for the last answer of each region.
    type: str
    default: ~/.cache/superset-fleet
  on_failure:
    description:
      - What to do when a region cannot be read.
      - V(last_good) takes what that region said last, with a warning. Where there is
        no such answer it is an error all the same.
    type: str
    choices: [error, last_good]
    default: error
"""

EXAMPLES = r"""
# production.asg.yml: two regions, credentials as usual (AWS_PROFILE, instance profile, ...)
plugin: asg
environment: aws
fleet: superset
regions: [eu-central-1, eu-west-1]
---
# staging.asg.yml: keep working with what was last seen while the API is throttled
plugin: asg
environment: staging
profile: staging
regions: [eu-central-1]
on_failure: last_good
---
# local.asg.yml: a cloud on this machine
plugin: asg
environment: local
regions: [us-east-1]
config_file: ../.localcloud/aws.ini
private_key_file: ../.localcloud/id_ed25519
cache_path: ../.localcloud/inventory
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import constants as C
from ansible.errors import AnsibleError, AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.template import trust_as_template

if TYPE_CHECKING:
    from superset_fleet.cloud.discovery import Answer, Instance

STATES = ("in_service", "pending", "standby", "terminating", "unhealthy")


def groups_of(instance: Instance) -> list[str]:
    """Return the groups that an instance is in."""
    groups = [instance.lifecycle, f"zone_{safe(instance.zone)}"]
    if instance.group:
        groups.append(f"asg_{safe(instance.group)}")
    if not instance.healthy:
        groups.append("unhealthy")
    if instance.able:
        groups.append(safe(instance.role))
    return groups


def variables_of(instance: Instance) -> dict[str, str]:
    """Return the variables of an instance."""
    variables = {
        "ansible_host": instance.address,
        "private_address": instance.address,
        "zone": instance.zone,
    }
    if instance.group:
        variables["lifecycle_state"] = instance.state
    return variables


@cache
def safe(name: str) -> str:
    """Return a name as Ansible wants a group to be named."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]
    """The plugin."""

    NAME = "asg"

    def verify_file(self, path: str) -> bool:
        """Accept files named *.asg.yml only."""
        return bool(super().verify_file(path)) and path.endswith(".asg.yml")

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory, or stop the run with one error."""
        super().parse(inventory, loader, path, cache)
        try:
            self.read_options(path)
            answers = self.discover(path)
        except AnsibleError as error:
            if not C.INVENTORY_ANY_UNPARSED_IS_FAILED:
                raise  # as its users want it; ansible-lint does
            # Raised on, it would be a warning: Ansible would offer the source to the next plugin
            # and stop with that one's complaint. Nothing else can read this source.
            self.display.error(f"{path}: {error}")
            raise SystemExit(1) from None
        for answer in answers:
            for warning in answer.warnings:
                self.display.warning(f"region {answer.region}: {warning}")
        self.fill(answers, path)

    def discover(self, path: str) -> list[Answer]:
        """Ask AWS."""
        try:
            import superset_fleet.control.parameters  # noqa: F401  (the lookup `secret` shares it by fork)
            from superset_fleet.cloud.client import AwsError
            from superset_fleet.cloud.discovery import Cloud, discover
            from superset_fleet.roles import ROLES
        except ImportError as error:
            raise AnsibleParserError(f"{error}: run ./fleet, it makes the environment") from None
        self.roles = self.get_option("roles") or [*ROLES]
        cloud = Cloud(
            regions=self.get_option("regions"),
            fleet=self.get_option("fleet"),
            roles=self.roles,
            endpoint_url=self.get_option("endpoint_url"),
            config_file=self.path("config_file", path),
            profile=self.get_option("profile"),
        )
        cache_path = self.path("cache_path", path)
        assert cache_path  # it has a default
        try:
            answers: list[Answer] = discover(
                cloud, cache_path, self.get_option("on_failure") == "last_good"
            )
        except AwsError as error:
            raise AnsibleParserError(str(error)) from None
        return answers

    def read_options(self, path: str) -> None:
        """Read the inventory source; a mistyped option is an error."""
        config = self._read_config_data(path)
        unknown = sorted(set(config) - set(self._options))
        if unknown:
            raise AnsibleParserError(
                f"no such option: {', '.join(unknown)}; "
                f"the options are {', '.join(sorted(self._options))}"
            )

    def path(self, option: str, source: str) -> Path | None:
        """Return an option that names a path, relative to the inventory source, as absolute."""
        value = self.get_option(option)
        return (Path(source).parent / Path(value).expanduser()).resolve() if value else None

    def fill(self, answers: list[Answer], path: str) -> None:
        """Hand hosts, groups and variables to Ansible."""
        inventory = self.inventory
        environment = self.get_option("environment")
        roles = {*map(safe, self.roles)}
        groups = {*roles, *STATES, "fleet", "cloud", environment}
        for answer in answers:
            groups.update(*map(groups_of, answer.instances))
        for group in sorted(groups):
            inventory.add_group(group)
        inventory.add_child("cloud", environment)
        for role in sorted(roles):
            inventory.add_child("fleet", role)

        def give(entity: str, name: str, value: str) -> None:
            # These are addresses, zones, states and our own options, no text of strangers.
            # Untrusted strings are dictionaries in `ansible-inventory --list`, which others read.
            inventory.set_variable(entity, name, trust_as_template(value))

        inventory.add_host("localhost", group=environment)
        give("localhost", "ansible_connection", "local")
        # As Ansible's own localhost has it, which this takes the place of.
        give("localhost", "ansible_python_interpreter", "{{ ansible_playbook_python }}")
        give("all", "fleet_environment", environment)
        give("all", "fleet_name", self.get_option("fleet"))
        give("all", "fleet_region", answers[0].region)
        if config_file := self.path("config_file", path):
            give("all", "fleet_aws_config_file", str(config_file))
        if private_key_file := self.path("private_key_file", path):
            give("all", "ansible_ssh_private_key_file", str(private_key_file))
        for answer in answers:
            for instance in answer.instances:
                inventory.add_host(instance.id, group=environment)
                for group in groups_of(instance):
                    inventory.add_child(group, instance.id)
                for name, value in variables_of(instance).items():
                    give(instance.id, name, value)
