"""What `fleet status` shows of a fleet that is well, and of one that is not."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from superset_fleet.control.ask import ROOT
from tests.support.deployed.fleet import Fleet, operator, wait


def status(*options: str) -> subprocess.CompletedProcess[str]:
    """Run `fleet status` as an operator does."""
    command = [str(ROOT / "fleet"), "status", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def left_alone() -> Iterator[None]:
    """Nobody holds the scaler, as this scenario does otherwise."""
    operator("scale", "--release")
    wait("the scaler has seen it", lambda: "not done" not in operator("scale")[1])
    yield
    operator("scale", "--hold", "scenario site")


def test_of_a_fleet_that_is_well_nothing_needs_a_look(left_alone: None) -> None:
    shown = status()
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert [line for line in shown.stdout.splitlines() if line.startswith("!")] == []


def test_programs_get_every_machine_with_its_release() -> None:
    said = json.loads(status("--json").stdout)
    roles = Counter(one["role"] for one in said["instances"])
    scaling: Counter[str] = Counter()
    for group in said["groups"]:
        scaling[group["role"]] += group["in_service"]
    assert scaling.total()
    assert scaling.items() <= roles.items()
    assert {"haproxy", "redis", "postgres"} <= roles.keys()
    assert all(one["version"] for one in said["instances"] if one["group"])


def test_who_does_not_answer_is_named_and_the_rest_is_shown(fleet: Fleet) -> None:
    with fleet.one("haproxy").without("haproxy"):
        shown = status()
    assert shown.returncode == 1
    assert "! not known: HAProxy on" in shown.stdout
    assert "slots busy" in shown.stdout
