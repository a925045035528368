"""Machines that no plugin discovered: the same playbooks from a static inventory."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from support import Play

from superset_fleet.control.ask import ROOT

# Two machines carry all six roles: a fleet of the smallest size.
ROLES = {"state": ["haproxy", "postgres", "redis"], "work": ["superset_web", "celery_worker"]}


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, str]]:
    """Addresses of fresh machines that carry no tag of the fleet, by name."""
    os.environ["AWS_CONFIG_FILE"] = str(ROOT / ".localcloud/aws.ini")
    ec2 = boto3.Session().resource("ec2")
    (image,) = ec2.images.filter(
        Owners=["self"], Filters=[{"Name": "tag:name", "Values": ["debian-12"]}]
    )
    subnet = next(iter(ec2.subnets.filter(Filters=[{"Name": "tag:fleet", "Values": ["superset"]}])))
    made = subnet.create_instances(
        ImageId=image.id, KeyName="superset", MinCount=len(ROLES), MaxCount=len(ROLES)
    )
    yield dict(zip(ROLES, (machine.private_ip_address for machine in made), strict=True))
    for machine in made:
        machine.terminate()


@pytest.fixture(scope="module")
def inventory(machines: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static inventory of these machines, with secrets as an operator writes them."""
    hosts = {
        name: {"ansible_host": address, "private_address": address}
        for name, address in machines.items()
    }
    groups: dict[str, Any] = {
        role: {"hosts": {name: {}}} for name, roles in ROLES.items() for role in roles
    }
    groups["scheduler"] = {"hosts": {"work": {}}}
    children = {"fleet": {"children": groups}}
    names = [
        "haproxy_stats_password",
        "redis_cache_password",
        "redis_coordination_password",
        "redis_results_password",
        "superset_admin_password",
        "superset_database_password",
        "superset_secret_key",
        "warehouse_password",
    ]
    variables = {f"vault_{name}": secrets.token_hex(24) for name in names}
    variables |= {"vault_haproxy_certificate": "", "vault_haproxy_ca_certificate": ""}
    variables |= {
        "ansible_user": "admin",
        "ansible_ssh_private_key_file": str(ROOT / ".localcloud/id_ed25519"),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
    }
    path = tmp_path_factory.mktemp("inventory") / "static.yml"
    path.touch(mode=0o600)
    path.write_text(
        yaml.safe_dump({"all": {"hosts": hosts, "vars": variables, "children": children}})
    )
    # Ansible reads group_vars beside the source.
    (path.parent / "group_vars").symlink_to(ROOT / "inventory/group_vars")
    return path


def test_the_same_playbook_makes_a_fleet_that_answers_asynchronous_queries(
    play: Play, inventory: Path
) -> None:
    first = play("site", "--inventory", str(inventory))
    assert first.returncode == 0, first.stdout
    second = play("site", "--inventory", str(inventory))
    assert second.returncode == 0, second.stdout
    assert {part for part in second.stdout.split() if part.startswith("changed=")} == {"changed=0"}
