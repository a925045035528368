"""A release goes round while users work, and a bad one goes back. Each test goes on from the last.

A release is an image whose overrides differ: the name of the application, which the login shows.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from shared import machines
from shared.fleet import play
from shared.load import Load, pages

from superset_fleet.ansible import ROOT

Upgrade = Callable[..., tuple[int, str]]

GOOD = "APP_NAME = 'Release two'\n"
# Its web machines answer, but hand no query to a worker.
BAD = """\
import os

APP_NAME = "Release three"
if os.environ.get("SUPERSET_SERVICE") == "superset_web":
    RESULTS_BACKEND = None
"""
SCALING = ("superset_web", "celery_worker", "scheduler")
NOT_ROLLED_BACK = "Nothing is rolled back"


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
        status, said = play("upgrade", variables, *arguments)
        print(said)
        return status, re.sub(r"\s+", " ", said)

    return run


def there(group: str = ":".join(SCALING)) -> set[str]:
    """Return the instances of groups that can take work."""
    return {machine.name for machine in machines.find(group)}


def releases(group: str = ":".join(SCALING)) -> set[str]:
    """Return the releases that a group's machines have."""
    command = 'grep -oP "(?<=APP_NAME = .)[^\\"\']*" /etc/superset/superset_config_overrides.py'
    return {machine.run(command, check=False) for machine in machines.find(group)}


def image_kinds(cloud: Any) -> list[str]:
    """Return the kinds of the fleet's images, the oldest first."""
    found = cloud.describe_images(Filters=[{"Name": "tag-key", "Values": ["kind"]}])["Images"]
    found.sort(key=lambda image: image["CreationDate"])
    return [tag["Value"] for image in found for tag in image["Tags"] if tag["Key"] == "kind"]


def test_check_mode_tells_what_would_be_replaced_and_replaces_nothing(upgrade: Upgrade) -> None:
    before = there()
    status, said = upgrade(GOOD, "--check")
    assert status == 0, said
    assert before <= set(re.findall(r"i-[0-9a-f]{17}", said))
    assert there() == before


def test_a_release_goes_round_and_no_request_fails(upgrade: Upgrade) -> None:
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


def test_once_all_have_it_nothing_is_done(upgrade: Upgrade) -> None:
    before = there()
    status, said = upgrade(GOOD)
    assert status == 0, said
    assert not re.search(r"changed=[1-9]", said)
    assert there() == before


def test_a_release_whose_canary_fails_goes_back_by_itself(upgrade: Upgrade, cloud: Any) -> None:
    size = len(there())
    status, said = upgrade(BAD, upgrade_groups=["superset_web"])
    assert status != 0
    assert "The fleet is back at" in said
    assert releases() == {"Release two"}
    assert len(there()) == size
    assert image_kinds(cloud)[-1] == "rejected"


def test_a_rejected_release_is_not_tried_again_by_itself(upgrade: Upgrade) -> None:
    status, said = upgrade(BAD, upgrade_groups=["superset_web"])
    assert status == 0, said
    assert "an upgrade rejected it" in said
    assert releases() == {"Release two"}


def test_where_migrations_ran_nothing_goes_back_by_itself(upgrade: Upgrade, cloud: Any) -> None:
    """The schema is one revision behind, as if the release brought that one."""
    machines.find("scheduler")[0].run("superset-admin db downgrade", timeout=300)
    rejected = cloud.describe_images(Filters=[{"Name": "tag:kind", "Values": ["rejected"]}])
    again = [image["ImageId"] for image in rejected["Images"]]
    cloud.create_tags(Resources=again, Tags=[{"Key": "kind", "Value": "superset"}])
    status, said = upgrade(BAD, upgrade_groups=["superset_web"])
    assert status != 0
    assert NOT_ROLLED_BACK in said
    assert "would lose all that was saved since" in said
    assert "Release three" in releases("superset_web")


def test_where_the_schema_is_said_to_be_compatible_it_does(upgrade: Upgrade) -> None:
    status, said = upgrade(BAD, upgrade_groups=["superset_web"], upgrade_schema_compatible=True)
    assert status != 0
    assert "The fleet is back at" in said
    assert releases() == {"Release two"}
