"""The fleet's auto-scaling groups, which have their sizes of before in the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.deployed import machines
from tests.support.deployed.fleet import Fleet, observed
from tests.support.deployed.groups import Group
from tests.support.deployed.machines import Machine


class Journal:
    """What a machine's agent says; its last words may be lost with the machine."""

    def __init__(self, machine: Machine) -> None:
        command = [*machine.ssh, "sudo journalctl --follow --output cat --unit fleet-agent"]
        self._follows = subprocess.Popen(
            command,
            # ssh would leave ours non-blocking, and Ansible refuses that.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._text = b""
        assert self._follows.stdout
        os.set_blocking(self._follows.stdout.fileno(), False)

    @property
    def text(self) -> str:
        assert self._follows.stdout
        self._text += self._follows.stdout.read() or b""
        return self._text.decode()

    def close(self) -> None:
        self._follows.kill()
        self._follows.wait()


@contextmanager
def following(machine: Machine) -> Iterator[Journal]:
    journal = Journal(machine)
    try:
        yield journal
    finally:
        journal.close()


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    return machines.facts()


@pytest.fixture(scope="session")
def groups(facts: dict[str, Any]) -> Iterator[dict[str, Group]]:
    made = {role: Group(role) for role in facts["fleet_groups"]}
    yield made
    for group in made.values():
        group.restore()


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The fleet, whose metadata database writes down every change of a query's state."""
    with observed() as fleet:
        yield fleet


@pytest.fixture(scope="session")
def workers(groups: dict[str, Group]) -> Group:
    return groups["celery_worker"]


@pytest.fixture(scope="session")
def web(groups: dict[str, Group]) -> Group:
    return groups["superset_web"]
