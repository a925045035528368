"""What an upgrade does after a failure: go back to the image before, or say why it does not.

It is the last play of upgrade.yml as it stands, in a fleet without machines: there is nobody whom
the canary could ask, so it fails, each time.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.localcloud.conftest import ROOT, LocalCloud

FLEET = "going-back"
PROFILE = f"{FLEET}-us-east-1-superset_web"
MIGRATED = {"migrated_from": "0123abcd", "migrated_at": "2026-01-02T03:04:05Z"}


class Images:
    """Images of the fleet, which have no file systems."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.ec2 = cloud.ec2
        self.base = cloud.base()
        self.made: list[str] = []

    def make(self, **tags: str) -> str:
        """Make the newest image."""
        copy = {"SourceImageId": self.base, "SourceRegion": "us-east-1"}
        name = f"{FLEET}-{len(self.made)}"
        self.made.append(str(self.ec2.copy_image(**copy, Name=name)["ImageId"]))
        self.tag(self.made[-1], fleet=FLEET, kind="superset", **tags)
        return self.made[-1]

    def tag(self, image: str, **tags: str) -> None:
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        self.ec2.create_tags(Resources=[image], Tags=pairs)

    def tags(self, image: str) -> dict[str, str]:
        (found,) = self.ec2.describe_images(ImageIds=[image])["Images"]
        return {tag["Key"]: tag["Value"] for tag in found["Tags"]}

    def wanted(self) -> set[str]:
        """The images that the fleet's machines start from now."""
        found = self.ec2.describe_launch_template_versions(
            LaunchTemplateName=f"{FLEET}-superset_web", Versions=["$Default"]
        )["LaunchTemplateVersions"]
        return {version["LaunchTemplateData"]["ImageId"] for version in found}

    def remove(self) -> None:
        for image in self.made:
            self.ec2.deregister_image(ImageId=image)


@pytest.fixture
def images(cloud: LocalCloud) -> Iterator[Images]:
    cloud.ec2.create_tags(Resources=cloud.subnets, Tags=[{"Key": "fleet", "Value": FLEET}])
    cloud.iam.create_instance_profile(InstanceProfileName=PROFILE)
    group = cloud.ec2.create_security_group(GroupName=FLEET, Description="-")["GroupId"]
    tags = [{"Key": "fleet", "Value": FLEET}, {"Key": "role", "Value": "superset_web"}]
    cloud.ec2.create_tags(Resources=[group], Tags=tags)
    images = Images(cloud)
    yield images
    images.remove()
    cloud.ec2.delete_security_group(GroupId=group)
    cloud.iam.delete_instance_profile(InstanceProfileName=PROFILE)


@pytest.fixture
def fail(cloud: LocalCloud, tmp_path: Path) -> Any:
    """Let an upgrade to the newest image fail, and return what is said."""
    playbooks = tmp_path / "playbooks"
    playbooks.mkdir()
    (playbooks / "tasks").symlink_to(ROOT / "playbooks" / "tasks")
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "group_vars").symlink_to(ROOT / "inventory" / "group_vars")
    inventory = tmp_path / "inventory" / "here.yml"
    # As the plugin asg has it.
    here = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    local = {"hosts": {"localhost": here}}
    cloud_group = {"children": {"local": local}}
    inventory.write_text(yaml.safe_dump({"all": {"children": {"cloud": cloud_group}}}))
    playbook = playbooks / "last.yml"
    plays = yaml.safe_load((ROOT / "playbooks" / "upgrade.yml").read_text())
    playbook.write_text(yaml.safe_dump(plays[-1:]))

    def run(**variables: Any) -> str:
        variables |= {
            "fleet_name": FLEET,
            "fleet_region": "us-east-1",
            "fleet_environment": "local",
            "fleet_groups": {"superset_web": {"min": 0, "desired": 0, "max": 1}},
            "fleet_aws_config_file": str(cloud.cloud.aws_config),
            "upgrade_needed": True,
            "upgrade_groups": [],
            "haproxy_machines": ["localhost"],
            "haproxy_ca_certificate": "",
            "superset_url": "http://127.0.0.1:9",  # nobody is there
            "superset_admin_password": "none",
            "canary_database": "none",
        }
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(playbook)]
        command += ["--inventory", str(inventory), "--extra-vars", json.dumps(variables)]
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        print(done.stdout, done.stderr)
        assert done.returncode != 0
        assert "canary_query" in done.stdout
        return re.sub(r"\s+", " ", done.stdout)

    return run


def test_a_release_that_fails_is_rejected_and_machines_start_from_the_one_before(
    images: Images, fail: Any
) -> None:
    before, failed = images.make(), images.make()
    fail()
    assert images.tags(failed)["kind"] == "rejected"
    assert images.tags(before)["kind"] == "superset"
    assert images.tags(before)["proven"] == "true"
    assert images.wanted() == {before}


def test_where_migrations_ran_nothing_goes_back_by_itself(images: Images, fail: Any) -> None:
    before, failed = images.make(), images.make(**MIGRATED)
    said = fail()
    assert f"Nothing is rolled back: {failed} has migrated" in said
    assert "from revision 0123abcd at 2026-01-02T03:04:05Z" in said
    assert f"{before} may not work with it" in said
    assert "would lose all that was saved since" in said
    assert images.tags(failed)["kind"] == "superset"
    assert images.wanted() == {failed}


def test_where_the_schema_is_said_to_be_compatible_it_does(images: Images, fail: Any) -> None:
    before, failed = images.make(), images.make(**MIGRATED)
    fail(upgrade_schema_compatible=True)
    assert images.tags(failed)["kind"] == "rejected"
    assert images.wanted() == {before}


def test_an_image_that_worked_before_is_not_rejected(images: Images, fail: Any) -> None:
    images.make()
    failed = images.make(proven="true")
    said = fail()
    assert f"{failed} is an image with which the fleet worked before" in said
    assert images.tags(failed)["kind"] == "superset"
    assert images.wanted() == {failed}


def test_the_first_image_has_none_before_it(images: Images, fail: Any) -> None:
    failed = images.make()
    assert f"There is no image before {failed}" in fail()
    assert images.tags(failed)["kind"] == "superset"
