"""What roles refuse, and what they say: on this machine, in check mode, so nothing is changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from superset_fleet.control.ask import ROOT


def role(name: str, tasks: str, **variables: Any) -> tuple[int, str]:
    """Run some tasks of a role; return the exit status and what was said."""
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "--check"]
    command += ["--inventory", "localhost,", "--connection", "local"]
    command += ["--module-name", "ansible.builtin.include_role"]
    command += ["--args", json.dumps({"name": name, "tasks_from": tasks})]
    command += ["--extra-vars", json.dumps(variables)]
    known = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_INVENTORY_ENABLED": "host_list"}
    done = subprocess.run(command, env=os.environ | known, capture_output=True, text=True)
    return done.returncode, re.sub(r"\s+", " ", done.stdout)


def test_a_disk_without_room_is_refused() -> None:
    status, said = role("common", "main", common_free_disk_mb=10_000_000)
    assert status != 0
    assert "fewer than the 10000000 MB of common_free_disk_mb" in said


def test_a_disk_with_room_is_not() -> None:
    status, said = role("common", "main", common_free_disk_mb=1)
    assert status == 0, said


@pytest.mark.parametrize(
    ("instance", "policy"),
    [("coordination", "allkeys-lru"), ("results", "allkeys-lru"), ("cache", "noeviction")],
)
def test_a_policy_that_does_not_fit_an_instance_of_redis_is_refused(
    instance: str, policy: str
) -> None:
    status, said = role("redis", "check", **{f"redis_{instance}_policy": policy})
    assert status != 0
    assert f"redis_{instance}_policy is {policy}, which does not fit {instance}" in said
    assert said.count("does not fit") == 1


def test_ceilings_that_the_memory_cannot_hold_are_refused() -> None:
    status, said = role("redis", "check", redis_machine_memory_mb=1000)
    assert status != 0
    assert "Lower redis_coordination_memory_mb, redis_results_memory_mb" in said


def test_ceilings_that_the_memory_can_hold_are_not() -> None:
    status, said = role("redis", "check", redis_machine_memory_mb=1_000_000)
    assert status == 0, said
