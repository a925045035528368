"""The fleet as its users see it: through the load balancer's address, as admin."""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from support import Ask, Play, Query

from superset_fleet.control.ask import ROOT, run_module, template
from tests.support.deployed.fleet import Fleet


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
