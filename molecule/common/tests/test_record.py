"""What a machine says of itself: from what each of its roles was installed."""

import json
import re

import pytest

from superset_fleet.roles import ROLES
from tests.support.deployed.fleet import play
from tests.support.deployed.machines import Machine, find

RECORD = "/etc/fleet/installed.json"
JOURNAL = "/etc/systemd/journald.conf.d/fleet.conf"


def record(machine: Machine) -> dict[str, str]:
    """Return what a machine says."""
    return dict(json.loads(machine.run(f"cat {RECORD}")))


@pytest.fixture(scope="module")
def machines() -> dict[str, Machine]:
    """One machine of each group."""
    return {machine.group: machine for machine in find()}


@pytest.fixture
def redis(machines: dict[str, Machine]) -> Machine:
    """The machine of Redis."""
    return machines["redis"]


@pytest.mark.parametrize("group", ROLES)
def test_a_machine_says_from_what_its_roles_were_installed(
    machines: dict[str, Machine], group: str
) -> None:
    known = record(machines[group])
    assert {"common", group} <= known.keys()
    assert [
        role for role, source in known.items() if not re.fullmatch("[0-9a-f]{40}", source)
    ] == []


def test_it_is_taken_at_its_word_and_what_somebody_changed_is_mended_when_asked_to(
    redis: Machine,
) -> None:
    before = redis.run(f"cat {JOURNAL}")
    redis.run(f"sed -i s/500M/400M/ {JOURNAL}")
    status, said = play("redis", {})
    assert status == 0, said
    assert "changed=0" in said
    status, said = play("redis", {"fleet_check_installed": True})
    assert status == 0, said
    assert redis.run(f"cat {JOURNAL}") == before


def test_what_was_installed_only_halfway_is_installed_again(redis: Machine) -> None:
    before = record(redis)
    redis.run(f"sed -i 's/{before['redis']}//' {RECORD}; rm /etc/sysctl.d/60-redis.conf")
    status, said = play("redis", {})
    assert status == 0, said
    redis.run("test -s /etc/sysctl.d/60-redis.conf")
    assert record(redis) == before
