"""Fixtures shared by the tests of every scenario."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

from superset_fleet.ansible import template


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
