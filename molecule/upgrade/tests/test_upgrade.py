"""A release goes round while users work, and a bad one goes back. Each test goes on from the last.

A release is an image whose overrides differ: the name of the application, which the login shows.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from superset_fleet.control.ask import ROOT
from superset_fleet.roles import SCALED
from tests.support.deployed import machines
from tests.support.deployed.fleet import play
from tests.support.deployed.load import Load, pages

Upgrade = Callable[..., tuple[int, str]]

GOOD = "APP_NAME = 'Release two'\n"
# Its web machines answer, but hand no query to a worker.
BAD = """\
import os

APP_NAME = "Release three"
if os.environ.get("SUPERSET_SERVICE") == "superset_web":
    RESULTS_BACKEND = None
"""


@pytest.fixture(scope="module")
def cloud() -> Any:
    """EC2 of the local cloud."""
    os.environ["AWS_CONFIG_FILE"] = str(ROOT / ".localcloud/aws.ini")
    return boto3.Session().client("ec2")


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Upgrade:
    """Upgrade to a release as an operator does; return the exit status and what was said."""
    directory = tmp_path_factory.mktemp("releases")

    def run(overrides: str, *arguments: str, **variables: Any) -> tuple[int, str]:
        path = directory / "overrides.py"
        path.write_text(overrides)
        variables["superset_config_overrides"] = str(path)
        variables["fleet_image_parent"] = "newest"  # from the base is how the fleet was made
        status, said = play("upgrade", variables, *arguments)
        print(said)
        return status, re.sub(r"\s+", " ", said)

    return run


def there(group: str = ":".join(SCALED)) -> set[str]:
    """Return the instances of groups that can take work."""
    return {machine.name for machine in machines.find(group)}


def releases(group: str = ":".join(SCALED)) -> set[str]:
    """Return the releases that a group's machines have."""
    command = 'grep -oP "(?<=APP_NAME = .)[^\\"\']*" /etc/superset/superset_config_overrides.py'
    return {machine.run(command, check=False) for machine in machines.find(group)}


def images(cloud: Any) -> list[dict[str, str]]:
    """Return the tags of the fleet's images, the oldest first."""
    found = cloud.describe_images(Filters=[{"Name": "tag-key", "Values": ["kind"]}])["Images"]
    found.sort(key=lambda image: image["CreationDate"])
    return [{tag["Key"]: tag["Value"] for tag in image["Tags"]} for image in found]


def test_check_mode_tells_what_would_be_replaced_and_replaces_nothing(upgrade: Upgrade) -> None:
    before = there()
    status, said = upgrade(GOOD, "--check")
    assert status == 0, said
    assert before <= set(re.findall(r"i-[0-9a-f]{17}", said))
    assert there() == before


def test_a_release_with_a_migration_goes_round_and_no_request_fails(
    upgrade: Upgrade, cloud: Any
) -> None:
    """The schema is one revision behind, as if the release brought that one."""
    machines.find("scheduler")[0].run("superset-admin db downgrade", timeout=300)
    facts = machines.facts()
    url, authority = facts["superset_url"], facts["haproxy_ca_certificate"]
    before = there()
    with Load(url, authority, pages(url, authority), rate=10) as load:
        status, said = upgrade(GOOD)
        load.more(100)
    assert status == 0, said
    assert not load.failed, load.report()
    assert releases() == {"Release two"}
    assert not there() & before
    assert len(there()) == len(before)
    newest = images(cloud)[-1]
    assert newest["proven"] == "true"
    assert {"migrated_from", "migrated_at"} <= newest.keys()


def test_a_release_whose_canary_fails_goes_back_by_itself(upgrade: Upgrade, cloud: Any) -> None:
    size = len(there())
    status, said = upgrade(BAD, upgrade_groups=["superset_web"])
    assert status != 0
    assert "The fleet is back at" in said
    assert releases() == {"Release two"}
    assert len(there()) == size
    assert images(cloud)[-1]["kind"] == "rejected"


@pytest.mark.parametrize("release", [GOOD, BAD], ids=["that all have", "that was rejected"])
def test_for_a_release_that_was_tried_no_image_is_made_and_nothing_is_replaced(
    upgrade: Upgrade, cloud: Any, release: str
) -> None:
    before, known = there(), images(cloud)
    status, said = upgrade(release)
    assert status == 0, said
    assert not re.search(r"changed=[1-9]", said)
    assert ("an upgrade rejected it" in said) == (release == BAD)
    assert (there(), images(cloud)) == (before, known)
