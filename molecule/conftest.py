"""Fixtures shared by the tests of every scenario."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from superset_fleet.control.ask import template
from tests.support.deployed.fleet import operator


@functools.cache
def facts_of(hosts: str) -> dict[str, Any]:
    """Return every variable of the fleet's roles as plays on a host see it."""
    prefix = "^(celery|haproxy|postgres|private|redis|scheduler|superset|warehouse)_"
    names = f"q('ansible.builtin.varnames', '{prefix}')"
    return next(
        iter(template(hosts, f"dict({names} | zip(q('ansible.builtin.vars', *{names})))").values())
    )


@pytest.fixture
def fact(host: Host) -> Callable[[str], Any]:
    """Read a variable as a play on this host would see it."""
    return facts_of(host.backend.hostname).__getitem__


@pytest.fixture
def schedulers(request: pytest.FixtureRequest) -> list[Host]:
    """All machines of the group."""
    inventory = request.config.option.ansible_inventory
    hosts: list[Host] = testinfra.get_hosts(["ansible://scheduler"], ansible_inventory=inventory)
    return hosts


# Scenarios that count workers, or start and stop them themselves.
HELD = {"agent", "celery_worker", "faults", "site"}


@pytest.fixture(scope="session", autouse=True)
def scaler_is_held() -> Iterator[None]:
    """Let the scaler change no group's size in scenarios that do so themselves."""
    name = os.environ["MOLECULE_SCENARIO_NAME"]
    if name not in HELD:
        yield
        return
    status, said = operator("scale", "--hold", f"scenario {name}")
    assert status == 0, said
    yield
    operator("scale", "--release")
