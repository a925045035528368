"""The fleet as its users see it: through the load balancer's address, as admin."""

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml
from support import Ask, PlainFleet, Play, Query

from superset_fleet.control.ask import ROOT, run_module, template
from tests.support.deployed.fleet import Fleet

# Two machines carry all six roles: a fleet of the smallest size.
ROLES = {"state": ["haproxy", "postgres", "redis"], "work": ["superset_web", "celery_worker"]}


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """Variables of the fleet, as a play on the load balancer sees them."""
    names = "q('ansible.builtin.varnames', '^(haproxy|superset|postgres|redis|fleet)_')"
    seen = template("haproxy[0]", f"dict({names} | zip(q('ansible.builtin.vars', *{names})))")
    return dict(next(iter(seen.values())))


@pytest.fixture(scope="session")
def authority(facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the certificate authority that a user's browser trusts."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(facts["haproxy_ca_certificate"])
    return str(path)


@pytest.fixture
def stranger(facts: dict[str, Any], authority: str) -> Iterator[requests.Session]:
    """A browser that is not logged in; paths are relative to Superset's address."""
    with requests.Session() as session:
        session.verify = authority
        session.trust_env = False
        yield session


@pytest.fixture
def url(facts: dict[str, Any]) -> str:
    """Superset's address."""
    return str(facts["superset_url"])


@pytest.fixture
def health(stranger: requests.Session, url: str) -> Ask:
    """Ask for the state of queues as anybody may."""

    def ask(**question: Any) -> requests.Response:
        return stranger.get(f"{url}/fleet/health", params=question, timeout=30)

    return ask


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The fleet's machines."""
    return Fleet()


@pytest.fixture(scope="session")
def query() -> Query:
    """Run SQL as a user does, asynchronously through the load balancer."""

    def run(sql: str) -> dict[str, Any]:
        options = {
            "url": "{{ superset_url }}",
            "password": "{{ superset_admin_password }}",
            "ca_certificate": "{{ haproxy_ca_certificate }}",
            "database": "warehouse",
            "sql": sql,
            "timeout": 120,
        }
        return next(iter(run_module("haproxy[0]", "superset_query", options).values()))

    return run


@pytest.fixture(scope="session")
def together() -> Callable[[Query, list[str]], list[dict[str, Any]]]:
    """Run several queries at the same time."""

    def run(query: Query, statements: list[str]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(statements)) as pool:
            return list(pool.map(query, statements))

    return run


@pytest.fixture(scope="session")
def play() -> Play:
    """Run a playbook as an operator does; its output is in `stdout`."""

    def run(playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ansible-playbook", f"playbooks/{playbook}.yml", *arguments]
        return subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return run


@pytest.fixture(scope="session")
def plain_machines() -> Iterator[dict[str, str]]:
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


@pytest.fixture(scope="session")
def static_inventory(
    plain_machines: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A static inventory of these machines, with secrets as an operator writes them."""
    hosts = {
        name: {"ansible_host": address, "private_address": address}
        for name, address in plain_machines.items()
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


@pytest.fixture(scope="session", autouse=True)
def plain_fleet(request: pytest.FixtureRequest) -> Iterator[PlainFleet | None]:
    """The fleet on these machines. Its first deployment goes on while other tests run."""
    if not any("test_plain_vms" in item.nodeid for item in request.session.items):
        yield None
        return
    inventory: Path = request.getfixturevalue("static_inventory")
    with PlainFleet(inventory) as fleet:
        yield fleet
